"""The mechanism audit: many independent releases of the real clip, encode, noise and sum, with one unit and without.

Trials differ in the coordinate that the unit changes. Coordinate k of a noise share is made of word k of its key's
keystreams and of nothing else, so the coordinates of a share are independent draws, and adding noise reads no value it
is added to (`tests/threat_model/audit` proves both on the code). One release of a vector with a coordinate per trial
therefore holds as many independent trials. What a unit adds is measured at the true dimension, with clip and rounding.
"""

import math

import numpy as np
from scipy.special import ndtr  # type: ignore[import-untyped]  # scipy ships no types

from fgrpo_secure.entropy import Entropy, SeededEntropy
from fgrpo_secure.evidence.audits import Audit
from fgrpo_secure.privacy import encode, noise, units
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.privacy.encode import EncodedVector, FloatArray, IntArray
from protocols import ring
from threat_model.audit import bounds
from threat_model.audit.bounds import Errors
from threat_model.audit.setting import Setting
from threat_model.audit.units import Encoder, dense, difference, encoded, norm, spike

ALPHA = 0.001  # the chance that code without fault fails an audit, over all its bounds together
SAMPLES = 250_000_000  # of noise: about four seconds
MOST_TRIALS = 200_000
LEAST_TRIALS = 2_000
CALIBRATION = 1_024  # trials that only say how a colluder predicts the others' noise
SPIKES = 64
DENSE = 32
LOUDNESS = (1.0, 3.0, 1000.0)

ASSUMES = {
    "clopper_pearson": "none about the mechanism's form: trials are independent",
    "gaussian_clopper_pearson": "the trade-off curve is that of a Gaussian, as claimed; trials are independent",
    "gaussian_deviation": "noise is normal but for its lattice; trials are independent",
}


def audit(setting: Setting, entropy: Entropy, trials: int | None = None, encoder: Encoder = encoded) -> Audit:
    """Lower bounds on what `setting` claims, together wrong with chance `ALPHA`; ValueError below 100 trials.

    Both worlds of a trial have the same noise: each error rate is a count over independent trials of its own world,
    and nothing is assumed about the two together.
    """
    count = _affordable(setting) if trials is None else trials
    if count < 100:
        raise ValueError(f"trials is {count}; it must be at least 100")
    coins = SeededEntropy(entropy.bytes(32, "coupled coins"))
    signals, largest = _signals(setting, coins, encoder)
    out, present = _statistics(setting, np.resize(signals, count), count, entropy)
    found = _bounds(setting, out, present)
    return Audit(
        audit="mechanism",
        unit=setting.unit,
        view=setting.view,
        claimed_epsilon=setting.epsilon,
        delta=setting.delta,
        alpha=ALPHA,
        trials=count,
        lower_bounds=found,
        estimates={},
        sensitivity=largest,
        sensitivity_bound=setting.lattice.integer_bound,
        assumptions={name: ASSUMES[name] for name in found},
        shared=setting.assumptions,
    )


