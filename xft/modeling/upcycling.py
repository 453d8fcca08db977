"""Upcycled models: transformers' backbones with MoE blocks in place of MLPs.

The backbone's own classes do the rest: attention, RoPE, cache, generation.
"""

import functools
import inspect
import warnings
from dataclasses import dataclass

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, conversion_mapping
from transformers import initialization as init
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from xft.common.errors import UserError
from xft.modeling.experts import Experts
from xft.modeling.moe_blocks import Factors, LowRankBlock, MoeBlock, RoutedBlock, TokenMask
from xft.modeling.router import NoiseProjection, Routing, squared_variation

NO_BALANCE = (
    "the balance loss is not part of this loss: the mixture is trained without labels, or only its "
    "backbone is called. Use the mixture's own loss, or add its aux_loss (docs/trainers.md)"
)


def __getattr__(name: str) -> type[nn.Module]:
    """The class of a name such as XftLlamaForCausalLM. Unpickling asks for it before it is made."""
    base = getattr(transformers, name[3:], None) if name.startswith("Xft") else None
    if not hasattr(base, "config_class"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    config_class = CONFIG_MAPPING["xft"].over(base.config_class.model_type)
    return MODEL_FOR_CAUSAL_LM_MAPPING[config_class]


def model_class(config_class: type, base_config_class: type) -> type[nn.Module]:
    """The class of upcycled models with a config class, over the backbone of the base's.

    Raises UserError if transformers has no causal language model for it.
    """
    if base_config_class not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"transformers has no causal language model for {base_config_class.__name__}"
        )
    base = MODEL_FOR_CAUSAL_LM_MAPPING[base_config_class]
    named = conversion_mapping.get_checkpoint_conversion_mapping
    names = named(base.__name__) or named(base_config_class.model_type)
    if names:  # the checkpoint's names differ from the modules'
        conversion_mapping.register_checkpoint_conversion_mapping(f"Xft{base.__name__}", names)
    members = {"config_class": config_class, "forward": _forward_over(base), "__module__": __name__}
    name = f"Xft{base.__name__}"
    # The Trainer shifts labels, for label smoothing, only for the classes in this list.
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[f"xft_{base_config_class.model_type}"] = name
    return type(name, (UpcycledModel, base), members)


def _forward_over(base: type[nn.Module]):
    """The backbone's forward. In training its loss has the balance loss.

    It has the backbone's signature, because generation and training inspect that.
    """

    @functools.wraps(base.forward)
    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        asks_for_routers = kwargs.pop("output_router_logits", False)
        kwargs["return_dict"] = True
        self.in_forward = True
        try:
            output = base.forward(self, input_ids, attention_mask, **kwargs)
        finally:
            routings = self.take_routings()
            self.in_forward = False
        balance = None
        if asks_for_routers or kwargs.get("labels") is not None:
            balance = self.balance_loss(routings)
            self.check_gradient(routings[0])
        elif self.training and torch.is_grad_enabled():
            warnings.warn(NO_BALANCE, stacklevel=2)
        loss = output.loss
        if loss is not None and self.training:
            loss = loss + balance * token_share(kwargs["labels"], kwargs.get("num_items_in_batch"))
        values = {**output}
        values["loss"] = loss
        values["aux_loss"] = balance
        values["router_logits"] = tuple(routing.logits for routing in routings)
        values["routing"] = tuple(routings)
        return XftOutput(**values)

    return forward


def token_share(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None):
    """This micro-batch's share of the trained tokens of its global batch; 1 without a count.

    The share weighs the micro-batch's balance loss like its cross-entropy.
    """
    if num_items_in_batch is None:
        return 1
    return (labels[..., 1:] != -100).sum() / num_items_in_batch


@dataclass
class XftOutput(MoeCausalLMOutputWithPast):
    """transformers' MoE output, and the routing of each upcycled layer."""

    routing: tuple | None = None


