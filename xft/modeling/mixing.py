"""The mixing model: a dense backbone with MLPs that are merged from frozen experts.

The equation is in conversions/coefficients.py. Only the mixing logits learn. The merged weights W
are built once per optimiser step. Each micro-batch adds to their gradient G = dL/dW, as in dense
training. Once per optimiser step the chain rule gives dL/dc_i = <G, W_i> for the coefficient of
expert i, and then the gradients of the logits. The experts, or the factors of low-rank ones, stay
memory-mapped in their stored dtype, and are read layer by layer.
"""

from functools import partial

import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from xft.checkpoints.reader import TensorSource
from xft.conversions.coefficients import mixing_coefficients
from xft.conversions.merged_tensors import MergedTensor, merged_tensors, unmerged
from xft.modeling.configuration import dense_config
from xft.modeling.whole_models import load_whole


class MixingLogits(nn.Module):
    """The trained values: alpha, a vector [R] for each set of coefficients.

    alpha [layers or 1, projections or 1, R]; lam: lambda.
    """

    def __init__(self, alpha: Tensor, lam: float):
        super().__init__()
        self.sets = alpha.shape[:2]
        self.alpha = nn.ParameterList(vector.clone() for vector in alpha.flatten(0, 1))
        self.lam = lam

    def coefficients(self) -> Tensor:
        """The coefficients [layers or 1, projections or 1, 1 + R]. The first is lambda."""
        return mixing_coefficients(self._stacked(), self.lam)

    def values(self) -> Tensor:
        """The current alpha, on the CPU."""
        return self._stacked().detach().cpu()

    def _stacked(self) -> Tensor:
        return torch.stack(list(self.alpha)).unflatten(0, self.sets)


class Mixing:
    """A mixing model and its logits.

    model: of the backbone's own causal LM class, in `dtype`. None of its parameters learns; its
    merged weights are plain tensors that collect a gradient.
    logits: the `MixingLogits`, in fp32.
    gradient_norm: of all logits in the last step, before clipping.
    gradient_norms [layers or 1, projections or 1]: the same for each set of logits.
    """

    def __init__(
        self,
        moe: TensorSource,
        ffn: TensorSource,
        logits: MixingLogits,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.logits = logits.to(device)
        tensors = merged_tensors(moe, ffn, self.logits.coefficients().shape)
        self.model = _backbone(moe, tensors, dtype).requires_grad_(False).to(device)
        self.gradient_norm = 0.0
        self.gradient_norms = torch.zeros(logits.sets)
        self._merged = [(tensor, self._weight(tensor)) for tensor in tensors]
        self.merge()

    @torch.no_grad()
    def merge(self) -> None:
        """Build the merged weights from the current logits."""
        coefficients = self.logits.coefficients()
        for tensor, weight in self._merged:
            weight.copy_(tensor.merged(tensor.coefficients_of(coefficients)))

    def take_gradients(self, max_norm: float | None = None) -> None:
        """Compute the logits' gradients from the collected gradients of the merged weights.

        The gradients are averaged over the processes, and their norm is clipped at max_norm.
        """
        coefficients = self.logits.coefficients()
        gradient = torch.zeros_like(coefficients, dtype=torch.float64)
        for tensor, weight in self._merged:
            if weight.grad is not None:
                products = tensor.inner_products(weight.grad, 1)  # lambda has no gradient
                tensor.coefficients_of(gradient)[1:] += products
                weight.grad = None
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(gradient)
            gradient /= torch.distributed.get_world_size()
        self.logits.zero_grad()
        coefficients.backward(gradient.to(coefficients.dtype))
        norms = [nn.utils.get_total_norm([vector.grad]) for vector in self.logits.alpha]
        self.gradient_norms = torch.stack(norms).cpu().unflatten(0, self.logits.sets)
        limit = float("inf") if max_norm is None else max_norm
        self.gradient_norm = nn.utils.clip_grad_norm_(self.logits.parameters(), limit).item()

    def metrics(self) -> dict:
        """Each set's shares of the routed experts, and the gradient norms.

        distance_from_uniform: the largest distance of a share from 1/R; 0 is plain averaging.
        distances_from_uniform: the same for each set.
        """
        shares = self.logits.values().softmax(dim=-1)
        distances = (shares - 1 / shares.shape[-1]).abs().amax(dim=-1)
        return {
            "shares": shares.tolist(),
            "distance_from_uniform": distances.max().item(),
            "distances_from_uniform": distances.tolist(),
            "grad_norms": self.gradient_norms.tolist(),
            "grad_norm": self.gradient_norm,
        }

    def build_optimizer(
        self, optimizer_class: type[Optimizer], options: dict, max_norm: float | None = None
    ) -> Optimizer:
        """An optimiser of the logits. It takes their gradients before a step and merges after.

        A closure computes the loss of the logits at hand, as often as the optimiser asks for it.
        `zero_grad` also drops what the merged weights have collected.
        """
        optimizer = optimizer_class(self.logits.parameters(), **options)
        zero_grad = optimizer.zero_grad

        def before_step(_, args: tuple, kwargs: dict) -> tuple | None:
            closure = kwargs.get("closure", args[1] if args[1:] else None)
            if closure is None:
                return self.take_gradients(max_norm)

            def evaluate():
                self.merge()
                loss = closure()
                self.take_gradients(max_norm)
                return loss

            return (optimizer, evaluate), {}

        def zero_all(set_to_none: bool = True) -> None:
            for _, weight in self._merged:
                weight.grad = None
            zero_grad(set_to_none)

        optimizer.zero_grad = zero_all
        optimizer.register_step_pre_hook(before_step)
        optimizer.register_step_post_hook(lambda *_: self.merge())
        return optimizer

    def _weight(self, tensor: MergedTensor) -> Tensor:
        """Turn a parameter of the backbone into a plain tensor that collects a gradient.

        It is neither parameter nor buffer, so `model.to(...)` does not replace it by a copy.
        `merge` would not write to that copy.
        """
        mlp = self.model.get_decoder().layers[tensor.layer.index].mlp
        linear = mlp.get_submodule(tensor.projection)
        weight = getattr(linear, tensor.part).detach().requires_grad_()
        delattr(linear, tensor.part)
        setattr(linear, tensor.part, weight)
        linear.register_state_dict_post_hook(partial(_add_merged, tensor.part))
        linear.register_load_state_dict_pre_hook(partial(_take_merged, tensor.part))
        return weight


def _add_merged(part: str, linear: nn.Linear, state: dict, prefix: str, _) -> None:
    """Let the state of a layer hold its merged tensor, so that the model is saved whole."""
    state[f"{prefix}{part}"] = getattr(linear, part).detach()


def _take_merged(part: str, linear: nn.Linear, state: dict, prefix: str, *_) -> None:
    """Let a layer load the merged tensor that its state holds. The next merge replaces it."""
    weight = getattr(linear, part).detach()
    weight.copy_(state.pop(f"{prefix}{part}", weight))


def _backbone(moe: TensorSource, merged: list[MergedTensor], dtype: torch.dtype) -> PreTrainedModel:
    """The mixture's dense backbone. The values of the merged tensors are not set yet.

    Other tensors may stay memory-mapped in the mixture's files if the dtype is the same.
    """
    config = dense_config(moe.config)
    state = {new_name: moe.get(name) for new_name, name in unmerged(moe).items()}
    state |= {tensor.name: torch.empty(tensor.shape, dtype=dtype) for tensor in merged}
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return load_whole(model_class, None, config=config, state_dict=state, dtype=dtype)
