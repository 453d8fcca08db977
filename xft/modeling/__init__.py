"""The models of the workflow: upcycled models with their MoE blocks, and mixing models.

Of an upcycled model: `configuration`, `upcycling` (its class), `moe_blocks` (in place of MLPs),
`router`, `experts` (with full weights; what an MLP must be). `mixing` has the mixing model.
`whole_models` loads any model or refuses it, `other_trainers` is for models that others train.
"""
