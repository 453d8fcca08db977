"""Distillation: a training learns the distribution of a frozen teacher, the tuned mixture.

The loss is (1 - b) CE + b KL. CE is the model's cross-entropy. KL is the Kullback-Leibler
divergence sum_v p(v) (log p(v) - log q(v)) of the model's distribution q from the teacher's p over
the vocabulary (Hinton et al. 2015, arXiv 1503.02531, at temperature 1). Both are means over the
same tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoModelForCausalLM

from xft.config.training import DistillationConfig
from xft.modeling.loading import load_whole
from xft.modeling.packed_attention import use_packed_attention
from xft.training.features import Feature
from xft.training.losses import LabelledLoss, SplitModel, no_logits
from xft.training.this_process import device


@dataclass(frozen=True)
class Distillation:
    """What a model learns from a teacher.

    teacher: in evaluation mode.
    weight: b, that of KL in the loss.
    """

    teacher: SplitModel
    weight: float

    @torch.no_grad()
    def states(self, inputs: dict[str, Tensor]) -> Tensor:
        """The teacher's hidden states [rows, T, H] of a batch."""
        options = {"labels": None, "use_cache": False}
        options["logits_to_keep"] = no_logits(inputs["input_ids"])
        self.teacher.model(**inputs | options)
        return self.teacher.take_states()

    def divergence(self, logits: Tensor, logs: Tensor) -> Tensor:
        """KL of each token, fp32 [n].

        logits [n, V]: the teacher's. logs [n, V]: the logarithms of the model's distribution, fp32.
        """
        wanted = logits.float().log_softmax(dim=-1)
        return torch.nn.functional.kl_div(logs, wanted, reduction="none", log_target=True).sum(-1)


class Teaching(Feature):
    """Lets the teacher compute each batch, and logs the cross-entropy and KL of each step.

    loss: the model's, with a distillation.
    """

    def __init__(self, loss: LabelledLoss, accelerator: Accelerator):
        self.loss = loss
        self.accelerator = accelerator

    def on_batches(self, batches, rows):
        self.parts: list[Tensor] = []  # [2], of each batch

    def on_pass(self, model, inputs):
        self.loss.teach(inputs)

    def on_outputs(self, outputs, tokens):
        # All processes' tokens count, and the gradients are averaged over the processes.
        share = tokens / self.accelerator.num_processes
        self.parts.append(self.loss.parts.sum(dim=0) / share)

    def on_loss(self, logs, step):
        parts = torch.stack(self.parts).sum(0, keepdim=True)
        logs["ce"], logs["kl"] = self.accelerator.gather(parts).mean(0).tolist()


def load_distillation(teacher: Path, options: DistillationConfig) -> Distillation | None:
    """The distillation from the model of a folder, which is frozen and in evaluation mode.

    The teacher has the dtype in which the trained model computes. options: of its training. None
    without objective "kl". Raises UserError if a weight is missing.
    """
    if options.objective != "kl":
        return None
    dtype = torch.float32 if options.precision == "fp32" else torch.bfloat16
    model = load_whole(AutoModelForCausalLM, teacher, dtype=dtype)
    if options.batching == "packed":
        use_packed_attention(model, options.precision != "fp32")
    model = model.eval().requires_grad_(False).to(device())
    return Distillation(SplitModel(model), options.kl_weight)
