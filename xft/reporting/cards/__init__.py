"""Writes the model cards of mixtures and dense models."""

import json
from collections.abc import Iterator
from itertools import product

from xft.artifacts.artifact import OpenedArtifact
from xft.artifacts.manifest import short
from xft.checkpoints.layout import model_name
from xft.common.jinja import templates
from xft.config.sections import MergeMethod, mixture_settings
from xft.conversions.coefficients import MixingCoefficients
from xft.data.prompt_templates import TEXTS

HUB_KEYS = ("model", "revision", "license")


def origin(base: OpenedArtifact) -> dict:
    """A base's entry in the manifests of its descendants: its id, place on the hub, licence."""
    known = base.manifest.parameters
    return {"id": base.id} | {key: known[key] for key in HUB_KEYS if key in known}


def mixture_card(
    config: dict, parameters: dict, data_hash: str | None = None, start: dict | None = None
) -> str:
    """The card of a mixture, from its config and its manifest's parameters.

    data_hash: of the rows that it was tuned on, if it was. start: the parameters of the mixture
    before its tuning.
    """
    began = parameters if start is None else start
    init = began.get("init", "copy")
    upcycling = mixture_settings(config) | ({} if init == "copy" else {"init": init})
    if start is None:
        upcycling["seed"] = parameters["seed"]
    tuning = {"parameters": parameters, "data_hash": data_hash}
    about = {"copied": init == "copy", "upcycling": upcycling}
    return _card("mixture", config, parameters["base"], **about, **tuning)


def plain_card(
    name: str, config: dict, parameters: dict, data_hash: str | None = None, **known
) -> str:
    """The card of a dense model of the base's architecture, from the template `name`.

    parameters: of its manifest, or what those of several models have in common. known: what the
    template asks for besides.
    """
    base = parameters.get("base", {})
    known |= {"parameters": parameters, "data_hash": data_hash}
    return _card(name, {"base_config": config}, base, **known)


def dense_card(
    moe: OpenedArtifact,
    coefficients: MixingCoefficients,
    layers: list[int],
    method: MergeMethod,
) -> str:
    """The card of a merged model: base, experts, lambda, method, and every expert's share.

    layers: the numbers of the upcycled layers.
    """
    base = moe.manifest.parameters.get("base", {})
    rows = list(_shares(coefficients, layers))
    known = {"moe": moe.manifest, "coefficients": coefficients, "method": method, "rows": rows}
    return _card("dense", moe.checkpoint.config, base, **known)


def _shares(
    coefficients: MixingCoefficients, layers: list[int]
) -> Iterator[tuple[str, list[float]]]:
    """For each set of coefficients its name, lambda and the shares of the routed experts."""
    lambdas = coefficients.tensor[..., 0]
    shares = coefficients.alpha.softmax(dim=-1)
    rows, columns = lambdas.shape
    for row, column in product(range(rows), range(columns)):
        name = f"layer {layers[row]}" if rows > 1 else "the model"
        if columns > 1:
            name += f", projection {column + 1}"
        yield name, [float(lambdas[row, column]), *shares[row, column].tolist()]


def _card(name: str, config: dict, base: dict, **known) -> str:
    """A card from a template. base: as `origin` makes it, or empty."""
    low_rank = config.get("experts") == "lora"
    form = f", each the base's FFN plus products of rank {config['rank']}" if low_rank else ""
    architecture = model_name(config["base_config"])
    template = templates(__name__).get_template(f"{name}.md.jinja", globals=HELPERS)
    about = {"config": config, "base": base, "architecture": architecture, "form": form}
    return template.render(about | known)


def _listed(parameters: dict) -> str:
    """Parameters in one line, as in the config, without those that have no value or no effect."""
    set_ones = {k: v for k, v in parameters.items() if v is not None and not isinstance(v, dict)}
    if "max_steps" in set_ones:
        set_ones.pop("num_train_epochs", None)
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in sorted(set_ones.items()))


HELPERS = {"xft": "[XFT](https://arxiv.org/abs/2404.15247)", "listed": _listed, "short": short}
HELPERS["prompts"] = TEXTS
