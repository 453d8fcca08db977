"""Make the embedded data, tokenizer and base model of this folder; see README.md."""

import argparse
import json
from pathlib import Path

from rows import instructions, problems

SEED = 2404
ROWS = 2600
PROBLEMS_PER_GROUP = 36


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_data(out: Path) -> None:
    """Write instructions.jsonl and problems.jsonl."""
    write_jsonl(out / "instructions.jsonl", instructions(ROWS, SEED))
    write_jsonl(out / "problems.jsonl", problems(PROBLEMS_PER_GROUP, SEED))


def make_tokenizer(out: Path) -> None:
    """Write the tokenizer into base/."""
    from base import train_tokenizer  # here, since the data need no torch

    train_tokenizer(SEED).save_pretrained(out / "base")


def make_base(out: Path) -> None:
    """Write the tokenizer and the pre-trained model into base/ (some minutes)."""
    from base import pretrain, train_tokenizer

    tokenizer = train_tokenizer(SEED)
    pretrain(tokenizer, SEED).save_pretrained(out / "base")
    tokenizer.save_pretrained(out / "base")


def make_all(out: Path) -> None:
    """Write everything."""
    make_data(out)
    make_base(out)


PARTS = {"data": make_data, "tokenizer": make_tokenizer, "base": make_base, "all": make_all}


def main() -> None:
    """Run the part asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:10} {part.__doc__}" for name, part in PARTS.items()),
    )
    parser.add_argument("part", choices=PARTS, help="what to make")
    here = Path(__file__).resolve().parent
    parser.add_argument("--out", type=Path, default=here, help="folder to write to (this folder)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    PARTS[arguments.part](arguments.out)


if __name__ == "__main__":
    main()
