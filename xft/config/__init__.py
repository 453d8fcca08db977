"""The user's configuration: its keys, its file, and its checks. Nothing here imports torch."""
