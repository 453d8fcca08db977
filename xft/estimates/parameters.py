"""Numbers of parameters of the base and the mixture, and of those that compute a token or learn."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from xft.checkpoints.header import TensorInfo
from xft.checkpoints.layout import FfnLayer, dense_layers, outside
from xft.config.sections import MoeConfig
from xft.config.training import TrainingConfig
from xft.conversions.upcycle import chosen_layers, upcycle
from xft.estimates.tensors import ModelTable


@dataclass(frozen=True)
class Trained:
    """Numbers of parameters of a model that is trained.

    active: those that compute a token. whole: whether embedding and output layer learn too.
    """

    total: int
    learned: int
    active: int
    whole: bool


@dataclass(frozen=True)
class Models:
    """The base, and the mixture that step 1 makes of it. moe: the config's section."""

    base: ModelTable
    moe: MoeConfig

    @cached_property
    def mixture(self) -> ModelTable:
        """The tensors that step 1 would write. Raises UserError if step 1 would."""
        plans = upcycle(self.base, self.moe, seed=0)
        tensors = {plan.name: TensorInfo(plan.dtype, plan.shape) for plan in plans}
        return replace(self.base, tensors=tensors)

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

    def _factors_outside(self, mlps: list[FfnLayer], rank: int) -> int:
        """The same for all linear layers that belong to none of these MLPs."""
        names = [name for name in outside(self.base.parameters, mlps) if ".layers." in name]
        return self._factors((name for name in names if len(self.base.shape(name)) == 2), rank)

    def trained(self, options: TrainingConfig) -> Trained:
        """What a training with these options trains."""
        dense = self.dense_total
        match options.trains:
            case "mixture":
                return self._trained_mixture
            case "shares":
                return Trained(dense, self.ffn, dense, whole=False)
        if rank := getattr(options, "lora_rank", None):
            learned = self._factors_outside([], rank)
            return Trained(dense + learned, learned, dense + learned, whole=False)
        return Trained(dense, dense, dense, whole=True)

    @cached_property
    def _trained_mixture(self) -> Trained:
        total, active = self.moe_total, self.moe_active
        if not self.is_low_rank:
            return Trained(total, total, active, whole=True)
        if self.moe.train_rest == "full":
            return Trained(total, total - self.ffn, active, whole=True)
        is_added = self.moe.train_rest == "lora"
        added = self._factors_outside(self.layers, self.moe.rank) if is_added else 0
        learned = total - self.dense_total + added
        return Trained(total + added, learned, active + added, whole=False)

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
