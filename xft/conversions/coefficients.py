"""Mixing coefficients, and the artifact of steps 5 and 6 that holds alpha and lambda.

For each tensor of the MLP, W = lambda W_0 + (1 - lambda) sum_i softmax(alpha)_i W_i. W_0 is the
shared expert, and i counts the routed experts (XFT, arXiv 2404.15247, section 3.2).
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from xft.artifacts.artifact import Draft, OpenedArtifact, open_artifact, write_json
from xft.checkpoints.layout import moe_layers
from xft.checkpoints.reader import TensorSource
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError

ALPHA = "alpha"


def mixing_coefficients(alpha, lam: float):
    """lambda, then (1 - lambda) softmax(alpha): [..., 1 + R] in fp32, summing to one.

    alpha [..., R]; lam: lambda.
    """
    shared = alpha.new_full((*alpha.shape[:-1], 1), lam, dtype=torch.float32)
    routed = (1 - shared) * alpha.float().softmax(dim=-1)
    return torch.cat([shared, routed], dim=-1)


def alpha_shape(granularity: str, ffn: TensorSource) -> tuple[int, int, int]:
    """The shape of the mixing logits: R logits per layer, per projection, or for the model."""
    layers = moe_layers(ffn.names)
    first = layers[0]
    if first.low_rank:
        routed = ffn.shape(first.factor(first.form.output, "A"))[0] - 1
    else:
        routed = ffn.shape(first.fused()[0][0])[0]
    if granularity == "model":
        return 1, 1, routed
    if granularity == "layer":
        return len(layers), 1, routed
    return len(layers), len(first.form.projections), routed


def initial_logits(ffn: TensorSource, granularity: str):
    """The logits for the experts of an FFN artifact at the start: equal shares."""
    return torch.zeros(alpha_shape(granularity, ffn))


def open_sources(moe: Path, ffn: Path, full: bool = False) -> dict[str, OpenedArtifact]:
    """Open a mixture, `moe`, and the FFN weights of its experts, `ffn`.

    Raises UserError if the FFN weights are from another mixture.
    """
    mixture = open_artifact(moe, "moe", "moe_sft", full=full)
    weights = open_artifact(ffn, "ffn", full=full)
    if weights.manifest.inputs.get("moe") != mixture.id:
        raise UserError(f"{ffn} was not extracted from {moe} but from another mixture")
    return {"ffn": weights, "moe": mixture}


@dataclass(frozen=True)
class MixingCoefficients:
    """The coefficients of an artifact, with the logits that they follow from, in fp32.

    artifact: that holds the logits.
    alpha: [layers or 1, projections or 1, R].
    config: of its files; it holds lambda and the keys of `MixingShape`.
    """

    artifact: OpenedArtifact
    alpha: object
    config: dict

    @property
    def lam(self) -> float:
        """lambda. In files it has an older name."""
        return self.config["shared_expert_weight"]

    @property
    def tensor(self):
        """The coefficients of the experts, [layers or 1, projections or 1, 1 + R]; lambda first."""
        return mixing_coefficients(self.alpha, self.lam)


def open_coefficients(
    path: Path, sources: dict[str, OpenedArtifact], full: bool = False
) -> MixingCoefficients:
    """Open coefficients. Raises UserError if they belong to other experts."""
    artifact = open_artifact(path, "weighted_init", "weighted_trained", full=full)
    for name, source in sources.items():
        if artifact.manifest.inputs.get(name) != source.id:
            raise UserError(f"{path} belongs to another {name} than {source.path}")
    checkpoint = artifact.checkpoint
    return MixingCoefficients(artifact, checkpoint.get(ALPHA).clone(), checkpoint.config)


def write_coefficients(draft: Draft, alpha, config: dict) -> None:
    """Fill an artifact with coefficients. alpha: the logits, in fp32."""
    draft.write_tensors([TensorSpec(ALPHA, "F32", tuple(alpha.shape), lambda: [alpha])])
    write_json(draft.path / "config.json", config)