class UpcycledModel:
    """Mixin over the backbone's causal LM class: `mlp` of each upcycled layer is a MoeBlock,
    or a LowRankBlock if the config's `experts` is "lora".
    """

    def __init__(self, config):
        requested = config._experts_implementation
        config._experts_implementation = "eager"  # the backbone, built first, knows no experts
        super().__init__(config)
        config._experts_implementation = self.get_correct_experts_implementation(requested)
        self.token_mask = TokenMask()
        self.in_forward = False
        block_class = LowRankBlock if config.experts == "lora" else MoeBlock
        layers = self.get_decoder().layers
        indices = config.upcycled_layers
        if indices is None:
            indices = range(len(layers))
        for index in indices:
            layers[index].mlp = block_class(config, layers[index].mlp, self.token_mask)
        # Others call the backbone alone: trainers with a fused head, and probes of hidden states.
        self.get_decoder().register_forward_pre_hook(self._before_backbone, with_kwargs=True)
        self.post_init()

    def _before_backbone(self, backbone: nn.Module, args: tuple, kwargs: dict) -> None:
        """Set the padding of this pass."""
        given = inspect.signature(backbone.forward).bind_partial(*args, **kwargs).arguments
        inputs = given.get("input_ids")
        inputs = given["inputs_embeds"] if inputs is None else inputs
        self.token_mask.set(given.get("attention_mask"), length=inputs.shape[1])
        self.token_mask.keeps_routing = self.in_forward
        if self.training and not self.in_forward:
            warnings.warn(NO_BALANCE, stacklevel=2)

    @property
    def moe_blocks(self) -> list[RoutedBlock]:
        """The MoE blocks, first layer first."""
        return [module for module in self.modules() if isinstance(module, RoutedBlock)]

    def choose_trainable(self, freeze_rest: bool) -> None:
        """Let LoRA experts and their routers learn, and not the base's MLPs.

        freeze_rest: nor anything else.
        """
        if freeze_rest:
            self.requires_grad_(False)
        for block in self.moe_blocks:
            block.dense.requires_grad_(False)
            block.experts.requires_grad_(True)
            block.router.requires_grad_(True)

    def take_routings(self) -> list:
        """Take the routing of the last forward pass from each block."""
        routings = [block.routing for block in self.moe_blocks]
        for block in self.moe_blocks:
            block.routing = None
        self.token_mask.keeps_routing = False
        return routings

    def balance_loss(self, routings: list) -> torch.Tensor:
        """coefficient * sum over the layers of CV^2(importance) + CV^2(load)."""
        device = routings[0].logits.device
        counts = torch.stack([routing.counts.to(device) for routing in routings])
        return self.config.balance_loss_coef * squared_variation(counts).sum()

    def check_gradient(self, routing: Routing) -> None:
        """Raise UserError if a routing has no gradient although its router, the first, learns."""
        learns = any(p.requires_grad for p in self.moe_blocks[0].router.parameters())
        is_lost = learns and not routing.logits.requires_grad
        if is_lost and self.training and torch.is_grad_enabled():
            raise UserError(
                "activations are computed again with use_reentrant=True, which loses the gradient "
                'of the balance loss. Set gradient_checkpointing_kwargs={"use_reentrant": False}'
            )

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """This project's implementation by default: transformers' own ones ignore autocast."""
        return super().get_correct_experts_implementation(requested_experts or "eager")

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialise this project's modules before the backbone initialises the others.

        The backbone would treat the noise projection like any linear layer.
        """
        std = getattr(self.config, "initializer_range", 0.02)
        for module in self.modules():
            if getattr(module, "_is_hf_initialized", False):
                continue
            if isinstance(module, NoiseProjection):
                init.zeros_(module.weight)
            elif isinstance(module, Experts):
                for name, parameter in module.named_parameters(recurse=False):
                    if name.endswith("_bias"):
                        init.zeros_(parameter)
                    else:
                        init.normal_(parameter, std=std)
            elif isinstance(module, Factors):
                bound = module.lora_A.shape[2] ** -0.5
                init.uniform_(module.lora_A, -bound, bound)
                init.zeros_(module.lora_B)
            else:
                continue
            module._is_hf_initialized = True
        super().initialize_weights()
