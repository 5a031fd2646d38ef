"""A data owner of the test world: the real round of a client around a training that is given.

Training itself is not under attack here; clipping, weighing, encoding and noise are the real ones. Importing them takes
seconds, because they stand above the training framework: hence only when a contribution is made.
"""

import importlib
from types import ModuleType
from typing import Any

import numpy as np

from fgrpo_secure.gain import Baseline, Observation
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.privacy.encode import FloatArray, IntArray
from threat_model.world import SEED


class Unanswered(Exception):
    """A client gave no answer where others do."""


def contribute(client: int, update: FloatArray, settings: RoundSettings, broken: bool = False) -> IntArray:
    """What a client uploads under its mask, shape (d + scores,). Raises Unanswered if it shows that its data is bad."""
    client_round, owner = (importlib.import_module(f"fgrpo_secure.client.{name}") for name in ("round", "owner"))
    given: Any = _Given(owner, update, broken)
    lattice = settings.upload_lattice(len(update))
    source = SEED.child("owner", client)
    try:
        learned = client_round.learn(_Learner(len(update)), given, settings)
        made = client_round.privatise(learned, settings, lattice, Baseline(), 1.0, source)
    except owner.UnusableRound:
        raise Unanswered(f"client {client} is silent, and has unusable data") from None
    values: IntArray = made.vector.values
    return values


class _Learner:
    """The size of an adapter; nothing else is asked of it here."""

    def __init__(self, size: int) -> None:
        self._size = size

    def dimension(self, _round: int) -> int:
        return self._size


class _Given:
    """An owner whose training gives an update, or cannot be done."""

    def __init__(self, owner: ModuleType, update: FloatArray, broken: bool) -> None:
        self._owner, self._update, self._broken = owner, update, broken

    def train(self, _adapted: _Learner, _settings: RoundSettings) -> object:
        if self._broken:
            raise self._owner.UnusableRound("a reward is not a number")
        return self._owner.Trained(np.asarray(self._update), Observation(0.5, 0.1))

    def note(self, _settings: RoundSettings, _reason: ValueError) -> None:
        """Its own log is its own."""
