"""Keys and values that the configuration had, and what does the same now."""

COMMIT = "f17b3a61"  # the last one that has all of them
# Code in examples, and the key that names it, by the folder. {} is the value of the removed key.
FILES = {
    "moe.init = noise": "inits/noise.py:noise",
    "moe.init = drop": "inits/drop.py:drop",
    "moe.init_noise": "inits/noise.py:noise(share={})",
    "moe.init_drop": "inits/drop.py:drop(share={})",
    "moe_sft.expert_decay": "callbacks/expert_decay.py:ExpertDecay(strength={})",
    "moe_sft.noise_steps": "callbacks/fading_noise.py:FadingNoise(steps={})",
    "moe_sft.router_learning_rate": "callbacks/router_rate.py:RouterRate(learning_rate={})",
    "moe_sft.balance_loss_batch = global": "callbacks/global_balance.py:GlobalBalance",
    "merge.method = model_stock": "merges/model_stock.py:model_stock",
    "merge.method = task_arithmetic": "merges/task_arithmetic.py:task_arithmetic",
    "merge.method = select": "merges/select.py:select",
    "merge.scale": "merges/task_arithmetic.py:task_arithmetic(scale={})",
}
KEYS = {"inits": "moe.init", "callbacks": "moe_sft.callbacks", "merges": "merge.method"}
WITHOUT_FILE = {
    *("exfusion", "heal", "moe_sft.loss", "sft.loss", "moe_sft.router_gradient"),
    *("mixing.learn_lambda", "mixing.objective", "mixing.kl_weight", "moe_sft.balance_loss_batch"),
    *(f"evaluation.models = {model}" for model in ("exfusion", "experts_only", "heal")),
}


def removal(name: str, value: object) -> str | None:
    """The end of a message about a key, or about its value, if it was in the configuration."""
    for known in (f"{name.partition('[')[0]} = {value}", name):
        if known in FILES:
            code = FILES[known].format(value)
            return f"is a file now. Name examples/{code} in {KEYS[code.partition('/')[0]]}"
        if known in WITHOUT_FILE:
            return f"was removed. The last commit with it is {COMMIT}"
    return None
