"""Step 1: replaces every FFN of a dense model by experts made of it and a new router.

Full experts are copies of the FFN. LoRA experts are the FFN, which they share, and products
B_i A_i: B_i is zero, and A_i is uniform between +-1/sqrt(K) for K inputs, as in PEFT.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from xft.checkpoints.layout import FfnLayer, dense_layers, outside
from xft.checkpoints.model_files import FLOAT_NAMES, check_rank, torch_dtype
from xft.checkpoints.reader import TensorSource
from xft.checkpoints.writer import TensorSpec, computed_spec, copy_spec
from xft.common.errors import UserError, errors_at
from xft.common.user_code import called
from xft.config.section import keys
from xft.config.sections import MixtureConfig, MoeConfig

DEFAULT_INITIALIZER_RANGE = 0.02


def upcycle(
    base: TensorSource, moe: MoeConfig, seed: int, init: Callable | None = None
) -> list[TensorSpec]:
    """The tensors of the upcycled model.

    moe: the config's section `moe`. Router weights are normal with the base's
    initializer_range, drawn from `seed` and the tensor's name; the noise weights are zero.
    init: makes the weights of each routed expert, in place of copies.
    Raises UserError if a layer cannot be upcycled in this way.
    """
    layers = chosen_layers(base, moe.upcycled_layers)
    if moe.experts == "lora":
        names = [layer.dense(name) for layer in layers for name in layer.form.projections]
        check_rank("rank", moe.rank, {name: min(base.shape(name)) for name in names})
    specs = [copy_spec(base, name) for name in outside(base.names, layers)]
    for layer in layers:
        if moe.experts == "lora":
            specs += low_rank_specs(base, layer, moe, seed)
        else:
            specs += _expert_specs(base, layer, moe, seed, init)
        specs += _router_specs(base, layer, moe, seed)
    return specs


def chosen_layers(base: TensorSource, indices: list[int] | None) -> list[FfnLayer]:
    """The layers of a dense model with these indices; None means all layers.

    Raises UserError if there is no such layer, or a layer cannot be upcycled.
    """
    with errors_at(str(base.folder)):
        layers = dense_layers(base.names, base.config)
    if indices is None:
        return layers
    beyond = [str(index) for index in indices if index >= len(layers)]
    if beyond:
        raise UserError(
            f"upcycled_layers names {', '.join(beyond)}: "
            f"{base.folder} has layers 0 to {len(layers) - 1}"
        )
    return [layer for layer in layers if layer.index in indices]


def upcycled_config(base_config: dict, moe: MixtureConfig, dtype: str) -> dict:
    """The config.json of the upcycled model. It holds the base's config unchanged.

    EOS stands beside it too, for transformers, which ends texts there if the model has no
    generation config.
    """
    config = {
        "base_config": base_config,
        "architectures": [f"Xft{name}" for name in base_config.get("architectures") or []],
        "model_type": "xft",
        "dtype": dtype,
        **moe.model_dump(include=set(keys(MixtureConfig))),
    }
    if "eos_token_id" in base_config:
        config["eos_token_id"] = base_config["eos_token_id"]
    return config


def weights_dtype(base: TensorSource) -> str:
    """The dtype of a dense model's FFN weights, in torch's spelling.

    Raises UserError unless all have the same floating-point dtype.
    """
    layers = dense_layers(base.names, base.config)
    dtypes = {base.dtype(layer.dense(*tensor)) for layer in layers for tensor in layer.tensors}
    if len(dtypes) > 1 or not dtypes <= FLOAT_NAMES.keys():
        raise UserError(
            f"{base.folder}: the MLPs' weights are {', '.join(sorted(dtypes))}. All must be of the "
            f"same type, one of {', '.join(FLOAT_NAMES)}"
        )
    return FLOAT_NAMES[dtypes.pop()]


def _expert_specs(
    base: TensorSource, layer: FfnLayer, moe: MoeConfig, seed: int, init: Callable | None
) -> Iterable[TensorSpec]:
    """The shared expert, if there is one, and the routed experts of a layer."""
    routed = moe.num_routed_experts
    if moe.shared_expert:
        for tensor in layer.tensors:
            yield copy_spec(base, layer.dense(*tensor), layer.shared(*tensor))
    for part in layer.parts:
        for (name, projections), roles in zip(layer.fused(part), _roles(layer), strict=True):
            dense = [layer.dense(projection, part) for projection in projections]
            dtype = base.dtype(dense[0])
            outputs = sum(base.shape(held)[0] for held in dense)
            shape = (routed, outputs, *base.shape(dense[0])[1:])
            if init is not None and part == "weight":
                experts = _MadeExperts(init, base, layer, moe, seed)
                chunks = partial(experts.matrices, roles, torch_dtype(dtype))
            else:
                chunks = partial(_copies, base, dense * routed)
            yield TensorSpec(name, dtype, shape, chunks)


def _copies(base: TensorSource, names: Iterable[str]) -> Iterator:
    """The tensors of the base of these names, one at a time."""
    for name in names:
        yield base.get_finite(name)


def _roles(layer: FfnLayer) -> list[tuple[str, ...]]:
    """The names of a layer's matrices for a function of the user's, fused as they are stored."""
    inputs = ("gate", "up") if layer.form.gated else ("up",)
    return [inputs, ("down",)]


@dataclass(frozen=True)
class _MadeExperts:
    """The routed experts of a layer, by a function of the user's, `init`.

    An expert's draws depend on the seed, the layer and the expert, and on nothing else.
    """

    init: Callable
    base: TensorSource
    layer: FfnLayer
    moe: MoeConfig
    seed: int

    def matrices(self, roles: tuple[str, ...], dtype) -> Iterator:
        """The matrices of these roles of each routed expert, one at a time, in this dtype."""
        for expert in range(int(self.moe.shared_expert), self.moe.num_experts):
            weights = self._weights(expert)
            for role in roles:
                yield weights[role].to(dtype)

    def _weights(self, expert: int) -> dict:
        """The matrices of an expert by role. Raises UserError if the function gives others."""
        place = f"{self.layer.prefix}.expert.{expert}"
        weights = self._mlp()
        shapes = _shapes(weights)
        generator = seeded_generator(self.seed, place)
        made = called(self.init, f"moe.init: {place}", weights, generator)
        if not isinstance(made, dict) or _shapes(made) != shapes:
            raise UserError(f"moe.init: {place}: it must return tensors as it gets them, by name")
        if not all(matrix.isfinite().all() for matrix in made.values()):
            raise UserError(f"moe.init: {place}: it returned values that are not finite")
        return made

    def _mlp(self) -> dict:
        """Copies of the matrices of the base's MLP by role, in fp32 on the CPU."""
        import torch

        weights = {}
        for (_, projections), roles in zip(self.layer.fused(), _roles(self.layer), strict=True):
            names = [self.layer.dense(projection) for projection in projections]
            fused = torch.cat([self.base.get_finite(name).cpu() for name in names]).float()
            for role, matrix in zip(roles, fused.chunk(len(roles)), strict=True):
                weights[role] = matrix.clone()
        return weights


