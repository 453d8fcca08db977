"""Reads and writes the artifacts of steps 5 and 6: mixing logits, lambda, and their inputs' ids."""

from dataclasses import dataclass
from pathlib import Path

from xft.artifacts.artifact import Draft, OpenedArtifact, open_artifact, write_json
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError
from xft.conversions.merge import ALPHA, mixing_coefficients


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
class MixingArtifact:
    """Opened logits, in fp32, and their config.

    artifact: that holds them.
    alpha: [layers or 1, projections or 1, R].
    config: lambda, and the keys of `MixingShape`.
    """

    artifact: OpenedArtifact
    alpha: object
    config: dict

    @property
    def shared_expert_weight(self) -> float:
        """lambda."""
        return self.config["shared_expert_weight"]

    @property
    def coefficients(self):
        """The experts' coefficients, [layers or 1, projections or 1, 1 + R]; lambda first."""
        return mixing_coefficients(self.alpha, self.shared_expert_weight)


def open_mixing(
    path: Path, sources: dict[str, OpenedArtifact], full: bool = False
) -> MixingArtifact:
    """Open coefficients. Raises UserError if they belong to other experts."""
    artifact = open_artifact(path, "weighted_init", "weighted_trained", full=full)
    for name, source in sources.items():
        if artifact.manifest.inputs.get(name) != source.id:
            raise UserError(f"{path} belongs to another {name} than {source.path}")
    checkpoint = artifact.checkpoint
    return MixingArtifact(artifact, checkpoint.get(ALPHA).clone(), checkpoint.config)


def write(draft: Draft, alpha, config: dict) -> None:
    """Fill an artifact with coefficients. alpha: the logits, in fp32."""
    draft.write_tensors([TensorSpec(ALPHA, "F32", tuple(alpha.shape), lambda: [alpha])])
    write_json(draft.path / "config.json", config)
