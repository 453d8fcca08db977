"""Step 1, upcycling: turn a dense model into a mixture of experts with a new router.

The experts are copies of the dense model's MLP. With --experts lora they share that MLP, and each
adds products of low rank to its matrices, which are zero at the start. The mixture then gives the
same outputs as the dense model, for every choice of the router. With a function as --init the
routed experts differ, and so do the outputs.
"""

from xft.artifacts.manifest import hash_program
from xft.cli.step import Step, run
from xft.config.sections import INIT, MoeConfig, RunConfig


def main(argv: list[str] | None = None) -> None:
    step = Step("moe", __doc__)
    step.artifact("--base", "The dense model.")
    step.output("--out", "DIR", "The upcycled model.")
    args = step.parse_args(argv)
    seed = step.options(RunConfig).seed
    moe = step.options(MoeConfig)

    from xft.conversions.upcycle import upcycle, upcycled_config, weights_dtype
    from xft.modeling.whole_models import check_fit, check_loadable
    from xft.reporting.cards import mixture_card, origin

    base = step.open("base", args.base, "base", "dense")
    checkpoint = base.checkpoint
    config = upcycled_config(checkpoint.config, moe, weights_dtype(checkpoint))
    check_fit(base.path)
    check_loadable(config)
    parameters = moe.model_dump() | {"seed": seed, "base": origin(base)}
    init = None
    if moe.init_function is not None:
        init = moe.init_function.load(INIT)
        step.inputs["init"] = hash_program(moe.init_function.file)
        parameters["init"] = moe.init_function.label
    specs = upcycle(checkpoint, moe, seed, init)
    with step.draft(parameters) as draft:
        draft.write_model(specs, config, like=base.path, card=mixture_card(config, parameters))


if __name__ == "__main__":
    run("moe", main)
