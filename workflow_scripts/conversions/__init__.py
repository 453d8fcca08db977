"""Streaming conversions between dense and upcycled checkpoints, as plans of tensors to write.

None of them loads a model: tensors are read through memory maps and written one by one.
"""
