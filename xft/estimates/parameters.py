"""Numbers of parameters of the base and the mixture, and of those that compute a token or learn."""

import math
from dataclasses import dataclass
from functools import cached_property

from xft.checkpoints.layout import FfnLayer, dense_layers
from xft.config.sections import MoeConfig
from xft.conversions.upcycle import chosen_layers, upcycle
from xft.estimates.tensors import TensorTable, planned_table


@dataclass(frozen=True)
class Models:
    """The base, and the mixture that step 1 makes of it. moe: the config's section."""

    base: TensorTable
    moe: MoeConfig

    @cached_property
    def mixture(self) -> TensorTable:
        """The tensors that step 1 would write. Raises UserError if step 1 would."""
        return planned_table(upcycle(self.base, self.moe, seed=0), self.base)

    @cached_property
    def layers(self) -> list[FfnLayer]:
        """The MLPs of all decoder layers of the base."""
        return dense_layers(self.base.names, self.base.config)

    @cached_property
    def upcycled(self) -> list[FfnLayer]:
        """The MLPs that become mixtures."""
        return chosen_layers(self.base, self.moe.upcycled_layers)

    @property
    def routed(self) -> int:
        """The number of routed experts of a layer: all except the shared one."""
        return self.moe.num_experts - self.moe.shared_expert

    @property
    def chosen(self) -> int:
        """The number of routed experts that compute a token."""
        return self.moe.num_experts_per_tok - self.moe.shared_expert

    @property
    def ffn(self) -> int:
        """The number of parameters of the base's MLPs that become mixtures."""
        return sum(
            self.base.size(layer.dense(*tensor))
            for layer in self.upcycled
            for tensor in layer.tensors
        )

    @property
    def head(self) -> int:
        """The number of weights of the output layer, without a bias."""
        return self.base.config["vocab_size"] * self.base.config["hidden_size"]

    @property
    def is_low_rank(self) -> bool:
        """Whether the experts are low-rank changes of the base's MLPs."""
        return self.moe.experts == "lora"

    @property
    def learns_rest(self) -> bool:
        """Whether step 2 changes the weights outside the MLPs themselves."""
        return not self.is_low_rank or self.moe.train_rest == "full"

    @property
    def expert(self) -> int:
        """The number of parameters that an expert has for itself, in all layers."""
        if not self.is_low_rank:
            return self.ffn
        shapes = (
            self.base.shape(layer.dense(projection))
            for layer in self.upcycled
            for projection in layer.form.projections
        )
        return sum(self.moe.rank * sum(shape) for shape in shapes)

    @cached_property
    def learned(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters that step 2 changes, by name.

        With train_rest lora they include factors that are not part of the mixture.
        """
        held = {name: self.mixture.shape(name) for name in self.mixture.parameters}
        if not self.is_low_rank:
            return held
        frozen = tuple(f"{layer.prefix}.dense." for layer in self.upcycled)
        if self.moe.train_rest == "full":
            return {name: held[name] for name in held if not name.startswith(frozen)}
        blocks = tuple(f"{layer.prefix}." for layer in self.upcycled)
        inside = {n: held[n] for n in held if n.startswith(blocks) and not n.startswith(frozen)}
        mlps = tuple(f"{layer.prefix}." for layer in self.layers)
        added = self.factors(self.moe.rank, mlps) if self.moe.train_rest == "lora" else {}
        return inside | added

    def factors(self, rank: int, without: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
        """The shapes of low-rank factors beside the base's linear layers, by name.

        without: prefixes of the names of layers that get none.
        """
        factors = {}
        for name in self.base.parameters:
            shape = self.base.shape(name)
            if ".layers." in name and len(shape) == 2 and not name.startswith(without):
                factors |= {f"{name}.A": (rank, shape[1]), f"{name}.B": (shape[0], rank)}
        return factors

    def learned_of_base(self, lora_rank: int | None) -> int:
        """The number of parameters that learn in a tuning of the base.

        lora_rank: of the products beside its linear layers; None if all weights learn.
        """
        if lora_rank is None:
            return self.dense_total
        return sum(map(math.prod, self.factors(lora_rank).values()))

    @property
    def learned_total(self) -> int:
        """The number of parameters that step 2 changes."""
        return sum(map(math.prod, self.learned.values()))

    @property
    def added_total(self) -> int:
        """The number of those that are not part of the mixture."""
        kept = self.mixture.parameters
        return sum(math.prod(self.learned[name]) for name in self.learned if name not in kept)

    @property
    def frozen_active(self) -> int:
        """The number of parameters that compute every token and that step 2 does not change."""
        kept = self.mixture.parameters
        frozen = sum(size for name, size in kept.items() if name not in self.learned)
        return frozen - (0 if self.learns_rest else self.base.embedding)

    @property
    def with_full_experts(self) -> "Models":
        """The same with full experts, whose tuning changes all weights."""
        return Models(self.base, self.moe.model_copy(update={"experts": "full"}))

    @property
    def dense_total(self) -> int:
        return sum(self.base.parameters.values())

    @property
    def moe_total(self) -> int:
        return sum(self.mixture.parameters.values())

    @property
    def moe_active(self) -> int:
        """The number of parameters that compute one token, with only its chosen experts."""
        return self.moe_total - (self.routed - self.chosen) * self.expert
