"""Average the weights of dense models of one architecture, such as tunings with other seeds."""

from xft.artifacts.artifact import OpenedArtifact
from xft.artifacts.manifest import short
from xft.cli.step import Step, run
from xft.common.errors import UserError

KINDS = ("base", "sft", "dense", "soup")


def main(argv: list[str] | None = None) -> None:
    step = Step("soup", __doc__)
    step.artifact(
        "--models",
        "The dense models, at least two. The first gives the config and the tokenizer.",
        nargs="+",
    )
    step.output("--out", "DIR", "The mean.")
    args = step.parse_args(argv)

    from xft.conversions.dense_models import soup_specs
    from xft.reporting.cards import plain_card

    models = []
    for number, path in enumerate(args.models, 1):
        models.append(step.open(f"model {number}", path, *KINDS))
    specs = soup_specs([model.checkpoint for model in models])
    known = _common_parameters(models)
    parameters = {key: known[key] for key in ("base", "template", "end_of_turn") if key in known}
    config = models[0].checkpoint.config
    ids = [short(model.id) for model in models]
    with step.draft(parameters) as draft:
        card = plain_card("soup", config, known, ids=ids)
        draft.write_model(specs, config, like=models[0].path, card=card)


def _common_parameters(models: list[OpenedArtifact]) -> dict:
    """The parameters that all manifests share. Raises UserError if their templates differ."""
    first, *others = (model.manifest.parameters for model in models)
    if any(other.get("template") != first.get("template") for other in others):
        raise UserError(
            "--models: they were tuned with different templates, so no prompt fits their mean. "
            "Give models that were tuned with the same data.template"
        )
    common = {}
    for key, value in first.items():
        if all(other.get(key) == value for other in others):
            common[key] = value
    return common


if __name__ == "__main__":
    run("soup", main)
