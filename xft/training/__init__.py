"""Training with transformers' Trainer. Read in this order:

`session` (a step's process), `tuning` (what learns, the artifact), `trainer` (the loop), `features`
(what it does besides), `batches` (rows, attention in packed ones), `losses` (of
labelled tokens, of validation), `saving` (checkpoints, the result), `engines` (DDP, FSDP, ZeRO).
`metrics` reports, `at_end` reads what was reported, `ranks` says what a process is among all.
"""
