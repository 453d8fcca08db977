"""Step 1: replaces every FFN of a dense model by experts made of it and a new router.

Full experts are copies of the FFN. LoRA experts are the FFN, which they share, and products
B_i A_i: B_i is zero, and A_i is uniform between +-1/sqrt(K) for K inputs, as in PEFT.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
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
    expert_specs = partial(_expert_specs, init=init)
    if moe.experts == "lora":
        names = [layer.dense(name) for layer in layers for name in layer.form.projections]
        check_rank("rank", moe.rank, {name: min(base.shape(name)) for name in names})
        expert_specs = low_rank_specs
    specs = [copy_spec(base, name) for name in outside(base.names, layers)]
    for layer in layers:
        specs += expert_specs(base, layer, moe, seed)
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
    if beyond := [index for index in indices if index >= len(layers)]:
        raise UserError(
            f"upcycled_layers names {', '.join(map(str, beyond))}: "
            f"{base.folder} has layers 0 to {len(layers) - 1}"
        )
    return [layer for layer in layers if layer.index in indices]


def upcycled_config(base_config: dict, moe: MixtureConfig, dtype: str) -> dict:
    """The config.json of the upcycled model. It holds the base's config unchanged.

    EOS stands beside it too, for transformers, which ends texts there if the model has no
    generation config.
    """
    ends = {key: base_config[key] for key in base_config.keys() & {"eos_token_id"}}
    architectures = [f"Xft{name}" for name in base_config.get("architectures") or []]
    own = {"architectures": architectures, "model_type": "xft", "dtype": dtype}
    settings = moe.model_dump(include=set(keys(MixtureConfig)))
    return {"base_config": base_config} | ends | own | settings


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
    routed = moe.num_routed_experts
    if moe.shared_expert:
        for tensor in layer.tensors:
            yield copy_spec(base, layer.dense(*tensor), layer.shared(*tensor))
    for part in layer.parts:
        for (name, projections), roles in zip(layer.fused(part), _roles(layer), strict=True):
            dense = [layer.dense(projection, part) for projection in projections]
            outputs = sum(base.shape(held)[0] for held in dense)
            dtype, chunks = base.dtype(dense[0]), partial(_copies, base, dense * routed)
            if init and part == "weight":
                chunks = partial(_made_by, init, base, layer, moe, seed, roles, dtype)
            yield TensorSpec(name, dtype, (routed, outputs, *base.shape(dense[0])[1:]), chunks)


def _copies(base: TensorSource, names: Iterable[str]) -> Iterator:
    """The tensors of the base of these names, one at a time."""
    return map(base.get_finite, names)


def _roles(layer: FfnLayer) -> list[tuple[str, ...]]:
    """The names of a layer's matrices for a function of the user's, fused as they are stored."""
    return [("gate", "up") if layer.form.gated else ("up",), ("down",)]


def _made_by(init, base, layer, moe, seed, inside, dtype) -> Iterator:
    """The matrices `inside` of each routed expert, of this dtype, by a function of the user's.

    An expert's draws depend on the seed, the layer and the expert, and on nothing else.
    """
    import torch

    for expert in range(int(moe.shared_expert), moe.num_experts):
        weights = {}
        for (_, projections), roles in zip(layer.fused(), _roles(layer), strict=True):
            dense = [base.get_finite(layer.dense(projection)).cpu() for projection in projections]
            parts = torch.cat(dense).float().chunk(len(roles))
            weights |= {role: part.clone() for role, part in zip(roles, parts, strict=True)}
        shapes = {role: part.shape for role, part in weights.items()}
        place = f"{layer.prefix}.expert.{expert}"
        made = called(init, f"moe.init: {place}", weights, seeded_generator(seed, place))
        if not isinstance(made, dict) or shapes != {n: part.shape for n, part in made.items()}:
            raise UserError(f"moe.init: {place}: it must return tensors as it gets them, by name")
        if not all(part.isfinite().all() for part in made.values()):
            raise UserError(f"moe.init: {place}: it returned values that are not finite")
        yield from (made[role].to(torch_dtype(dtype)) for role in inside)


def _router_specs(
    base: TensorSource, layer: FfnLayer, moe: MoeConfig, seed: int
) -> Iterable[TensorSpec]:
    routed = moe.num_routed_experts
    first = layer.dense(layer.form.inputs[0])
    hidden, dtype = base.shape(first)[1], base.dtype(first)
    std = base.config.get("initializer_range") or DEFAULT_INITIALIZER_RANGE
    parts = {"input": (routed, hidden, std)}
    if moe.router == "mlp":
        parts["output"] = routed, routed, std
    if moe.router_noise:
        parts["noise"] = routed, hidden, 0
    for part, (*shape, scale) in parts.items():
        name, shape = layer.router(part), tuple(shape)
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
        dtype, (outputs, inputs) = base.dtype(weight), base.shape(weight)
        name, shape = layer.factor(projection, "A"), (moe.num_experts, moe.rank, inputs)
        yield computed_spec(name, dtype, shape, partial(_drawn_factor, name, shape, seed))
        name, shape = layer.factor(projection, "B"), (moe.num_experts, outputs, moe.rank)
        yield computed_spec(name, dtype, shape, partial(_zeros, shape))


def _drawn_factor(name: str, shape: tuple[int, ...], seed: int):
    """The factor A of all experts, in fp32."""
    import torch

    bound, drawn = 1 / math.sqrt(shape[-1]), torch.empty(shape)
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