def _shapes(matrices: dict) -> dict:
    return {role: matrix.shape for role, matrix in matrices.items()}


def _router_specs(
    base: TensorSource, layer: FfnLayer, moe: MoeConfig, seed: int
) -> Iterable[TensorSpec]:
    """The router of a layer. Its noise weights are zero."""
    routed = moe.num_routed_experts
    first = layer.dense(layer.form.inputs[0])
    hidden = base.shape(first)[1]
    dtype = base.dtype(first)
    std = base.config.get("initializer_range") or DEFAULT_INITIALIZER_RANGE
    shapes = {"input": (routed, hidden)}
    if moe.router == "mlp":
        shapes["output"] = (routed, routed)
    if moe.router_noise:
        shapes["noise"] = (routed, hidden)
    for part, shape in shapes.items():
        name = layer.router(part)
        scale = 0 if part == "noise" else std
        yield computed_spec(name, dtype, shape, partial(_drawn, name, shape, scale, seed))


def _drawn(name: str, shape: tuple[int, ...], std: float, seed: int):
    import torch

    return torch.randn(shape, generator=seeded_generator(seed, name)) * std


def low_rank_specs(
    base: TensorSource, layer: FfnLayer, moe: MoeConfig, seed: int
) -> Iterable[TensorSpec]:
    """The base's MLP and the factors of a layer's experts.

    The draws of an expert's A depend on the seed, the tensor's name and the expert's number.
    """
    for tensor in layer.tensors:
        yield copy_spec(base, layer.dense(*tensor), layer.frozen(*tensor))
    for projection in layer.form.projections:
        weight = layer.dense(projection)
        dtype = base.dtype(weight)
        outputs, inputs = base.shape(weight)
        a = layer.factor(projection, "A")
        shape = (moe.num_experts, moe.rank, inputs)
        yield computed_spec(a, dtype, shape, partial(_drawn_factor, a, shape, seed))
        b = layer.factor(projection, "B")
        shape = (moe.num_experts, outputs, moe.rank)
        yield computed_spec(b, dtype, shape, partial(_zeros, shape))


def _drawn_factor(name: str, shape: tuple[int, ...], seed: int):
    """The factor A of all experts, in fp32."""
    import torch

    bound = 1 / math.sqrt(shape[-1])
    drawn = torch.empty(shape)
    for expert, values in enumerate(drawn):
        values.uniform_(-bound, bound, generator=seeded_generator(seed, f"{name}.{expert}"))
    return drawn


def _zeros(shape: tuple[int, ...]):
    import torch

    return torch.zeros(shape)


def seeded_generator(seed: int, name: str):
    """A torch generator for what has this name. Its draws depend on seed and name alone."""
    import torch

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
