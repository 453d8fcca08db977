"""Makes the table of how far the experts of the tuned mixtures lie apart."""

from collections.abc import Iterator, Mapping

# No mix of E experts lies further from their mean than sqrt(E) x spread. With 8 experts, that is
# less than 3% of what the tuning changed.
NEAR_ZERO = 0.01
OWN = "as configured"


def nearly_equal(results: Mapping[str, dict]) -> Iterator[str]:
    """The mixtures whose experts are nearly equal, and layers of other ones.

    results: by name.
    """
    for name, content in results.items():
        near = [row["layer"] for row in content["layers"] if _is_near_zero(row["spread"])]
        if _is_near_zero(content["spread"]):
            yield f"{name}: all layers together"
        elif near:
            yield f"{name}: layers {', '.join(map(str, near))}"


def spreads_table(results: Mapping[str, dict]):
    """A pandas data frame of texts with a row for each mixture.

    Spreads of the whole model, and of the layers with the smallest and the largest one; the
    router's entropy and imbalance if a file has them.
    """
    import pandas as pd

    rows = [{"mixture": name} | _row(content) for name, content in results.items()]
    return pd.DataFrame(rows).fillna("")


def _row(content: dict) -> dict:
    spreads = [row["spread"] for row in content["layers"] if row["spread"] is not None]
    row = {"spread": _percent(content["spread"])}
    row["smallest of a layer"] = _percent(min(spreads, default=None))
    row["largest of a layer"] = _percent(max(spreads, default=None))
    routing = content.get("routing") or {}
    router = {f"router's {key}": routing.get(key) for key in ("entropy", "imbalance")}
    return row | {key: f"{value:.3f}" for key, value in router.items() if value is not None}


def _percent(spread: float | None) -> str:
    return "" if spread is None else f"{100 * spread:.1f} %"


def _is_near_zero(spread: float | None) -> bool:
    return spread is not None and spread < NEAR_ZERO
