"""The user's configuration. Nothing here imports torch.

In the order of reading: `section` (the base class of sections, and types of keys), `training` and
`sections` (every key, with type, range, default and meaning), `reading` (from files to a checked
configuration, and what a results folder records of it), `runs` (variants x sweep x seeds),
`run_checks` (what these must fulfil), `steps` (which keys each step reads, and which files it
writes).
"""
