"""The README.md that travels with a model: what it is and how it was made."""

from workflow_scripts.checkpoints.layout import model_name
from workflow_scripts.conversions.mixing_artifact import MixingArtifact

CARD = """\
---
library_name: transformers
tags: [code, xft]
---

# A dense model made with XFT

A {architecture} of the base's architecture and config. It was upcycled to a mixture of
{num_experts} experts ({num_experts_per_tok} for each token), tuned on instructions, and merged back
([XFT](https://arxiv.org/abs/2404.15247)). It loads with plain transformers.

- lambda, the shared expert's weight: {shared_expert_weight:g}
- mixing coefficients: {granularity}, {origin}

Shares of the routed experts, summing to 1:

| coefficients of | {heads} |
|---|{rules}|
{rows}
"""


def dense_card(moe_config: dict, mixing: MixingArtifact) -> str:
    """The card of a merged model: base, experts, lambda, and every expert's share."""
    shares = mixing.alpha.softmax(dim=-1)
    trained = mixing.artifact.manifest.kind == "weighted_trained"
    experts = range(1, shares.shape[-1] + 1)
    return CARD.format(
        architecture=model_name(moe_config["base_config"]),
        num_experts=moe_config["num_experts"],
        num_experts_per_tok=moe_config["num_experts_per_tok"],
        shared_expert_weight=mixing.shared_expert_weight,
        granularity=f"one set per {mixing.config['granularity']}",
        origin="trained" if trained else "equal shares",
        heads=" | ".join(f"expert {expert}" for expert in experts),
        rules="|".join("---" for _ in experts),
        rows="\n".join(_rows(shares)),
    )


def _rows(shares) -> list[str]:
    layers, projections, _ = shares.shape
    rows = []
    for layer in range(layers):
        for projection in range(projections):
            name = f"layer {layer}" if layers > 1 else "the model"
            if projections > 1:
                name += f", {('gate', 'up', 'down')[projection]}"
            values = " | ".join(f"{share:.4f}" for share in shares[layer, projection].tolist())
            rows.append(f"| {name} | {values} |")
    return rows