def _affordable(setting: Setting) -> int:
    each = setting.releases * (setting.honest + 1)
    return max(LEAST_TRIALS, min(MOST_TRIALS, SAMPLES // each))


def _signals(setting: Setting, coins: SeededEntropy, encoder: Encoder) -> tuple[IntArray, float]:
    """What units in single coordinates change there, shape (SPIKES,), and the largest norm of what any unit changes."""
    lattice, signals, norms = setting.lattice, [], []
    for number in range(SPIKES):
        at = number * lattice.dimension // SPIKES
        canary = spike(lattice, at, LOUDNESS[number % len(LOUDNESS)])
        changed = difference(setting, canary, coins.child("spike", number), encoder)
        signals.append(int(changed[at]))
        norms.append(norm(changed))
    for number in range(DENSE):
        branch = coins.child("dense", number)
        drawn = np.frombuffer(branch.bytes(lattice.dimension, "signs"), np.uint8)
        canary = dense(lattice, 1.0 - 2.0 * (drawn & 1).astype(np.float64))
        norms.append(norm(difference(setting, canary, branch, encoder)))
    return np.array(signals, np.int64), max(norms)


def _statistics(setting: Setting, signals: IntArray, count: int, entropy: Entropy) -> tuple[FloatArray, FloatArray]:
    """What the adversary sees of each trial, summed over releases: without the unit and with it, shape (trials,)."""
    length = count + (CALIBRATION if setting.colluders else 0)
    out, present, known = (np.zeros(length, np.int64) for _ in range(3))
    signals = np.concatenate([signals, np.zeros(length - count, np.int64)])
    for release in range(setting.releases):
        session = entropy.child("session", release)
        total = _honest_sum(setting, length, session)
        if setting.colluders:
            known += _share(setting, length, session.child("client", setting.honest))
        out += _through_ring(total, setting.ring_bits)
        present += _through_ring(total + signals * _taking_part(setting, length, session), setting.ring_bits)
    guess = known * _slope(out[count:], known[count:])
    return (out - guess)[:count], (present - guess)[:count]


def _honest_sum(setting: Setting, length: int, session: Entropy) -> IntArray:
    total = np.zeros(length, np.int64)
    for client in range(setting.honest):
        total += _share(setting, length, session.child("client", client))
    return total


def _share(setting: Setting, length: int, entropy: Entropy) -> IntArray:
    nothing = EncodedVector(np.zeros(length, np.int64), setting.lattice.integer_bound)
    return noise.add_share(nothing, setting.share_variance, entropy.child("noise")).values


def _taking_part(setting: Setting, length: int, session: Entropy) -> IntArray:
    """1 where a trial's unit takes part in this release, by the product's own secret coins; shape (length,)."""
    if setting.rate is None:
        return np.ones(length, np.int64)
    coins = SeededEntropy(session.bytes(32, "coins"))  # a unit's coin has its name: one system call for all of them
    chosen = np.zeros(length, np.int64)
    chosen[[int(name) for name in units.sampled([str(trial) for trial in range(length)], setting.rate, coins)]] = 1
    return chosen


def _through_ring(values: IntArray, bits: int) -> IntArray:
    return ring.to_signed(ring.to_ring(values, bits), bits)


def _slope(seen: IntArray, known: IntArray) -> float:
    """How much of the sum a colluder's own share predicts; 0 but for chance unless clients' noise is related."""
    squares = float(np.dot(known, known))
    return float(np.dot(seen, known)) / squares if squares else 0.0


def _bounds(setting: Setting, out: FloatArray, present: FloatArray) -> dict[str, float]:
    middle, best = thresholds(setting, out.size)
    gaussian_form = setting.rate is None
    alpha = ALPHA / 3 if gaussian_form else ALPHA
    found = {"clopper_pearson": bounds.any_mechanism(_errors(out, present, best), setting.delta, alpha)}
    if gaussian_form:
        by_counts = bounds.gaussian(_errors(out, present, middle), alpha)
        by_deviation = bounds.normal_deviation(out, float(np.mean(present - out)), alpha)
        found["gaussian_clopper_pearson"] = epsilon_of(by_counts, setting.delta)
        found["gaussian_deviation"] = epsilon_of(by_deviation, setting.delta)
    return found


def thresholds(setting: Setting, trials: int) -> tuple[float, float]:
    """Where to say "it was in", fixed by public numbers: halfway, and where (epsilon, delta) would show best."""
    rate = setting.rate or 1.0
    signal = encode.KAPPA * math.sqrt(setting.lattice.dimension)
    mean = rate * setting.releases * signal
    variance = setting.releases * setting.honest * setting.share_variance
    spread = math.sqrt(variance + setting.releases * rate * (1 - rate) * signal**2)

    def promise(threshold: float) -> float:
        alarms = trials * float(ndtr(-threshold / math.sqrt(variance)))
        misses = trials * float(ndtr((threshold - mean) / spread))
        return bounds.any_mechanism(Errors(round(alarms), trials, round(misses), trials), setting.delta, ALPHA / 3)

    grid = np.linspace(mean / 2, mean / 2 + 6 * math.sqrt(variance), 49)
    return mean / 2, max((float(each) for each in grid), key=promise)


def _errors(out: FloatArray, present: FloatArray, threshold: float) -> Errors:
    return Errors(int(np.sum(out > threshold)), out.size, int(np.sum(present <= threshold)), present.size)
