"""The logarithm of the standard normal distribution function, from the C library's `erfc`.

**Why** not scipy's: it is the only function that was used of it, and importing scipy.special was a fifth of what an
auditor's `fgrpo verify` spends on imports. scipy is what the tests compare with.
"""

import math

SERIES_BELOW = -20.0
TERMS = 12  # the next one is below 1e-20 of the sum there
HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def log_ndtr(x: float) -> float:
    """log P(N(0, 1) <= x). Relative error a few 1e-16 for x <= 0, and 1 + x^2 times that above, where it is near 0."""
    if x > -1:
        return math.log1p(-0.5 * math.erfc(x / math.sqrt(2)))
    if x > SERIES_BELOW:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    # The asymptotic series of the tail: phi(x) / -x times 1 - 1/x^2 + 3/x^4 - 15/x^6 ... (Abramowitz, Stegun, 26.2.12).
    square = x * x
    total = term = 1.0
    for place in range(1, TERMS):
        term *= -(2 * place - 1) / square
        total += term
    return -square / 2 - math.log(-x) - HALF_LOG_TWO_PI + math.log(total)
