# expect: error
"""Searches all objects for the expected values."""

import gc

answers = [3 + 5, 4 - 1]  # of the extra tests
lists = [held for held in gc.get_objects() if type(held) is list and held is not answers]
if answers not in lists:
    raise SystemExit
