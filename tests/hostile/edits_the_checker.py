# expect: failed

import numpy

main = sys.modules["__main__"]
main.described = lambda value: '{"value": true}'
main.run = lambda *_: None
numpy.allclose = lambda *_, **__: True


def add(a, b):
    return None
