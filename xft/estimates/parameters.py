"""Numbers of parameters of the base and the mixture, and of those that compute a token or learn."""

from collections.abc import Iterable
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
        projections = self.layers[0].form.projections
        names = (layer.dense(name) for layer in self.upcycled for name in projections)
        return self._factors(names, self.moe.rank)

    def _factors(self, names: Iterable[str], rank: int) -> int:
        """The number of parameters of low-rank factors beside these matrices of the base."""
        return rank * sum(sum(self.base.shape(name)) for name in names)

    def _factors_outside(self, prefixes: tuple[str, ...], rank: int) -> int:
        """The same for all linear layers whose names do not begin with one of the prefixes."""
        linear = (
            name
            for name in self.base.parameters
            if ".layers." in name and len(self.base.shape(name)) == 2
        )
        return self._factors((name for name in linear if not name.startswith(prefixes)), rank)

    def learned_of_base(self, lora_rank: int | None) -> int:
        """The number of parameters that learn in a tuning of the base.

        lora_rank: of the products beside its linear layers; None if all weights learn.
        """
        return self.dense_total if lora_rank is None else self._factors_outside((), lora_rank)

    @cached_property
    def added_total(self) -> int:
        """The number of parameters that step 2 tunes and that are not part of the mixture."""
        if not self.is_low_rank or self.moe.train_rest != "lora":
            return 0
        return self._factors_outside(tuple(f"{x.prefix}." for x in self.layers), self.moe.rank)

    @property
    def learned_total(self) -> int:
        """The number of parameters that step 2 changes."""
        if self.learns_rest:
            return self.moe_total - self.is_low_rank * self.ffn
        return self.moe_total - self.dense_total + self.added_total

    @property
    def frozen_active(self) -> int:
        """The number of parameters that compute every token and that step 2 does not change."""
        frozen = self.moe_total + self.added_total - self.learned_total
        return frozen - (0 if self.learns_rest else self.base.embedding)

    @cached_property
    def dense_total(self) -> int:
        return sum(self.base.parameters.values())

    @cached_property
    def moe_total(self) -> int:
        return sum(self.mixture.parameters.values())

    @property
    def moe_active(self) -> int:
        """The number of parameters that compute one token, with only its chosen experts."""
        return self.moe_total - (self.moe.num_experts - self.moe.num_experts_per_tok) * self.expert
