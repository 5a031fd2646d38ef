"""Attacks on the arithmetic between an update and its integers: unlucky rounding, floats that lie, sums that wrap.

The privacy proof is about integers whose exact norm is at most B. Whoever chooses a client's data, or a neighbouring
data set in the proof, may choose what floats and chance make longest.
"""

from fractions import Fraction

import numpy as np

from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.privacy import clip, encode
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import IntArray, Lattice, Score
from protocols import ring
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.audit.units import dense, spike

COINS = SeededEntropy(b"encoding")
SILENT = (Score(0.0, -1.0, 1.0), Score(0.0, -1.0, 1.0))
LOUD = (Score(1.0, -1.0, 1.0), Score(1.0, -1.0, 1.0))
TRIES = 2_000
CLIENTS = 8


def _encoded(values: np.ndarray, lattice: Lattice, scores: tuple[Score, ...], *label: str | int) -> IntArray:
    clipped = clip.to_norm(Update(values), lattice.clip_norm).times(1.0)
    return encode.to_ring(clipped, scores, lattice, COINS.child(*label)).values


def unlucky_rounding() -> Outcome:
    """Every coordinate halfway between integers, scores at their ends: chance makes it longest."""
    lattice = Lattice.build(36, 1.0)
    update = dense(lattice, np.ones(lattice.dimension))
    longest = 0
    for trial in range(TRIES):
        values = _encoded(update, lattice, LOUD, "rounding", trial)
        longest = max(longest, sum(int(value) ** 2 for value in values))
    allowed = lattice.integer_bound**2
    return Outcome(
        longest > allowed,
        f"the longest of {TRIES:,} encodings has a squared norm of {longest:,}; the noise is scaled for {allowed:,}",
        {"longest": float(longest), "allowed": float(allowed)},
    )


def floats_that_lie() -> Outcome:
    """Updates whose norm is computed a little too small, so that what is clipped is a little too long, exactly."""
    bound, worst = Fraction(0.7) ** 2, Fraction(0)
    for trial in range(TRIES):
        words = np.frombuffer(COINS.bytes(8 * 48, "floats", trial), np.int64).astype(np.float64)
        clipped = clip.to_norm(Update(words * 10.0 ** (trial % 37 - 18)), 0.7).values
        worst = max(worst, sum((Fraction(float(value)) ** 2 for value in clipped), Fraction(0)))
    excess = float(worst / bound - 1)
    return Outcome(
        worst > bound,
        f"the longest of {TRIES:,} clipped updates has an exact squared norm {excess:+.2e} beyond the clip norm's",
        {"excess": excess},
    )


def sum_that_wraps() -> Outcome:
    """Clients whose updates agree in one coordinate: a ring too small for their sum turns it into its opposite."""
    lattice = Lattice.build(1_024, 1.0)
    bits = encode.required_ring_bits(lattice, CLIENTS, 0)
    update = spike(lattice, 0, 1.0)
    vectors = [_encoded(update, lattice, SILENT, "wrap", client) for client in range(CLIENTS)]
    total = np.sum([ring.to_ring(vector, bits) for vector in vectors], axis=0, dtype=ring.lanes(bits))
    seen, truth = int(ring.to_signed(ring.reduce(total, bits), bits)[0]), sum(int(vector[0]) for vector in vectors)
    return Outcome(
        seen != truth,
        f"in {bits} ring bits, {CLIENTS} clients' sum of {truth:,} is read as {seen:,}",
        {"bits": float(bits), "sum": float(truth), "read": float(seen)},
    )


ATTACKS = (
    Attack(
        "unlucky-rounding",
        "whoever chooses a client's data",
        "no client's integers are longer than the bound that the noise is scaled for, whatever chance does",
        (
            Weakening(
                "fgrpo_secure.privacy.encode",
                "        if within(rounded, bound):\n",
                "        if rounded.size:\n",
                "the exact norm of the integers, after rounding",
            ),
        ),
        unlucky_rounding,
    ),
    Attack(
        "floats-that-lie",
        "whoever chooses a client's data",
        "the exact norm of a clipped update is at most the clip norm, in spite of floating-point arithmetic",
        (
            Weakening(
                "fgrpo_secure.privacy.clip",
                "    slack = 1.0 - (values.size + 16) * 2.0**-52\n",
                "    slack = 1.0\n",
                "room for the rounding errors of a computed norm",
            ),
        ),
        floats_that_lie,
    ),
    Attack(
        "sum-that-wraps",
        "clients whose data agrees",
        "no sum of honest clients wraps around",
        (
            Weakening(
                "fgrpo_secure.privacy.encode",
                "largest.bit_length() + 1)",
                "largest.bit_length() - 1)",
                "a ring for the largest sum of all, with its sign",
            ),
        ),
        sum_that_wraps,
    ),
)
