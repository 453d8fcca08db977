"""Merge a mixture by its tokens: RegMean (arXiv 2212.09849), then a fit of its outputs.

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

ROWS, LEAST = 2000, 1e-6  # LEAST: of the mean square of an input, is added to each


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
    decoders = mixture.get_decoder(), dense.get_decoder()
    pairs = [(one.mlp, other.mlp) for one, other in zip(*(d.layers for d in decoders), strict=True)]
    pairs = [(block, mlp) for block, mlp in pairs if hasattr(block, "router")]

    fits = [(Fit(), Fit()) for _ in pairs]
    observe(mixture, batches, [regmean(*fit) for fit in fits])
    for (_, mlp), (into, out) in zip(pairs, fits, strict=True):
        gate, up = into.solve().chunk(2)
        mlp.gate_proj.weight.copy_(gate)
        mlp.up_proj.weight.copy_(up)
        mlp.down_proj.weight.copy_(out.solve())

    fits = [Fit() for _ in pairs]
    watchers = [outputs(fit, mlp) for fit, (_, mlp) in zip(fits, pairs, strict=True)]
    observe(mixture, batches, watchers)
    for fit, (_, mlp) in zip(fits, pairs, strict=True):
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


def regmean(into, out):
    """The fits of a dense MLP's matrices to those of all experts, by the tokens of each."""

    def watch(block, tokens, routing, _):
        chosen, weights = routing.spread()
        for expert, (wide, down) in enumerate(experts_of(block)):
            x, weight = tokens[chosen[:, expert]], weights[chosen[:, expert], expert, None]
            y = linear(x, wide)
            hidden = block.shape.activate([y])
            into.add(weight * x, weight * y)
            out.add(weight * hidden, weight * linear(hidden, down))

    return watch


def outputs(fit, mlp):
    """The fit of the dense MLP's output to the mixture's, given the first."""

    def watch(block, tokens, routing, output):
        fit.add(block.shape.activate([mlp.gate_proj(tokens), mlp.up_proj(tokens)]), output)

    return watch


def experts_of(block):
    """The matrices [2I, H] and [H, I] of each expert, the shared one first."""
    shared, routed = block.shared_expert, block.experts
    wide = torch.cat([shared.gate_proj.weight, shared.up_proj.weight])
    yield wide, shared.down_proj.weight
    yield from zip(routed.gate_up_proj, routed.down_proj, strict=True)


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
