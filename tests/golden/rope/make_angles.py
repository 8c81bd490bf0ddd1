"""Writes angles.csv: cos and sin of position * frequency to 17 digits, by mpmath (pip install mpmath).

Frequencies are exact doubles, written in hexadecimal; the product is exact. Besides random pairs there
are products that come very close to a multiple of pi / 2.
"""

import random

import mpmath

mpmath.mp.dps = 60
random.seed(4)


def rows():
    for base, dims in ((10000.0, 64), (100000.0, 64), (1e6, 256)):
        for _ in range(150):
            pair = random.randrange(dims // 2)
            yield random.choice((1, 7, 255, 4096, 99999, 1000000)), base ** (-2.0 * pair / dims)
    for _ in range(300):
        yield random.randrange(1000001), random.random()
    for position in (1, 355, 710, 103993, 312689, 833719):
        yield position, 1.0
    for _ in range(100):
        position = random.randrange(1, 1000001)
        multiple = random.randrange(1, max(2, int(position / 1.6)))
        yield position, float(mpmath.pi / 2 * multiple / position)
    yield 0, 1.0


with open("angles.csv", "w") as file:
    file.write("position,frequency,cos,sin\n")
    for position, frequency in rows():
        angle = mpmath.mpf(position) * mpmath.mpf(frequency)
        cosine, sine = (mpmath.nstr(f(angle), 20) for f in (mpmath.cos, mpmath.sin))
        file.write(f"{position},{frequency.hex()},{cosine},{sine}\n")
