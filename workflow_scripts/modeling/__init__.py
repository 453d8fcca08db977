"""Router, MoE block, upcycled models, mixing.

Importing this package makes `AutoModelForCausalLM.from_pretrained` load upcycled models.
"""

from transformers import AutoConfig

from workflow_scripts.modeling.upcycling import MODEL_TYPE, XftConfig

AutoConfig.register(MODEL_TYPE, XftConfig)
