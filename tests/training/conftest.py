"""What several trainings start from. Read only."""

from pathlib import Path

import pytest
from chains import Chain
from mixtures import varied_mixture
from trainings import write_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file of rows."""
    return write_rows(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def chain(tiny_llama, data, tmp_path_factory) -> Chain:
    """A mixture whose experts differ, and what is made from it."""
    root = tmp_path_factory.mktemp("chain")
    varied_mixture(tiny_llama, root)
    return Chain(root, base=tiny_llama, moe_sft=root / "moe_sft", data=data)
