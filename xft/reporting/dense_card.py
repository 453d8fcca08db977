"""Writes the model card of a merged model."""

from xft.artifacts.artifact import Artifact
from xft.checkpoints.layout import model_name
from xft.config.sections import MergeMethod
from xft.conversions.mixing_artifact import MixingArtifact
from xft.reporting.model_card import XFT, base_words, card_head, expert_form, listed

DENSE = """\
# A dense model made with XFT

A {architecture} of the base's architecture and config. It was upcycled to a mixture of
{num_experts} experts ({num_experts_per_tok} for each token{form}),
tuned on instructions, and merged back ({xft}).
It loads with plain transformers.

- base: {base}
- lambda, the shared expert's weight: {shared_expert_weight:g}{learned}
- mixing coefficients: one set per {granularity}, {origin}
{method}- tuning of the mixture: {tuning}
- mixing: {mixing}

lambda, and the shares of the routed experts, which sum to 1:

| coefficients of | lambda | {heads} |
|---|---|{rules}|
{rows}
"""
METHODS = {
    "xft": "",
    "model_stock": """\
- method: model_stock (arXiv 2403.19522), between the experts' weighted mean and the base
""",
    "task_arithmetic": """\
- method: task_arithmetic (arXiv 2212.04089), scale {scale:g}: the base, and scale times the
  difference of the merged model from it
""",
}


def dense_card(
    moe: Artifact,
    mixing: MixingArtifact,
    layers: list[int],
    method: MergeMethod,
    expert: int | None = None,
) -> str:
    """The card of a merged model: base, experts, lambda, method, and every expert's share.

    layers: the numbers of the upcycled layers. expert: the routed expert that was merged alone.
    """
    config, base = moe.checkpoint.config, moe.manifest.parameters.get("base", {})
    tuned_here = "data" in moe.manifest.inputs
    experts = range(1, mixing.alpha.shape[-1] + 1)
    origin = _origin(mixing) if expert is None else f"but only expert {expert} of the routed ones"
    return card_head(base) + DENSE.format(
        architecture=model_name(config["base_config"]),
        base=base_words(config, base),
        xft=XFT,
        num_experts=config["num_experts"],
        num_experts_per_tok=config["num_experts_per_tok"],
        form=expert_form(config),
        shared_expert_weight=mixing.shared_expert_weight,
        learned=" at the start, then learned" if mixing.lambda_logit is not None else "",
        granularity=mixing.config["granularity"],
        origin=origin,
        method=METHODS[method.method].format(scale=method.scale),
        tuning=listed(moe.manifest.parameters) if tuned_here else "not known",
        mixing=listed(mixing.artifact.manifest.parameters),
        heads=" | ".join(f"expert {expert}" for expert in experts),
        rules="|".join("---" for _ in experts),
        rows="\n".join(_rows(mixing, layers)),
    )


def _origin(mixing: MixingArtifact) -> str:
    if mixing.artifact.manifest.kind == "weighted_trained":
        return "trained"
    return "the mixture's use of its experts" if "init" in mixing.config else "equal shares"


def _rows(mixing: MixingArtifact, layers: list[int]) -> list[str]:
    lambdas = mixing.coefficients[..., 0]
    shares = mixing.alpha.softmax(dim=-1)
    by_layer, by_projection, _ = (size > 1 for size in shares.shape)
    rows = []
    for row in range(shares.shape[0]):
        for column in range(shares.shape[1]):
            name = f"layer {layers[row]}" if by_layer else "the model"
            if by_projection:
                name += f", projection {column + 1}"
            values = [lambdas[row, column], *shares[row, column]]
            rows.append(f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} |")
    return rows
