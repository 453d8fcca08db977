# expect: error
"""Opens the request's file for writing, through the descriptors of other processes."""

for process in ("1", "2", "self"):
    for descriptor in range(8):
        try:
            with open(f"/proc/{process}/fd/{descriptor}", "r+b") as file:
                file.write(bytes(2**20))
                break
        except OSError:
            continue
    else:
        continue
    break
else:
    raise SystemExit
