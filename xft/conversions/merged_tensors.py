"""The tensors of the merged model that are sums over experts: W = sum_i c_i W_i with sum_i c_i = 1.

Full experts have tensors W_i of their own. LoRA experts have W_i = W + s B_i A_i with the
base's W and s = lora_alpha / rank, so that their sum is W + s sum_i c_i B_i A_i. That is one
product of all factors, and no expert is ever written out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from xft.checkpoints.layout import FfnLayer, moe_layers, outside
from xft.checkpoints.model_files import EMBEDDINGS
from xft.checkpoints.reader import TensorSource
from xft.common.errors import UserError

MERGE_BLOCK = 2**19  # values; their sum (2 MB) stays in a CPU's cache while experts are added
STACK_BLOCK = 2**16  # values of each tensor; a block of nine tensors takes 5 MB


@dataclass(frozen=True)
class MergedTensor:
    """One tensor of the merged model.

    layer, projection, part: its place in the model.
    place: of its own coefficients in those of the model, [layers or 1, projections or 1, 1 + R].
    ffn: the FFN weights of the experts, or their factors.
    source: holds the shared expert's tensor, or the W that LoRA experts change.
    weight_name: the name of that tensor in `source`.
    """

    layer: FfnLayer
    projection: str
    part: str
    place: tuple[int, int]
    ffn: TensorSource
    source: TensorSource
    weight_name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape(self.weight_name)

    @property
    def dtype(self) -> str:
        """In safetensors' spelling."""
        return self.source.dtype(self.weight_name)

    @property
    def name(self) -> str:
        return self.layer.dense(self.projection, self.part)

    def coefficients_of(self, coefficients):
        """This tensor's coefficients [1 + R], from those of the whole model."""
        return coefficients[self.place]

    def squares(self, base):
        """mean_i |W_i - M|^2, |M - B|^2 and |B|^2, [3] in fp64, with the experts' mean M."""
        products = self.task_products(base)
        moved = products.mean()
        apart = (products.diagonal().mean() - moved).clamp(min=0)
        return torch.stack([apart, moved, squared_norm(base)])


class FullTensor(MergedTensor):
    """A tensor that each expert has for itself."""

    def experts(self) -> Iterator:
        """The shared expert's tensor, then each routed expert's, memory-mapped."""
        yield self.source.get_finite(self.weight_name)
        for name, held in self.layer.fused(self.part):
            if self.projection in held:
                pieces = self.ffn.get_finite(name).chunk(len(held), dim=1)
                yield from pieces[held.index(self.projection)]

    def merged(self, coefficients):
        """The sum in fp32, on the device of `coefficients` [1 + R], which are this tensor's own."""
        return merge(self.experts(), coefficients)

    def inner_products(self, gradient, first: int):
        """<G, W_i> of the experts from number `first` on, in fp64, for the gradient G of W."""
        gradient = gradient.float()
        experts = (expert.to(gradient.device) for expert in islice(self.experts(), first, None))
        return torch.stack([(gradient * expert).sum(dtype=torch.float64) for expert in experts])

    def task_products(self, base):
        """<W_i - B, W_j - B> of all experts, [1 + R, 1 + R] in fp64. base: B, of this shape."""
        vectors = (block[1:] - block[0] for block in stacked_blocks([base, *self.experts()]))
        return sum(block @ block.T for block in vectors)


class LowRankTensor(MergedTensor):
    """The weight of a projection of LoRA experts, with the methods of FullTensor."""

    @property
    def weight(self):
        """W [N, K], memory-mapped."""
        return self.source.get(self.weight_name)

    @property
    def scale(self) -> float:
        """s = lora_alpha / rank."""
        return self.ffn.config["lora_alpha"] / self._factor("A").shape[1]

    def experts(self) -> Iterator:
        """W + s B_i A_i of each expert, the shared one first, in fp32."""
        for a, b in zip(self._factor("A").float(), self._factor("B").float(), strict=True):
            yield self.weight.float().addmm(b, a, alpha=self.scale)

    def merged(self, coefficients):
        """W + s sum_i c_i B_i A_i in fp32, on the device of `coefficients`.

        The sum is one product, of the c_i B_i side by side and the A_i one below the other.
        """
        device = coefficients.device
        weight = self.weight.to(device).float()
        a = self._factor("A").to(device).float()
        b = self._factor("B").to(device).float()
        left = (b * coefficients.view(-1, 1, 1)).transpose(0, 1).flatten(1)  # [N, E r]
        return weight.addmm(left, a.flatten(0, 1), alpha=self.scale)

    def inner_products(self, gradient, first: int):
        """s <G, B_i A_i> of the experts from number `first` on, in fp64, for the gradient G of W.

        This is <G, W_i> without <G, W>, which all experts have in common. The coefficients sum to
        one, so that a common term has no effect on a logit.
        """
        gradient = gradient.float()
        a = self._factor("A")[first:].to(gradient.device).float()
        b = self._factor("B")[first:].to(gradient.device).float()
        through_a = (gradient @ a.flatten(0, 1).T).unflatten(1, a.shape[:2]).transpose(0, 1)
        return self.scale * (through_a * b).sum((1, 2), dtype=torch.float64)

    def task_products(self, base):
        """<W_i - B, W_j - B> of all experts, [1 + R, 1 + R] in fp64. base: B, of this shape.

        <B_i A_i, B_j A_j> is the sum of the values of B_i^T B_j times those of A_i A_j^T.
        """
        a = self._factor("A").double()
        b = self._factor("B").double()
        sizes = a.shape[:2]
        rows = a.flatten(0, 1)
        columns = b.transpose(0, 1).flatten(1)
        products = (rows @ rows.T) * (columns.T @ columns)  # [E r, E r]
        products = products.unflatten(0, sizes).unflatten(2, sizes).sum((1, 3))
        moved = self.weight.float() - base.float()  # zero, unless B is not W
        across = self.inner_products(moved, 0)
        return self.scale**2 * products + across + across[:, None] + squared_norm(moved)

    def _factor(self, letter: str):
        """A [E, r, K] or B [E, N, r], memory-mapped."""
        return self.ffn.get_finite(self.layer.factor(self.projection, letter))


