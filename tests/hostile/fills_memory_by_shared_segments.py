# expect: refused by the sandbox
"""Holds more memory than its limit in System V segments."""

IPC_CREAT = 0o1000
held = [call("shmget", key, 100 * 2**20, IPC_CREAT | 0o600) for key in range(1, 25)]
