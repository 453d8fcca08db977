"""Training by transformers' Trainer: options, progress, metrics."""
