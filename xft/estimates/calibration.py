"""Measures the speed of this machine's CPU. All other figures of a plan are computed."""

import time
from functools import cache

SECONDS = 1.5
MOST_ROWS = 256


@cache
def product_flops(rows: int, hidden: int, intermediate: int, precision: str, threads: int) -> float:
    """FLOPs a second of products [rows, hidden] x [hidden, intermediate], with at most 256 rows.

    The first product is a warm-up. The result is the fastest one in the next 1.5 s, because other
    programs can only slow a product down.
    """
    import torch

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    left = torch.ones(min(rows, MOST_ROWS), hidden, dtype=dtype)
    right = torch.ones(hidden, intermediate, dtype=dtype)
    fastest, end = float("inf"), None
    while end is None or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        seconds = time.perf_counter() - start
        if end is None:
            end = start + seconds + SECONDS
        else:
            fastest = min(fastest, seconds)
    torch.set_num_threads(before)
    return 2 * left.numel() * intermediate / fastest
