"""Numbers of parameters of the base and the mixture, and of those that compute a token."""

from dataclasses import dataclass
from functools import cached_property

from workflow_scripts.checkpoints.layout import FfnLayer, dense_layers
from workflow_scripts.config.sections import MoeConfig
from workflow_scripts.conversions.upcycle import chosen_layers, upcycle
from workflow_scripts.planning.tensors import TensorTable, planned_table


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
    def dense_total(self) -> int:
        return sum(self.base.parameters.values())

    @property
    def moe_total(self) -> int:
        return sum(self.mixture.parameters.values())

    @property
    def moe_active(self) -> int:
        """The number of parameters that compute one token, with only its chosen experts."""
        return self.moe_total - (self.routed - self.chosen) * self.ffn
