# expect: refused by the sandbox
"""Holds memory in System V message queues."""

IPC_CREAT = 0o1000
held = [call("msgget", key, IPC_CREAT | 0o600) for key in range(1, 100)]
