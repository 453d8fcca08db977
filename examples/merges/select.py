"""In place of the routed experts the one of each layer that most tokens chose.

merge: {method: examples/merges/select.py:select}
evaluation: {models: [uniform]}  # the learned shares of `dense` have no effect
"""


def select(tensors, coefficients, base, load):
    """lambda W_0 + (1 - lambda) W_i. load [R]: of each routed expert at the end of the tuning."""
    return coefficients[0] * tensors[0] + (1 - coefficients[0]) * tensors[1 + int(load.argmax())]
