"""Builds the emulated GPU for the torch of this environment: `python build.py FOLDER`.

The library has each call of CUDA that torch links to or looks for: those of the sources in `cuda`,
those of `without_effect.txt`, and for all others one that says its name and fails.
"""

import re
import subprocess
import sys
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "cuda"
LIBRARIES = ("torch_cuda", "torch_cuda_linalg", "c10_cuda", "torch_python", "torch_cpu")
DRIVER = "caffe2_nvrtc"
# The status of an unknown call, by the beginning of its name: "not supported", if there is such.
STATUS = {
    "__cuda": 801,
    "cuda": 801,
    "cublas": 15,
    "cudnn": 3000,
    "cufft": 16,
    "cusolver": 9,
    "cusparse": 10,
    "nccl": 5,
    "nvrtc": 11,
    "cu": 801,
}
CALLS = re.compile(f"({'|'.join(STATUS)})[A-Z]\\w+")
KEPT = re.compile(r"cu(File|pti)\w+")  # of libraries that need no GPU to be loaded
COMPILE = ("gcc", "-O1", "-Wall", "-Werror", "-fPIC")


def main() -> None:
    """Build the library, and name it as the driver's too."""
    folder = Path(sys.argv[1])
    installed = Path(torch.__file__).parent
    nvidia = installed.parent / "nvidia"
    options = [f"-I{nvidia / part / 'include'}" for part in ("cu13", "nccl")]
    options.append(f"-DARCHITECTURES={','.join(architectures())}")
    objects = [compiled(source, folder, *options) for source in SOURCES.glob("*.c")]
    wanted = calls_of(installed) - defined(objects)
    source = folder / "other_calls.c"
    source.write_text(written_calls(sorted(wanted)))
    objects.append(compiled(source, folder, *options, f"-I{SOURCES}"))
    library = folder / "libemulatedgpu.so"
    links = ("-lpthread", "-ldl", "-lrt")
    subprocess.run(["gcc", "-shared", "-o", library, *objects, *links], check=True)
    driver = folder / "libcuda.so.1"
    driver.unlink(missing_ok=True)
    driver.symlink_to(library.name)


def architectures() -> list[str]:
    """The compute capabilities that torch's kernels are compiled for, times 10, in order."""
    return sorted(re.findall(r"sm_(\d+)", torch._C._cuda_getArchFlags()), key=int)


def compiled(source: Path, folder: Path, *options: str) -> Path:
    """The object file of a source."""
    made = folder / f"{source.stem}.o"
    subprocess.run([*COMPILE, *options, "-c", source, "-o", made], check=True)
    return made


def calls_of(installed: Path) -> set[str]:
    """The calls of CUDA that torch's libraries lack, and those that it looks for by name."""
    files = [installed / "lib" / f"lib{name}.so" for name in (*LIBRARIES, DRIVER)]
    symbols = {name for file in files for name in listed("--undefined-only", file)}
    looked_for = (installed / "include" / "c10" / "cuda" / "driver_api.h").read_text()
    symbols |= set(re.findall(r"_\((cu\w+),", looked_for))
    return {name for name in symbols if CALLS.fullmatch(name) and not KEPT.fullmatch(name)}


def defined(objects: list[Path]) -> set[str]:
    """The functions of object files."""
    return {name for file in objects for name in listed("--defined-only", file)}


def listed(which: str, file: Path) -> set[str]:
    """The symbols that nm lists, without versions."""
    kinds = [] if file.suffix == ".o" else ["--dynamic"]
    done = subprocess.run(["nm", *kinds, which, file], check=True, capture_output=True, text=True)
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}


def written_calls(names: list[str]) -> str:
    """A source of calls without an effect, and of unknown ones."""
    lines = (SOURCES / "without_effect.txt").read_text().splitlines()
    without_effect = re.compile("|".join(line for line in lines if not line.startswith("#")))
    calls = []
    for name in names:
        body = "return 0;"
        if not without_effect.fullmatch(name):
            status = next(STATUS[start] for start in STATUS if name.startswith(start))
            body = f'tell_unknown("{name}"); return {status};'
        calls.append(f"int {name}(void) {{ {body} }}\n")
    return "void tell_unknown(const char *call);\n" + "".join(calls)


if __name__ == "__main__":
    main()
