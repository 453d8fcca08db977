"""Conversions between dense and upcycled checkpoints, as plans of tensors to write.

No conversion loads a model: tensors are read through memory maps and written one by one.
"""
