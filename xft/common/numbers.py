"""Numbers as JSON can hold them."""

import math


def finite(value: object) -> float | None:
    """A finite number; None for any other value, such as "N/A"."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None
