"""Measure how far the experts of a mixture have moved apart, compared with how far they moved.

The spread is the experts' deviation from their mean, relative to the distance of that mean from the
base. It is 0 if all experts are the same, and large if they differ more than they have in common.
"""

from xft.artifacts.manifest import DIVERSITY, hash_file
from xft.cli.step import Step, run
from xft.common.progress import say
from xft.training.at_end import routing_at_end


def main(argv: list[str] | None = None) -> None:
    step = Step("diversity", __doc__)
    step.artifact("--base", "The dense base of the mixture.")
    step.artifact("--ffn", "The FFN weights of the mixture's experts.")
    step.output("--out", "FILE", "The values, JSON.")
    step.path(
        "--metrics",
        "FILE",
        "The metrics of the mixture's tuning, to read the routers' entropy and balance from.",
        required=False,
    )
    args = step.parse_args(argv)

    from xft.conversions.expert_diversity import diversity

    base = step.open("base", args.base, "base", "dense")
    ffn = step.open("ffn", args.ffn, "ffn")
    routing = routing_at_end(args.metrics) if args.metrics else None
    measured = diversity(ffn.checkpoint, base.checkpoint)
    description = measured | {
        "base": {"path": str(args.base), "id": base.id},
        "ffn": {"path": str(args.ffn), "id": ffn.id},
        "routing": routing,
    }
    metrics = {"metrics": hash_file(args.metrics)} if args.metrics else {}
    DIVERSITY.write(args.out, description, inputs=step.ids | metrics)
    say(f"spread of the experts {_shown(measured['spread'])}")
    for layer in measured["layers"]:
        say(f"layer {layer['layer']}: {_shown(layer['spread'])}")


def _shown(spread: float | None) -> str:
    return "none, as they did not move" if spread is None else f"{spread:.4f}"


if __name__ == "__main__":
    run("diversity", main)
