"""Training with transformers' Trainer: its engines, checkpoints, progress and metrics."""
