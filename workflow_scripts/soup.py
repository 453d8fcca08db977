"""Average the weights of dense models of one architecture, such as tunings with other seeds."""

from pathlib import Path

from xft.artifacts.artifact import Artifact, create_artifact, open_artifact
from xft.artifacts.recipe import make_recipe
from xft.cli import flags, running
from xft.common.errors import UserError

KINDS = ("base", "sft", "dense", "soup")


def main(argv: list[str] | None = None) -> None:
    parser = flags.step_parser("soup", __doc__)
    parser.add_argument(
        "--models",
        required=True,
        nargs="+",
        type=Path,
        metavar="DIR",
        help="The dense models, at least two. The first gives the config and the tokenizer.",
    )
    flags.add_path(parser, "--out", "DIR", "The mean.")
    flags.add_verify(parser)
    args = parser.parse_args(argv)
    if len(args.models) < 2:
        raise UserError(f"--models {args.models[0]}: a mean needs at least two models")

    from xft.conversions.soup import soup_plans
    from xft.reporting.cards import soup_card

    full = args.verify == "full"
    models = [open_artifact(path, *KINDS, full=full) for path in args.models]
    plans = soup_plans([model.checkpoint for model in models])
    known = _common_parameters(models)
    parameters = {key: known[key] for key in ("base", "template", "end_of_turn") if key in known}
    config, ids = models[0].checkpoint.config, [model.id for model in models]
    given = {f"model {number}": model for number, model in enumerate(models, 1)}
    inputs = {name: model.id for name, model in given.items()}
    recipe = make_recipe("soup", {}, given)
    with create_artifact(args.out, "soup", parameters, inputs, recipe) as draft:
        card = soup_card(config, known, ids)
        draft.write_model(plans, config, like=models[0].path, card=card)


def _common_parameters(models: list[Artifact]) -> dict:
    """What the manifests of all models say alike. Raises UserError if their templates differ."""
    first, *others = (model.manifest.parameters for model in models)
    if any(other.get("template") != first.get("template") for other in others):
        raise UserError(
            "--models: they were tuned with different templates, so no prompt fits their mean. "
            "Give models that were tuned with the same data.template"
        )
    return {key: value for key, value in first.items() if all(o.get(key) == value for o in others)}


if __name__ == "__main__":
    running.run("soup", main)
