"""The hub: models, rows and problems that are fetched in a pinned version.

`source.py` fetches files of a commit, and finds and checks models and rows. `named_sets.py` has
the problem sets that a configuration can name, and fetches them. Results call a set by its label,
such as humaneval-js for multipl-e/humaneval-js.
"""
