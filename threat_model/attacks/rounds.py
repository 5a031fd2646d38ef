"""Several rounds against one client: what secure sums alone do not stop, and noise and a budget do.

Statistics are cosines between what the server computes and the victim's encoded update, a vector of lattice integers.
Each line was set before the first run, from the formula 1 / sqrt(1 + d z^2 / k): d coordinates, noise multiplier z, k
rounds; a random direction adds a deviation of 1 / sqrt(d).
"""

import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from fgrpo_secure.config import files as config_file
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import round_settings
from fgrpo_secure.plan.terms import RunTerms
from fgrpo_secure.privacy import clip, encode, noise
from fgrpo_secure.privacy.accounting import BudgetExceeded
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import FloatArray, IntArray, Lattice, Score
from fgrpo_secure.privacy.noise import NoisePlan
from protocols.errors import Refused
from protocols.params import Adversary
from protocols.wire import Step
from threat_model import data_owner, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.world import SEED, Values, Wire

COLLUDERS, FLOOR = 1, 4
PASS_LINE = 0.7


def _update(client: int, dimension: int) -> Update:
    """A client's update: far longer than the clip norm, the same in every round."""
    draw = np.frombuffer(SEED.bytes(8 * dimension, "update", client), np.int64)
    return Update(draw.astype(np.float64) / 2.0**62)


def _encoded(client: int, lattice: Lattice, number: int) -> encode.EncodedVector:
    clipped = clip.to_norm(_update(client, lattice.dimension), lattice.clip_norm)
    scores = (Score(0.75, 0.5, 1.0), Score(0.0, -2.0, 2.0))
    return encode.to_ring(clipped, scores, lattice, SEED.child("rounding", client, number))


def _cosine(one: FloatArray | IntArray, other: FloatArray | IntArray) -> float:
    first, second = one.astype(np.float64), other.astype(np.float64)
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def _judged(cosine: float, rounds: int) -> Outcome:
    return Outcome(
        cosine > PASS_LINE,
        f"the cosine with the victim's update is {cosine:.2f} after {rounds} rounds",
        {"cosine": cosine, "rounds": float(rounds)},
    )


def differencing() -> Outcome:
    """A sum with the victim, a sum without it, and their difference."""
    lattice = Lattice.build(200, 1.0)
    at = world.build(vectors=(("update", lattice.dimension), ("scores", lattice.scores)))
    shares = NoisePlan.build(lattice, 1.0, FLOOR, COLLUDERS)
    victim, sums = at.ids[2], []
    for number, lost in ((1, set()), (2, {victim})):
        at.change_plan(session_number=number)
        for client in at.ids:
            vector = _encoded(client, lattice, 0)
            drawn = noise.add_share(vector, shares.share_variance, SEED.child("noise", client, number))
            at.values[client] = _vectors(drawn.values, lattice)
        sums.append(at.run(Wire(at, lost={Step.MASK: lost}))[0].totals["update"])
    truth = _encoded(victim, lattice, 0).values[: lattice.dimension]
    return _judged(_cosine(sums[0] - sums[1], truth), 2)


def _vectors(values: IntArray, lattice: Lattice) -> Values:
    return {"update": values[: lattice.dimension], "scores": values[lattice.dimension :]}


def averaging() -> Outcome:
    """Opens 200 rounds with a dead model for everyone else and averages what the victim's ledger allows."""
    lattice = Lattice.build(50, 1.0)
    shares = NoisePlan.build(lattice, 1.0, FLOOR, COLLUDERS)
    total, rounds = np.zeros(lattice.length), 0
    with tempfile.TemporaryDirectory() as folder:
        ledgers = Ledgers(Path(folder) / "ledger.sqlite")
        ledger = ledgers.open("victim", Fraction(2))
        with ledgers.transaction():
            for number in range(200):
                try:
                    ledger.intent(world.invented("session", number), number, shares.charge)
                except BudgetExceeded:
                    break
                total += _noised_sum(0, lattice, shares, number)
                rounds += 1
        ledgers.close()
    return _judged(_cosine(total, _encoded(0, lattice, 0).values), rounds)


def _noised_sum(victim: int, lattice: Lattice, shares: NoisePlan, number: int) -> IntArray:
    """What a round of the fewest survivors shows to a server with its colluder: the victim, and honest noise."""
    total = np.zeros(lattice.length, np.int64)
    for client in range(FLOOR - COLLUDERS):
        vector = _encoded(client, lattice, number)
        if client != victim:
            vector = encode.EncodedVector(np.zeros_like(vector.values), vector.bound)
        total += noise.add_share(vector, shares.share_variance, SEED.child("noise", client, number)).values
    return total


