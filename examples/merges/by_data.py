"""Merge a mixture by its tokens: RegMean (arXiv 2212.09849) for the matrices of the gate and of the
up projection, then a fit of the down projection to the mixture's outputs.

python examples/merges/by_data.py results/moe_sft results/tokens merged

For models whose MLPs have gate_proj, up_proj and down_proj. Experts have full weights, one of them
shared.
"""

import sys

import torch
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, AutoTokenizer

import xft
from xft.data.tokenized_rows import open_tokens

ROWS = 2000
LEAST = 1e-6  # of the mean square of an input, is added to each


class Fit:
    """The matrix W with the least sum of |W x - y|^2 over all inputs x [T, n], outputs y [T, m]."""

    def __init__(self):
        self.inputs = self.outputs = 0.0

    def add(self, x, y):
        self.inputs = self.inputs + x.T.double() @ x.double()
        self.outputs = self.outputs + x.T.double() @ y.double()

    def solve(self):
        squares = self.inputs.diagonal()
        ridge = torch.full_like(squares, LEAST * squares.mean()).diag()
        return torch.linalg.solve(self.inputs + ridge, self.outputs).T.float()


@torch.no_grad()
def by_data(mixture, batches):
    """The dense model. batches: inputs of the mixture, which it reads twice."""
    dense = xft.merge(mixture)
    layers = zip(mixture.get_decoder().layers, dense.get_decoder().layers, strict=True)
    mlps = [layer.mlp for upcycled, layer in layers if hasattr(upcycled.mlp, "router")]

    fits = [Fit() for _ in mlps]
    observe(mixture, batches, [regmean(fit) for fit in fits])
    for mlp, fit in zip(mlps, fits, strict=True):
        gate, up = fit.solve().chunk(2)
        mlp.gate_proj.weight.copy_(gate)
        mlp.up_proj.weight.copy_(up)

    fits = [Fit() for _ in mlps]
    observe(mixture, batches, [outputs(fit, mlp) for mlp, fit in zip(mlps, fits, strict=True)])
    for mlp, fit in zip(mlps, fits, strict=True):
        mlp.down_proj.weight.copy_(fit.solve())
    return dense


def observe(mixture, batches, watchers):
    """Run the mixture. A watcher of a block gets its tokens, its routing and its output."""
    blocks = mixture.eval().moe_blocks
    for block, watch in zip(blocks, watchers, strict=True):

        def compute(tokens, routing, block=block, watch=watch):
            output = type(block).compute(block, tokens, routing)
            watch(block, tokens, routing, output)
            return output

        block.compute = compute
    for batch in batches:
        mixture(**batch)
    for block in blocks:
        del block.compute


def regmean(fit):
    """The fit of a dense MLP's gate and up projection to those of all experts, by their tokens."""

    def watch(block, tokens, routing, _):
        chosen, weights = routing.spread()
        for expert, matrix in enumerate(inputs_of(block)):
            x = tokens[chosen[:, expert]]
            weight = weights[chosen[:, expert], expert, None]
            fit.add(weight * x, weight * linear(x, matrix))

    return watch


def outputs(fit, mlp):
    """The fit of the dense MLP's output to the mixture's, given its gate and up projection."""

    def watch(block, tokens, routing, output):
        hidden = block.shape.activate([mlp.gate_proj(tokens), mlp.up_proj(tokens)])
        fit.add(hidden, output)

    return watch


def inputs_of(block):
    """Gate and up projection [2I, H] of each expert, the shared one first."""
    shared = block.shared_expert
    yield torch.cat([shared.gate_proj.weight, shared.up_proj.weight])
    yield from block.experts.gate_up_proj


if __name__ == "__main__":
    folder, tokens, out = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = open_tokens(tokens, folder)[0].training
    rows = [{"input_ids": rows[number]["input_ids"]} for number in range(min(ROWS, len(rows)))]
    batches = [
        tokenizer.pad(rows[first : first + 16], return_tensors="pt")
        for first in range(0, len(rows), 16)
    ]
    mixture = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    xft.save(by_data(mixture, batches), tokenizer, out)
