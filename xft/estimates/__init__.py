"""Estimates of the memory, disk space and time that a configuration needs.

Only `calibration` imports torch, and `tensors` if the weights are not on this machine.
"""
