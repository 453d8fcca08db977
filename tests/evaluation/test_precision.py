"""The number type in which a model generates: `evaluation.precision`."""

import torch

from xft.evaluation.loading import computing_dtype, load_model

DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}


def dtypes(model) -> set[torch.dtype]:
    return {weight.dtype for weight in model.parameters()}


def test_a_model_has_the_type_that_was_asked_for(tiny_llama):
    """auto is the stored type on a GPU."""
    for on_gpu, auto in ((True, torch.float16), (False, torch.float32)):
        for precision, dtype in (DTYPES | {"auto": auto}).items():
            assert computing_dtype(precision, torch.float16, on_gpu) == dtype
    for precision in ("fp32", "bf16"):
        assert dtypes(load_model(tiny_llama, 1, precision)[0]) == {DTYPES[precision]}
