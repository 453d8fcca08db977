"""The library of the XFT workflow.

`xft.upcycle`, `diversity`, `Mixing`, `merge`, `soup` and `save` work on models in memory
(docs/library.md). `xft.prepare` lets a trainer of another library train a mixture
(docs/trainers.md).

After `import xft`, transformers' Auto classes load mixtures. The model type is registered as soon
as they are imported, so that what needs no transformers does not import it.
"""

from importlib import import_module

import wrapt

from xft.common.errors import UserError as UserError

IN_MEMORY = ("Mixing", "diversity", "merge", "prepare", "save", "soup", "upcycle")

wrapt.register_post_import_hook(
    lambda _: import_module("xft.modeling.configuration"),
    "transformers.models.auto.configuration_auto",
)


def __dir__() -> list[str]:
    return [*globals(), *IN_MEMORY]


def __getattr__(name: str):
    """The functions of xft.library, which imports torch and transformers, when they are used."""
    if name not in IN_MEMORY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("xft.library"), name)
