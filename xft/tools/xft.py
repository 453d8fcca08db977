"""The command `xft`, with each tool as a subcommand."""

import argparse
import sys
from importlib import import_module
from importlib.metadata import distributions

from xft.cli import running

NAMES = "plan status report compare export push pull gc verify with-mixtures"
# A step has a module `report`, and no two files have the same name.
MODULES = {"report": "joint_report", "with-mixtures": "with_mixtures"}
TOOLS = {n: import_module(f"xft.tools.{MODULES.get(n, n)}") for n in NAMES.split()}


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
    version = next((found.version for found in distributions(name="xft-pipeline")), "from sources")
    parser.add_argument("--version", action="version", version=f"xft {version}")
    name = parser.parse_args(sys.argv[1:2] or ["--help"]).tool
    running.run(name, lambda _: TOOLS[name].main(sys.argv[2:]))


if __name__ == "__main__":
    main()
