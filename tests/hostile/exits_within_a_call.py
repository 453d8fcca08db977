# expect: error


def add(a, b):
    sys.exit(0)
