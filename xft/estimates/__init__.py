"""Estimates of the memory, disk space and time that a configuration needs.

Only `tensors` imports torch, if the weights are not on this machine.
"""
