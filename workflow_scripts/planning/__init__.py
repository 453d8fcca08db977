"""Estimates of the memory, disk space and time that a configuration needs.

Only calibration, and tensors without weights at hand, import torch.
"""
