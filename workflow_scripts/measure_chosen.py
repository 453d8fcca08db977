"""Take a result of a method at its chosen setting: that of the model that step choose names.

The results of the other settings may be missing.
"""

import shutil

from xft.artifacts.manifest import CHOICE, find_faults, manifest_path, read_manifest
from xft.cli.step import Step, run
from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.common.progress import say


def main(argv: list[str] | None = None) -> None:
    step = Step("measure_chosen", __doc__)
    step.path("--choice", "FILE", "The choice, from step choose.")
    step.path(
        "--results", "FILE", "The result of each setting, in the order of the choice.", nargs="+"
    )
    step.output("--out", "FILE", "The result, JSON. It has the name of the one that is taken.")
    args = step.parse_args(argv)
    content = CHOICE.read(args.choice)
    settings = len(content["settings"])
    if settings != len(args.results):
        raise UserError(
            f"--results names {len(args.results)} files, but {args.choice} is about {settings} "
            "settings. Name a file for each, in the same order"
        )
    source = args.results[content["chosen"]["number"]]
    manifest = read_manifest(manifest_path(source))
    faults = find_faults(source, manifest)
    if faults:
        raise UserError(f"{source} does not fit its manifest: {'; '.join(faults)}. Make it again")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in manifest.files:
        shutil.copyfile(source.with_name(name), args.out.with_name(name))
    write_whole(manifest_path(args.out), manifest.to_json())
    say(f"the result of {content['chosen']['setting']}: {source}")


if __name__ == "__main__":
    run("measure_chosen", main)
