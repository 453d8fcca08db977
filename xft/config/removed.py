"""Keys and values that the configuration had, and what does the same now."""

COMMIT = "f17b3a61"  # the last one that has all of them
# What to write in their place. {} is the key's value.
FILES = {
    "moe.init = noise": "init: examples/inits/noise.py:noise",
    "moe.init = drop": "init: examples/inits/drop.py:drop",
    "moe.init_noise": "init: examples/inits/noise.py:noise(share={})",
    "moe.init_drop": "init: examples/inits/drop.py:drop(share={})",
    "moe_sft.expert_decay": "callbacks: [examples/callbacks/expert_decay.py:"
    "ExpertDecay(strength={})]",
    "moe_sft.noise_steps": "callbacks: [examples/callbacks/fading_noise.py:FadingNoise(steps={})]",
    "moe_sft.router_learning_rate": "callbacks: [examples/callbacks/router_rate.py:"
    "RouterRate(learning_rate={})]",
    "moe_sft.balance_loss_batch": "callbacks: [examples/callbacks/global_balance.py:GlobalBalance] "
    "for global",
    "merge.method = model_stock": "method: examples/merges/model_stock.py:model_stock",
    "merge.method = task_arithmetic": "method: examples/merges/task_arithmetic.py:task_arithmetic",
    "merge.method = select": "method: examples/merges/select.py:select",
    "merge.scale": "method: examples/merges/task_arithmetic.py:task_arithmetic(scale={})",
}
WITHOUT_FILE = {
    *("exfusion", "heal", "moe_sft.loss", "sft.loss", "moe_sft.router_gradient"),
    *("mixing.learn_lambda", "mixing.objective", "mixing.kl_weight"),
    *(f"evaluation.models = {model}" for model in ("exfusion", "experts_only", "heal")),
}


def removal(name: str, value: object = None) -> str | None:
    """The end of a message about a key, or about its value, if it was in the configuration."""
    for known in (name, f"{name.partition('[')[0]} = {value}"):
        if known in FILES:
            return f"is a file now. Write {FILES[known].format(value)} in its place"
        if known in WITHOUT_FILE:
            return f"was removed. The last commit with it is {COMMIT}"
    return None
