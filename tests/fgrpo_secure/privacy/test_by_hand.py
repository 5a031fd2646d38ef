"""Five cohorts computed by hand, from the norm bound to the settlement, with dropouts and colluders in each."""

from fractions import Fraction

import pytest

from fgrpo_secure.privacy.encode import Lattice
from fgrpo_secure.privacy.noise import NoisePlan

# B is the integer bound over d + m coordinates: R = 5 sqrt(d (1 + m / 100)), and B the next integer above
# sqrt(R^2 + (d + m) / 4 + R + sqrt(d + m) / 2), or above R + sqrt(d + m) if that is less. h = floor - colluders honest
# shares of variance sl2 = ceil((z^2 B^2 + 4) / h), at least 16. Charge B^2 / (h sl2 - 4); with s survivors
# B^2 / ((s - colluders) sl2 - 4).
CASES = {
    # R = 50: sqrt(2500 + 25 + 50 + 5) = 50.8. z = 1: (2601 + 4) / 4 = 651.25. All 6 survive: 5 * 652 - 4 = 3256
    "six clients, one may be lost": (100, 0, 1.0, 5, 1, 6, (51, 652), Fraction(2601, 2604), Fraction(2601, 3256)),
    # R^2 = 10200: sqrt(10200 + 100.5 + 100.995 + 10.025) = 102.04. z = 2: (42436 + 4) / 8 = 5305. 12 survive: 53046
    "a charge that is exactly 1 / z^2": (400, 2, 2.0, 10, 2, 12, (103, 5305), Fraction(1, 4), Fraction(10609, 53046)),
    # R = 5: sqrt(30.75) = 5.5 and 5 + 1 = 6. z = 1/2: 13 / 3 = 4.3, below the least share of 16. 5 survive: 60
    "the least share that adds up": (1, 0, 0.5, 4, 1, 5, (6, 16), Fraction(9, 11), Fraction(3, 5)),
    # R^2 = 255000: sqrt(255000 + 2500.5 + 504.975 + 50.005) = 507.99. z = 3: (2322576 + 4) / 25 = 92903.2.
    # 40 of 45 survive, 5 of them collude: 35 * 92904 - 4 = 3251636
    "five colluders among the survivors": (
        10_000, 2, 3.0, 30, 5, 40, (508, 92_904), Fraction(258_064, 2_322_596), Fraction(258_064, 3_251_636),
    ),
    # R^2 = 51: sqrt(51 + 1 + 7.1414 + 1) = 7.755. z = 10: 6404 / 3 = 2134.7. 4 survive: 4 * 2135 - 4 = 8536
    "two coordinates and much noise": (2, 2, 10.0, 3, 0, 4, (8, 2135), Fraction(64, 6401), Fraction(8, 1067)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bound_share_charge_and_settlement_are_those_computed_by_hand(case):
    dimension, scores, multiplier, floor, colluders, survivors, (bound, share), charge, settled = case
    plan = NoisePlan.build(Lattice.build(dimension, 1.0, scores), multiplier, floor, colluders)
    assert (plan.integer_bound, plan.share_variance) == (bound, share)
    assert plan.charge == charge == Fraction(bound**2, (floor - colluders) * share - 4)
    assert plan.settled(survivors) == settled
    assert settled < charge <= Fraction(1) / Fraction(multiplier) ** 2
    with pytest.raises(ValueError, match="never ends with fewer"):
        plan.settled(floor - 1)
