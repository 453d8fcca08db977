"""The names of the models that a run can make and evaluate."""

# Models that exist once for each lambda.
MERGED = ("uniform", "experts_only", "dense", "heal")
# All models, in the order of the tables: from the base to the merged ones.
MODELS = ("base", "moe", "sft", "sft_flops", "soup", "moe_sft", *MERGED)
# Models that have seen no instructions.
UNTUNED = ("base", "moe")
# Models with experts.
MIXTURES = ("moe", "moe_sft")
# Models that hold, or are made from, a tuned mixture.
OF_MIXTURE = ("moe_sft", *MERGED)
# The steps of the models that have no step of their own.
STEPS = {"sft_flops": "sft", "uniform": "dense", "experts_only": "dense"}
