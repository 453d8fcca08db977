"""Distillation: a training learns the distribution of a frozen teacher, the tuned mixture.

The loss is (1 - b) CE + b KL. CE is the model's cross-entropy. KL is the Kullback-Leibler
divergence sum_v p(v) (log p(v) - log q(v)) of the model's distribution q from the teacher's p over
the vocabulary (Hinton et al. 2015, arXiv 1503.02531, at temperature 1). Both are means over the
same tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel

import workflow_scripts.modeling  # noqa: F401 (registers the mixtures)
from workflow_scripts.data.examples import IGNORED
from workflow_scripts.modeling.loading import load_whole
from workflow_scripts.modeling.packed_attention import use_packed_attention

BLOCK_TOKENS = 128  # with a vocabulary of 150,000, each distribution of a block takes 77 MB


@dataclass(frozen=True)
class Distillation:
    """A teacher in evaluation mode, and b, the weight of KL in the loss."""

    teacher: PreTrainedModel
    weight: float

    def attend_within_rows(self, half_precision: bool) -> None:
        """Let the teacher attend within the rows of packed batches, as the model does."""
        use_packed_attention(self.teacher, half_precision)

    def divergence(self, logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The sum of KL over a batch's trained tokens, fp32 [].

        logits [rows, T, V]: the model's. inputs: its batch, with `labels` [rows, T].
        """
        unlabelled = {key: value for key, value in inputs.items() if key != "labels"}
        with torch.no_grad():
            wanted = self.teacher(**unlabelled | {"use_cache": False}).logits
        return divergence(wanted, logits, inputs["labels"])

    def loss(self, cross_entropy: Tensor, divergence: Tensor) -> Tensor:
        """(1 - b) CE + b KL; KL alone if b is 1."""
        if self.weight == 1:
            return divergence
        return (1 - self.weight) * cross_entropy + self.weight * divergence


def load_distillation(teacher: Path, weight: float, precision: str, device: str) -> Distillation:
    """The distillation from the model of a folder, which is frozen and in evaluation mode.

    The teacher has the dtype in which the trained model computes. precision: of the training, not
    "auto". Raises UserError if a weight is missing.
    """
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = load_whole(AutoModelForCausalLM, teacher, dtype=dtype)
    return Distillation(model.eval().requires_grad_(False).to(device), weight)


def divergence(wanted: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of KL(softmax(wanted) || softmax(logits)) over the labelled tokens, fp32 [].

    wanted, logits [rows, T, V]; labels [rows, T]. As in the cross-entropy, the logits at t belong
    to the label at t + 1, and labels of IGNORED do not count. The backward pass computes each block
    of tokens again, so only one block's distributions are in memory at a time.
    """
    is_trained = (labels[:, 1:] != IGNORED).flatten()
    flat = (wanted[:, :-1].flatten(0, 1), logits[:, :-1].flatten(0, 1), is_trained)
    blocks = zip(*(tensor.split(BLOCK_TOKENS) for tensor in flat), strict=True)
    options = {"use_reentrant": False, "preserve_rng_state": False}
    return torch.stack([checkpoint(_block, *block, **options) for block in blocks]).sum()


def _block(wanted: Tensor, logits: Tensor, is_trained: Tensor) -> Tensor:
    """`divergence` of a block [t, V]; is_trained [t]."""
    p, q = (tensor[is_trained].float().log_softmax(-1) for tensor in (wanted, logits))
    return torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True)
