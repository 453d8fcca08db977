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
    takes_load = method.function and method.function.check(MERGE)
    needed = {"base": method.function, "metrics": takes_load}
    if missing := [name for name in needed if needed[name] and getattr(args, name) is None]:
        raise UserError(f"method = {method.method}: give --{' and --'.join(missing)} too")

    from xft.conversions.coefficients import open_mixing, open_sources
    from xft.conversions.dense_models import dense_specs, open_base
    from xft.reporting.cards import dense_card
    from xft.training.at_end import loads_at_end

    sources = open_sources(args.moe, args.ffn, step.full)
    mixing = open_mixing(args.weighted, sources, step.full)
    mixture, ffn = sources["moe"], sources["ffn"].checkpoint
    step.inputs = sources | {"weighted": mixing.artifact}
    tuning, moe, base = mixture.manifest.parameters, mixture.checkpoint, None
    kept = {key: tuning[key] for key in ("template", "end_of_turn") if key in tuning}
    parameters = mixing.config | kept
    layers = [layer.index for layer in moe_layers(ffn.names)]
    function, loads = None, {}
    if method.function:
        step.inputs["base"] = open_base(args.base, mixture, step.full)
        base = step.inputs["base"].checkpoint
        function = method.function.load(MERGE)
        step.inputs["function"] = hash_program(method.function.file)
        parameters["method"] = method.function.shown
    if takes_load:
        loads = dict(zip(layers, loads_at_end(args.metrics), strict=True))
        step.inputs["metrics"] = hash_file(args.metrics)
    specs = dense_specs(moe, ffn, mixing.coefficients, base, function, loads)
    card = dense_card(mixture, mixing, layers, method)
    with step.draft(parameters) as draft:
        draft.write_model(specs, moe.config["base_config"], like=mixture.path, card=card)


if __name__ == "__main__":
    run("dense", main)
