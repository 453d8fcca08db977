"""The remarks at the end of a training: about its loss, and about the routers of a mixture."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from xft.common.errors import UserError
from xft.common.json_files import read_json_objects

VALIDATION_LOSS = "validation_loss"
FALLS = -0.03  # a change below which a loss still falls
FEWEST_VALIDATIONS = 4  # that show a change
FEWEST_BATCHES = 40  # the losses of single batches vary more
MUCH_NOISE = 0.2  # of the choices
LAST_STEPS = 10  # of the tuning: one step's statistics are those of one small batch


def change_at_end(history: Sequence[Mapping]) -> float | None:
    """The mean loss of the last quarter of a training, relative to the quarter before, minus 1.

    It is that of the validation losses, or of the batches while no row came twice. None if there
    are too few losses.

    history: the lines of its metrics.
    """
    validations = [line[VALIDATION_LOSS] for line in history if VALIDATION_LOSS in line]
    if len(validations) >= FEWEST_VALIDATIONS:
        return _change_of_last_quarter(validations)
    losses = [line["loss"] for line in history if "loss" in line]
    is_first_pass = all(line.get("epoch", 0) <= 1 for line in history)
    if len(losses) >= FEWEST_BATCHES and is_first_pass:
        return _change_of_last_quarter(losses)
    return None


def _change_of_last_quarter(losses: list[float]) -> float:
    """The mean of the last quarter, relative to that of the quarter before, minus 1."""
    quarter = len(losses) // 4
    before = mean(losses[-2 * quarter : -quarter])
    if before == 0:
        return 0.0
    return mean(losses[-quarter:]) / before - 1


def still_falls(change: float | None) -> bool:
    """Whether a loss fell clearly. change: from `change_at_end`."""
    return change is not None and change < FALLS


def routing_at_end(metrics: Path) -> dict[str, float] | None:
    """The routers at the end of a tuning; None if its metrics say nothing of them.

    entropy: of the routers' probabilities, in nats. imbalance: the largest load of a routed expert
    above the mean load, relative to that (MaxVio of arXiv 2408.15664); 0 if all are equal. Both are
    means over the layers and over the last steps, at most ten. Raises UserError if a line is no
    JSON object.
    """
    last = _last_steps(metrics)
    if not last:
        return None
    entropies = [entropy for line in last for entropy in line["entropy"]]
    imbalances = [_imbalance(load) for line in last for load in line["load"]]
    return {
        "entropy": round(mean(entropies), 4),
        "imbalance": round(mean(imbalances), 4),
        "steps": len(last),
    }


def _imbalance(load: Sequence[float]) -> float:
    """The largest load above the mean load, relative to that. load: shares, which sum to 1."""
    return len(load) * max(load) - 1


def noise_at_end(metrics: Path) -> str | None:
    """The noise's effect on the choices of the routers, in words, if it decided many of them."""
    changed = [value for line in _last_steps(metrics) for value in line.get("noise_changed", ())]
    if not changed or mean(changed) < MUCH_NOISE:
        return None
    return (
        f"at the end, noise decided {mean(changed):.0%} of the routers' choices. Without it "
        "(moe.router_noise: false) a mixture learned more (docs/results.md)"
    )


def loads_at_end(metrics: Path):
    """Each routed expert's share of the choices [layers, R], the mean of the last ten steps.

    Raises UserError if the metrics do not say it.
    """
    import torch

    last = _last_steps(metrics)
    if not last:
        raise UserError(f"{metrics}: it does not say how many tokens chose each expert")
    return torch.tensor([line["load"] for line in last]).mean(0)


def with_routing(lines: Iterable[Mapping]) -> list[Mapping]:
    """The lines of metrics that have statistics of the routers."""
    return [line for line in lines if "entropy" in line and "load" in line]


def _last_steps(metrics: Path) -> list[Mapping]:
    """The last lines with statistics of the routers."""
    return with_routing(read_json_objects(metrics, "metrics"))[-LAST_STEPS:]
