# expect: failed
for _ in range(2**7):
    print("x" * 2**20)


def add(a, b):
    return None
