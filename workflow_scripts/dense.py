"""Step 7: merge the experts into a dense model with the base's architecture."""

from xft.artifacts.manifest import hash_file, hash_program
from xft.checkpoints.layout import moe_layers
from xft.cli.step import Step, run
from xft.common.errors import UserError
from xft.config.sections import MERGE, MergeMethod


def main(argv: list[str] | None = None) -> None:
    step = Step("dense", __doc__)
    step.artifact("--weighted", "The mixing coefficients.")
    step.artifact("--moe", "The tuned mixture.")
    step.artifact("--ffn", "The FFN weights of its experts.")
    step.output("--out", "DIR", "The dense model.")
    help_of_base = "The dense base, for a function as method; xft does not read it."
    step.artifact("--base", help_of_base, required=False)
    help_of_metrics = "The metrics of the mixture's tuning, for a function that takes the load."
    step.path("--metrics", "FILE", help_of_metrics, required=False)
    args = step.parse_args(argv)
    method = step.options(MergeMethod)
    code = method.function
    takes_load = code is not None and "load" in code.check(MERGE)
    needed = {"base": code is not None, "metrics": takes_load}
    missing = [name for name in needed if needed[name] and getattr(args, name) is None]
    if missing:
        raise UserError(f"method = {method.method}: give --{' and --'.join(missing)} too")

    from xft.conversions.coefficients import open_coefficients, open_sources
    from xft.conversions.dense_models import dense_specs, open_base
    from xft.reporting.cards import dense_card
    from xft.training.at_end import loads_at_end

    sources = open_sources(args.moe, args.ffn, step.full)
    coefficients = open_coefficients(args.weighted, sources, step.full)
    step.inputs = sources | {"weighted": coefficients.artifact}
    mixture = sources["moe"]
    moe = mixture.checkpoint
    ffn = sources["ffn"].checkpoint
    tuning = mixture.manifest.parameters
    prompt = {key: tuning[key] for key in ("template", "end_of_turn") if key in tuning}
    parameters = coefficients.config | prompt
    layers = [layer.index for layer in moe_layers(ffn.names)]
    base = None
    function = None
    loads = {}
    if code is not None:
        opened_base = open_base(args.base, mixture, step.full)
        base = opened_base.checkpoint
        function = code.load(MERGE)
        step.inputs["base"] = opened_base
        step.inputs["function"] = hash_program(code.file)
        parameters["method"] = code.label
    if takes_load:
        loads = dict(zip(layers, loads_at_end(args.metrics), strict=True))
        step.inputs["metrics"] = hash_file(args.metrics)
    specs = dense_specs(moe, ffn, coefficients.tensor, base, function, loads)
    card = dense_card(mixture, coefficients, layers, method)
    with step.draft(parameters) as draft:
        draft.write_model(specs, moe.config["base_config"], like=mixture.path, card=card)


if __name__ == "__main__":
    run("dense", main)
