"""Shared material: reproducible entropy that refuses to be asked twice, and the exact norm of floats."""

from fractions import Fraction

import pytest

from fgrpo_secure.entropy import SeededEntropy


class WatchedEntropy:
    """A seeded source that fails a test which takes the same bytes twice."""

    private = False

    def __init__(self, seed):
        self._source = SeededEntropy(str(seed).encode())
        self.labels = []

    def bytes(self, count, *label):
        assert label not in self.labels, f"{label} was asked for twice"
        self.labels.append(label)
        return self._source.bytes(count, *label)

    def child(self, *label):
        return WatchedEntropy((self._source.seed, label))


@pytest.fixture
def entropy():
    """A maker of sources: one per seed."""
    return WatchedEntropy


@pytest.fixture
def exact_square():
    """The exact squared norm of an array of floats, as a fraction."""
    return lambda values: sum((Fraction(float(value)) ** 2 for value in values), Fraction(0))
