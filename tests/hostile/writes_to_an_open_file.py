# expect: error
"""Looks for an open descriptor of a file, a folder or a disk."""

import stat

found = []
for descriptor in range(64):
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        continue
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
        found.append(descriptor)
if not found:
    raise SystemExit
