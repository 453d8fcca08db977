"""Compares forward and backward passes of MoE blocks, a dense FFN and a plain loop over experts.

- ours: this project's MoeBlock in training mode, with noise and balance loss;
- loop: the same block with a module per expert. Each selects its tokens and adds its results to the
  output (the published form);
- dense: one gated FFN with the FLOPs of the experts that are active for a token;
- matmul: only the matrix products of `dense`, written into existing tensors.

All ways do the same matrix products. The router's FLOPs are not counted. The ways run alternately
in one process. Usage: python -m benchmarks.moe_step [--threads N] [--repeats N]
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from benchmarks.timing import interleaved, markdown_table, relative_speed
from xft.modeling.moe_blocks import MoeBlock, TokenMask
from xft.modeling.router import squared_variation

LAYERS, NUM_EXPERTS, ACTIVE_EXPERTS = 4, 8, 6  # the shared expert counts
BALANCE_LOSS_COEF = 0.01
WARMUP = 2


@dataclass(frozen=True)
class Shape:
    tokens: int
    hidden_size: int
    intermediate_size: int

    @property
    def flops(self) -> float:
        """FLOPs of both passes: three products forward, and two backward for each of them."""
        per_token = 3 * 2 * self.hidden_size * self.intermediate_size * ACTIVE_EXPERTS
        return 3 * LAYERS * self.tokens * per_token


SMALL = Shape(tokens=1024, hidden_size=576, intermediate_size=1536)
LARGE = Shape(tokens=8192, hidden_size=2048, intermediate_size=5504)  # DeepSeek-Coder-1.3B


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.moe_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch. Default: 2.")
    parser.add_argument("--repeats", type=int, default=7, help="Timed rounds. Default: 7.")
    parser.add_argument("--device", default=device, help=f"Default: {device}.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = [(SMALL, torch.float32, False), (SMALL, torch.bfloat16, False)]
    settings.append((SMALL, torch.float32, True))
    if args.device.startswith("cuda"):
        settings.append((LARGE, torch.bfloat16, False))
    for shape, dtype, autocast in settings:
        cases = make_cases(shape, dtype, autocast, args.device)
        seconds = interleaved(cases, args.repeats, WARMUP)
        name = "bf16 autocast over fp32" if autocast else str(dtype).removeprefix("torch.")
        print(f"\n{shape}, {LAYERS} layers, {name}, {args.device}\n")
        print(report(seconds, shape.flops), flush=True)


def report(seconds: dict[str, list[float]], flops: float) -> str:
    """Markdown: median time, GFLOP/s, and speed relative to the plain products and to ours."""
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        share = relative_speed(seconds, name, "matmul")
        ours = relative_speed(seconds, "ours", name)
        cells = (f"{1e3 * median:.0f}", f"{flops / median / 1e9:.0f}", f"{share:.3f}")
        rows.append((name, *cells, f"{ours:.3f}"))
    return markdown_table(("", "median ms", "GFLOP/s", "of matmul", "speed of ours to it"), rows)


def make_cases(
    shape: Shape, dtype: torch.dtype, autocast: bool, device: str
) -> dict[str, Callable[[], None]]:
    """A function for each way that runs one forward and backward pass."""
    torch.manual_seed(0)
    config = SimpleNamespace(
        num_experts=NUM_EXPERTS,
        num_experts_per_tok=ACTIVE_EXPERTS,
        num_routed_experts=NUM_EXPERTS - 1,
        shared_expert=True,
        normalize_routing=True,
        router="mlp",
        router_noise=True,
        _experts_implementation="eager",
    )
    blocks = [moe_block(config, shape) for _ in range(LAYERS)]
    loops = [moe_block(config, shape) for _ in range(LAYERS)]
    for block in loops:
        block.experts = LoopedExperts(mlp(shape) for _ in range(NUM_EXPERTS - 1))
    dense = [mlp(shape, ACTIVE_EXPERTS) for _ in range(LAYERS)]
    tokens = torch.randn(shape.tokens, shape.hidden_size, device=device)
    compute_dtype = torch.bfloat16 if autocast else dtype
    cast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast)

    def step(layers: list[nn.Module]) -> Callable[[], None]:
        model = nn.ModuleList(layers).to(device, dtype)
        inputs = tokens.to(dtype).requires_grad_()

        def run() -> None:
            model.zero_grad()
            inputs.grad = None
            with cast:
                loss = forward(model, inputs)
            loss.backward()

        return run

    cases = {"ours": step(blocks), "loop": step(loops), "dense": step(dense)}
    return cases | {"matmul": plain_products(shape, compute_dtype, device)}


def forward(layers: nn.ModuleList, hidden: Tensor) -> Tensor:
    """A loss over the layers, each with a residual connection, plus the routers' balance loss."""
    balance = hidden.new_zeros(())
    for layer in layers:
        hidden = hidden + layer(hidden)
        if isinstance(layer, MoeBlock):
            balance = balance + squared_variation(layer.routing.counts).sum()
    loss = hidden.float().square().mean()
    return loss + BALANCE_LOSS_COEF * balance


def mlp(shape: Shape, width: int = 1) -> LlamaMLP:
    """A gated FFN, `width` times as wide as an expert."""
    intermediate_size = width * shape.intermediate_size
    return LlamaMLP(LlamaConfig(hidden_size=shape.hidden_size, intermediate_size=intermediate_size))


def moe_block(config, shape: Shape) -> MoeBlock:
    block = MoeBlock(config, mlp(shape), TokenMask())
    for parameter in block.experts.parameters():
        nn.init.normal_(parameter, std=0.02)
    return block


class LoopedExperts(nn.ModuleList):
    """One module per expert. The experts compute one after the other."""

    def forward(self, hidden_states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """Hidden states [T, H] to [T, H], with index [T, k] and weights [T, k]."""
        output = torch.zeros_like(hidden_states)
        for number, expert in enumerate(self):
            token, slot = torch.where(index == number)
            result = expert(hidden_states.index_select(0, token)) * weights[token, slot, None]
            output.index_add_(0, token, result.to(output.dtype))
        return output


def plain_products(shape: Shape, dtype: torch.dtype, device: str) -> Callable[[], None]:
    """The products of the dense FFNs' forward and backward passes."""

    def random(*size: int) -> Tensor:
        return torch.randn(size, device=device).to(dtype)

    width = ACTIVE_EXPERTS * shape.intermediate_size
    narrow, wide = random(shape.tokens, shape.hidden_size), random(shape.tokens, width)
    into, out = random(width, shape.hidden_size), random(shape.hidden_size, width)
    to_narrow, to_wide, to_into, to_out = map(torch.empty_like, (narrow, wide, into, out))

    def run() -> None:
        for _ in range(LAYERS):
            for _ in ("gate", "up"):
                torch.mm(narrow, into.t(), out=to_wide)
                torch.mm(wide, into, out=to_narrow)
                torch.mm(wide.t(), narrow, out=to_into)
            torch.mm(wide, out.t(), out=to_narrow)
            torch.mm(narrow, out, out=to_wide)
            torch.mm(narrow.t(), wide, out=to_out)

    return run


if __name__ == "__main__":
    main()
