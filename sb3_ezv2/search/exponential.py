"""The exponential function for compiled loops: a few multiplications that a compiler can do for many numbers at once.

A call of the C library per element keeps a loop from being vectorised, and a search takes hundreds of exponentials per
simulation to read its categorical predictions.
"""

import numpy as np

from sb3_ezv2.common.compilation import inlined_arithmetic

LOG2_E = np.float32(1.4426950408889634)
SMALLEST_POWER = np.float32(-126.0)
HALF, ONE = np.float32(0.5), np.float32(1.0)
# Taylor series of 2^f, from the first power of f on; on [-1/2, 1/2] its error is below that of float32.
C1, C2, C3 = np.float32(0.6931471805599453), np.float32(0.2402265069591007), np.float32(0.05550410866482158)
C4, C5, C6 = np.float32(0.009618129107628477), np.float32(0.0013333558146428443), np.float32(0.00015403530393381608)


@inlined_arithmetic
def exponential(x: np.float32) -> np.float32:
    """``e^x`` in float32 for ``x <= 80``; below -87 it is about 1e-38.

    The relative error is 3e-7 near 0 and 4e-6 at the ends.

    ``x log2(e) = k + f`` with ``k`` whole and ``|f| <= 1/2``: ``2^k`` is written into the bits of a float32.
    """
    power = x * LOG2_E
    power = SMALLEST_POWER if power < SMALLEST_POWER else power  # NaN stays NaN
    whole = np.floor(power + HALF)
    f = power - whole
    whole = whole if whole > SMALLEST_POWER else SMALLEST_POWER  # a number even if the result is NaN
    mantissa = ONE + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    return mantissa * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
