"""The models that a run can make and evaluate."""

# In the order of the tables: from the base to the merged models. What the description of
# `evaluation.models` says of each.
MODELS = {
    "base": "the given model, not fine-tuned",
    "moe": "the base as a mixture of experts, not fine-tuned",
    "sft": "plain fine-tuning: the base tuned without experts, by section sft",
    "sft_flops": "sft with as many FLOPs as the mixture's tuning",
    "soup": "the mean of the sft models of all seeds",
    "moe_sft": "the mixture of experts, fine-tuned",
    "uniform": "dense with equal shares, without step 6",
    "dense": "the merged model of each lambda",
}
UNTUNED = ("base", "moe")  # models that have seen no instructions
MIXTURES = ("moe", "moe_sft")
MERGED = ("uniform", "dense")  # one of each for each lambda
OF_MIXTURE = ("moe_sft", *MERGED)  # those that hold, or are made from, a tuned mixture
REFERENCES = ("base", "sft", "sft_flops", "soup", "moe_sft")  # each later model is compared with
MODEL_KINDS = ("base", "moe", "sft", "soup", "moe_sft", "dense")  # of artifacts, and steps


def family(model: str) -> str:
    """The declared name of a model: `dense` of `dense/lam~0.75`."""
    return model.partition("/")[0]
