"""What one unit changes: the product's own path from updates to a client's integers, with the unit and without it."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from fgrpo_secure.entropy import Entropy
from fgrpo_secure.privacy import clip, encode, units
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import EncodedVector, FloatArray, IntArray, Lattice, Score
from threat_model.audit.setting import Setting

CANARY = "canary"
Encoder = Callable[[Setting, Mapping[str, FloatArray], Entropy], IntArray]

_LOUDEST_SCORE = Score(1.0, -1.0, 1.0)
_NO_SCORE = Score(0.0, -1.0, 1.0)


def encoded(setting: Setting, updates: Mapping[str, FloatArray], rounding: Entropy) -> IntArray:
    """A client's integers before noise, shape (d + scores,), from the update of each unit in it, shape (d,).

    A client that is a unit itself has one update and extreme scores, or none and sends zeros; otherwise each unit is
    clipped and rounded by itself and the scores are public.
    """
    lattice = setting.lattice
    if setting.unit == "client":
        scores = [_LOUDEST_SCORE] * lattice.scores
        each = [_one(update, scores, lattice, rounding) for update in updates.values()]
        return each[0].values if each else np.zeros(lattice.length, np.int64)
    silent = [_NO_SCORE] * lattice.scores
    each = [_one(update, silent, lattice, rounding.child("unit", name)) for name, update in updates.items()]
    own = _one(np.zeros(lattice.dimension), silent, lattice, rounding.child("scores"))
    return units.total(each, own, lattice).values


def difference(setting: Setting, canary: FloatArray, coins: Entropy, encoder: Encoder = encoded) -> IntArray:
    """What `canary`, shape (d,), changes in its client's integers when everybody else's coins fall the same way.

    `coins` must give the same bytes for the same label. Other units of the client, if there can be any, are three
    whose coordinates are all halfway between two integers: whatever is rounded together with them shows.
    """
    others = {} if setting.unit == "client" else {f"other {number}": _halfway(setting.lattice) for number in range(3)}
    present = encoder(setting, {CANARY: canary, **others}, coins)
    return present - encoder(setting, others, coins)


def spike(lattice: Lattice, coordinate: int, loudness: float) -> FloatArray:
    """An update of `loudness` times the clip norm in one coordinate, shape (d,)."""
    update = np.zeros(lattice.dimension)
    update[coordinate] = loudness * lattice.clip_norm
    return update


def dense(lattice: Lattice, signs: FloatArray) -> FloatArray:
    """An update of the clip norm that is hardest to round: all coordinates halfway between integers, shape (d,).

    Steps of KAPPA + 1/2 in 19 of 40 coordinates and of KAPPA - 1/2 in the others have a root mean square of KAPPA.
    """
    steps = np.where(np.arange(lattice.dimension) * 19 % 40 < 19, encode.KAPPA + 0.5, encode.KAPPA - 0.5)
    update: FloatArray = signs * steps / lattice.scale
    return update


def norm(values: IntArray) -> float:
    """The L2 norm of integers."""
    return math.sqrt(sum(int(value) ** 2 for value in values[values != 0]))


def _halfway(lattice: Lattice) -> FloatArray:
    return np.full(lattice.dimension, 0.5 / lattice.scale)


def _one(update: FloatArray, scores: list[Score], lattice: Lattice, rounding: Entropy) -> EncodedVector:
    clipped = clip.to_norm(Update(update), lattice.clip_norm).times(1.0)
    return encode.to_ring(clipped, scores, lattice, rounding)
