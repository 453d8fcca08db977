# expect: error
"""Looks for any folder in which it can create a file."""

written = []
for folder, _, _ in os.walk("/"):
    try:
        os.close(os.open(os.path.join(folder, "planted"), os.O_WRONLY | os.O_CREAT))
        written.append(folder)
    except OSError:
        pass
if not written:
    raise SystemExit
