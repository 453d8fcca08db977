"""Estimates of the memory, disk space and time that a configuration needs.

In the order of reading: `model_sizes` (tensors, parameters and FLOPs of base and mixture), `rows`
(their number, lengths and batches), `jobs` (a training or generation on a processor, its hours),
`memory_and_disk` (bytes in closed form), `planning` (all of it as `xft plan` shows it, and advice).
Only `model_sizes` imports torch, if the weights are not on this machine.
"""