def weak_noise() -> Outcome:
    """Plans four rounds with the least noise that a client can add, and a dead model for everyone else."""
    lattice = Lattice.build(50, 1.0)
    wanted = NoisePlan.build(lattice, 1.0, FLOOR, COLLUDERS)
    demands = RunTerms("client", wanted.charge, Adversary.LYING_SERVER, 0.1, 0.34, 6, FLOOR)
    config = config_file.load("quickstart", ["privacy.clip_norm=1.0"])
    settings = round_settings.for_round(config, 0, noise.MIN_SHARE_VARIANCE)
    at = world.build(vectors=(("update", lattice.dimension), ("scores", lattice.scores)))
    at.change_plan(settings=settings.encode())
    try:
        admitted = demands.admit(at.plan, lattice.dimension)
    except Refused as refusal:
        return Outcome(False, f"the victim refused the plan: {refusal}")
    offered = NoisePlan(lattice.integer_bound, FLOOR, COLLUDERS, admitted.settings.share_variance)
    total = np.sum([_noised_sum(0, lattice, offered, number) for number in range(4)], axis=0)
    return _judged(_cosine(total, _encoded(0, lattice, 0).values), 4)


def noise_turned_off() -> Outcome:
    """Plans a round in which clients leave the noise to the server, and a dead model for everyone else."""
    lattice = Lattice.build(50, 1.0)
    wanted = NoisePlan.build(lattice, 1.0, FLOOR, COLLUDERS)
    demands = RunTerms("client", wanted.charge, Adversary.LYING_SERVER, 0.1, 0.34, 6, FLOOR)
    config = config_file.load("quickstart", ["privacy.clip_norm=1.0"])
    honest = round_settings.for_round(config, 0, 4 * wanted.share_variance)
    settings = honest.model_copy(update={"aggregation": "plain"})
    at = world.build(vectors=(("update", lattice.dimension), ("scores", lattice.scores)))
    at.change_plan(settings=settings.encode())
    try:
        admitted = demands.admit(at.plan, lattice.dimension)
    except Refused as refusal:
        return Outcome(False, f"the victim refused the plan: {refusal}")
    values = data_owner.contribute(0, _update(0, lattice.dimension).values, admitted.settings)
    return _judged(_cosine(values, _encoded(0, lattice, 0).values), 1)


ATTACKS = (
    Attack(
        "differencing",
        "honest-but-curious server, two rounds that one client tells apart",
        "sums over nearly the same clients differ by noise",
        (
            Weakening(
                "fgrpo_secure.privacy.noise",
                "    return NoisedVector(np.add(encoded.values, noise, out=noise), encoded.bound, variance)",
                "    return NoisedVector(encoded.values + 0 * noise, encoded.bound, variance)",
                "each client adds its share of the noise",
            ),
        ),
        differencing,
        "n = 1 pair of rounds at d = 200, z = 1: the cosine must stay below 0.7; expected at most 0.08 +- 0.07",
    ),
    Attack(
        "averaging",
        "lying server",
        "a client takes part until its budget is spent, and no longer",
        (
            Weakening(
                "fgrpo_secure.privacy.accounting",
                "        if self.spent + mu_squared > self.budget:\n",
                "        if False:\n",
                "the filter on the sum of mu^2",
            ),
        ),
        averaging,
        "n = 200 rounds offered at d = 50, z = 1, a budget of mu^2 = 2: the cosine must stay below 0.7; expected 0.2 "
        "+- 0.14 after 2 rounds, 0.89 after 200",
    ),
    Attack(
        "weak-noise",
        "lying server",
        "a round costs a client no more than its own policy admits",
        (
            Weakening(
                "fgrpo_secure.plan.terms",
                "        if charge > (self.max_charge or 0):\n",
                "        if False:\n",
                "the largest charge of one round",
            ),
        ),
        weak_noise,
        "n = 4 rounds at d = 50: the cosine must stay below 0.7; expected 0.27 +- 0.14 at the noise of the "
        "policy, 0.82 at that of the plan",
    ),
    Attack(
        "noise-turned-off",
        "lying server",
        "a client adds its own noise, whatever the plan says about the server's",
        (
            Weakening(
                "fgrpo_secure.plan.terms",
                "        if settings.aggregation != self.aggregation:",
                "        if False:",
                "the owner's own kind of aggregation",
            ),
        ),
        noise_turned_off,
        "n = 1 round at d = 50: the cosine must stay below 0.7; expected 1 without noise, 0.14 +- 0.14 with one share",
    ),
)