def merged_tensors(source: TensorSource, ffn: TensorSource, shape: tuple[int, ...]) -> list:
    """All tensors to merge, FullTensor or LowRankTensor, in layer order.

    source: the mixture or its base.
    ffn: the FFN weights of its experts.
    shape: of the coefficients. Where an axis has the length 1, all share its coefficients.
    """
    tensors = []
    for number, layer in enumerate(moe_layers(ffn.names)):
        for projection, part in layer.merged:
            column = layer.form.projections.index(projection)
            place = min(number, shape[0] - 1), min(column, shape[1] - 1)
            if layer.low_rank:
                name = layer.frozen(projection, part)
                if name not in source:  # it is the base
                    name = layer.dense(projection, part)
                tensor = LowRankTensor(layer, projection, part, place, ffn, source, name)
            else:
                name = layer.shared(projection, part)
                tensor = FullTensor(layer, projection, part, place, ffn, ffn, name)
            tensors.append(tensor)
    return tensors


def name_in_base(base: TensorSource, name: str, shape: tuple[int, ...]) -> str:
    """The name in the base of a tensor of the mixture.

    A mixture's file may hold the head of tied embeddings. In the base that is the embedding.
    """
    tied = [other for other in base.names if other.endswith(EMBEDDINGS)]
    candidates = [name] if name in base else tied
    for candidate in candidates:
        if base.shape(candidate) == shape and base.is_float(candidate):
            return candidate
    raise UserError(
        f"{base.folder} has no floating-point tensor {name} of the shape {list(shape)}: it is not "
        "the base of this mixture. Give the base that the mixture was made from"
    )


def squared_norm(tensor):
    """The sum of the squares in fp64."""
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).square()


def merge(experts: Iterable, coefficients):
    """sum_i c_i W_i in fp32, on the coefficients' device.

    experts: 1 + R tensors of the same shape, of any dtype; coefficients [1 + R].
    """
    device = coefficients.device
    experts, shares = list(experts), coefficients.tolist()
    merged = torch.empty(experts[0].shape, dtype=torch.float32, device=device)
    size = MERGE_BLOCK if device.type == "cpu" else max(merged.numel(), 1)
    parts = [expert.reshape(-1).split(size) for expert in experts]
    for block, first, *others in zip(merged.view(-1).split(size), *parts, strict=True):
        block.copy_(first).mul_(shares[0])
        for other, share in zip(others, shares[1:], strict=True):
            block.add_(other.to(device), alpha=share)
    return merged


def stacked_blocks(tensors: Iterable) -> Iterator:
    """Yield the values of n tensors in fp64, [n, block], in row-major order.

    tensors: of the same shape, of any floating-point dtype.
    """
    parts = [tensor.reshape(-1).split(STACK_BLOCK) for tensor in tensors]
    for block in zip(*parts, strict=True):
        yield torch.stack([part.double() for part in block])


def unmerged(moe: TensorSource) -> dict[str, str]:
    """The tensors that the merged model takes unchanged from the mixture.

    Their names in the mixture, by their names in the merged model. Biases of LoRA experts are
    the base's, and so are not merged.
    """
    layers = moe_layers(moe.names)
    names = {name: name for name in outside(moe.names, layers)}
    for layer in layers:
        for tensor in layer.tensors:
            if tensor not in layer.merged:
                names[layer.dense(*tensor)] = layer.frozen(*tensor)
    return names
