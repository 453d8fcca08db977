"""The library of the XFT workflow.

After `import xft`, transformers' Auto classes load mixtures. The model type is registered as soon
as they are imported, so that what needs no transformers does not import it.
"""

from importlib import import_module

import wrapt

wrapt.register_post_import_hook(
    lambda _: import_module("xft.modeling.configuration"),
    "transformers.models.auto.configuration_auto",
)
