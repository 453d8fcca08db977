"""Times each part of step `tokens`, and its memory, beside `datasets.map` with the same tokenizer.

The rows are of about 2,000 characters, made of the embedded ones: no two are near duplicates. Each
part runs in its own process, which has read the rows before, into a file. Processor time: with the
processes that the part starts. Memory: the most that the process held at once.

    python -m benchmarks.data --rows 1000 10000
"""

import argparse
import json
import random
import re
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from xft.config.sections import TokensConfig
from xft.data.preparation import contaminated, prepare
from xft.data.prompt_templates import encode_literally, make_template
from xft.data.row_files import read_files
from xft.data.tokenized_rows import open_tokens, tokenize_rows, write_tokens
from xft.data.tokenizers import load_tokenizer
from xft.data.unwanted_rows import Detector, find_exact, find_near, read_shipped

MODEL = Path(__file__).parents[1] / "resources" / "base"
INSTRUCTIONS = MODEL.with_name("instructions.jsonl")
CHARACTERS = 2_000
OPTIONS = TokensConfig(deduplicate="near")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    from benchmarks.timing import markdown_table  # imports torch, which the processes do not need

    head = ("part", "rows", "seconds", "of the processor", "rows a second of it", "peak MiB")
    print(markdown_table(head, []))
    with tempfile.TemporaryDirectory() as name:
        for count in args.rows:
            file = Path(name, f"{count}.jsonl")
            write_rows(file, count)
            for part in [part for part in PARTS if part.__name__ in args.parts]:
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    figures = pool.submit(measure, part, file).result()
                row = (part.__name__.replace("_", " "), f"{count:,}", *figures)
                print(f"| {' | '.join(row)} |", flush=True)


def measure(part, file: Path) -> list[str]:
    """A part's seconds, processor time, rows a second, and the memory of the process in MiB."""
    work, used, start = part(file), processor_seconds(), time.perf_counter()
    work()
    seconds, used = time.perf_counter() - start, processor_seconds() - used
    memory = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10
    return [f"{seconds:.1f}", f"{used:.1f}", f"{int(file.stem) / used:,.0f}", f"{memory:,.0f}"]


def processor_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def write_rows(file: Path, count: int) -> None:
    """Rows of parts of the embedded ones, with numbers in place of some words."""
    rng = random.Random(0)
    texts = [" ".join(json.loads(line).values()) for line in INSTRUCTIONS.open()]
    with file.open("w") as lines:
        for number in range(count):
            words = " ".join(rng.choices(texts, k=24))[:CHARACTERS].split(" ")
            for place in rng.sample(range(len(words)), len(words) // 20):
                words[place] = f"x{rng.randrange(10**6)}"
            row = {"instruction": f"Task {number}.", "response": " ".join(words)}
            lines.write(json.dumps(row) + "\n")


def read(file: Path):
    return partial(read_files, [file], OPTIONS)


def exact_duplicates(file: Path):
    return partial(find_exact, read(file)()[0])


def near_duplicates(file: Path):
    return partial(find_near, read(file)()[0])


def problems(file: Path):
    find, rows = detector().find, read(file)()[0]
    return lambda: list(contaminated(find, rows))


def tokenise(file: Path):
    tokenizer = load_tokenizer(MODEL)
    template = make_template(OPTIONS.template, tokenizer)
    return partial(tokenize_rows, read(file)()[0], tokenizer, template, OPTIONS.max_length)


def detector() -> Detector:
    return Detector([*read_shipped("humaneval"), *read_shipped("mbpp")])


def whole_step(file: Path):
    tokenizer, find = load_tokenizer(MODEL), detector().find

    def work() -> None:
        tokens, report = prepare([file], tokenizer, OPTIONS, find)
        known = report["data_sha256"], {}
        write_tokens(file.with_suffix(".tokens"), tokens, OPTIONS, MODEL, *known)

    return work


def start_of_training(file: Path):
    load_tokenizer(MODEL)  # imports what a training has imported
    return partial(open_tokens, file.with_suffix(".tokens"), MODEL)


def with_datasets(file: Path):
    """The rows' texts by `datasets.map`, in batches as its documents show, without a cache."""
    import datasets

    tokenizer = load_tokenizer(MODEL)
    rows = datasets.load_dataset("json", data_files=str(file), cache_dir=str(file.parent))["train"]

    def encode(batch: dict) -> dict:
        texts = map("\n".join, zip(batch["instruction"], batch["response"], strict=True))
        return {"input_ids": encode_literally(tokenizer, list(texts))}

    return partial(rows.map, encode, batched=True, remove_columns=rows.column_names)


PARTS = (
    *(read, exact_duplicates, near_duplicates, problems, tokenise),
    *(whole_step, start_of_training, with_datasets),
)

if __name__ == "__main__":
    main()
