"""The command `xft`, with each tool as a subcommand."""

import argparse
import sys
from importlib import import_module
from importlib.metadata import distributions

from xft.cli import running

# The modules of the tools. A step has a module `report`, and no two files have the same name.
MODULES = {
    "plan": "plan",
    "status": "status",
    "report": "joint_report",
    "compare": "compare",
    "export": "export",
    "push": "push",
    "pull": "pull",
    "gc": "gc",
    "verify": "verify",
    "with-mixtures": "with_mixtures",
}
TOOLS = {name: import_module(f"xft.tools.{module}") for name, module in MODULES.items()}


def main() -> None:
    """Run the tool that the command line names, with the arguments after its name."""
    summaries = (f"  {name:18}{tool.__doc__.splitlines()[0]}" for name, tool in TOOLS.items())
    parser = argparse.ArgumentParser(
        prog="xft",
        usage="xft TOOL ...",
        description="Tools for the XFT workflow. `xft TOOL --help` shows the arguments of a tool.",
        epilog="\n".join(["tools:", *summaries]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tool", choices=TOOLS, metavar="TOOL", help="One of the tools below.")
    versions = [installed.version for installed in distributions(name="xft-pipeline")]
    version = versions[0] if versions else "from sources"
    parser.add_argument("--version", action="version", version=f"xft {version}")
    name = parser.parse_args(sys.argv[1:2] or ["--help"]).tool
    running.run(name, lambda _: TOOLS[name].main(sys.argv[2:]))


if __name__ == "__main__":
    main()
