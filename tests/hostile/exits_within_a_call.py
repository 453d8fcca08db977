# expect: failed


def add(a, b):
    sys.exit(0)
