"""The models of the workflow: upcycled models with their MoE blocks, and mixing models.

An import of this package lets `AutoModelForCausalLM.from_pretrained` load upcycled models.
"""

from transformers import AutoConfig

from workflow_scripts.modeling.upcycling import MODEL_TYPE, XftConfig

AutoConfig.register(MODEL_TYPE, XftConfig)
