"""Membership inference on the released adapter: were these prompts trained on? Gains in reward tell.

A federation that is easy to attack: each client has one prompt and trains on it in every round, and the server's rate
is high, so that without noise the model learns prompts by heart.
"""

from dataclasses import replace

import numpy as np

from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.plan import cost as planner
from fgrpo_secure.plan.cost import PrivacyPlan
from fgrpo_secure.privacy import clip, encode, noise
from fgrpo_secure.privacy.encode import FloatArray, Score
from protocols.params import Adversary
from threat_model import membership
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.learners import Learners, rows_of

MEMBERS = 32
ROUNDS = 6
EPSILON = 4.0
SERVER_RATE = 1.0  # of the sum of updates of norm 1
COINS = SeededEntropy(b"members")
SILENT = (Score(0.0, -1.0, 1.0), Score(0.0, -1.0, 1.0))


def reward_gains() -> Outcome:
    """Compares the reward gains of prompts that were trained on with those of prompts that were not."""
    learners = Learners.build()
    rows = rows_of("add", 2 * MEMBERS)
    planned = _plan(learners)
    before = membership.expected_rewards(learners.adapted, rows)
    for number in range(ROUNDS):
        received = learners.adapted.get_vector(number)
        total = _noised_sum(learners, rows[:MEMBERS], planned, number)
        learners.adapted.set_vector(number, received + SERVER_RATE * total)
    gains = membership.expected_rewards(learners.adapted, rows) - before
    found = membership.area(gains[:MEMBERS], gains[MEMBERS:])
    most = membership.allowed(planned.claim.mu if planned.claim else 0.0)
    return Outcome(
        found.upper > most,
        f"the area under the ROC curve is {found.value:.3f}, at most {found.upper:.3f} with 95 % confidence; epsilon "
        f"{EPSILON:g} allows {most:.3f}",
        {"area": found.value, "upper": found.upper, "allowed": most},
    )


def _plan(learners: Learners) -> PrivacyPlan:
    return planner.plan(
        planner.PlanRequest(
            rounds=ROUNDS,
            clients=MEMBERS,
            clients_per_round=MEMBERS,
            rounds_per_client=ROUNDS,
            dimension=learners.dimension,
            unit="client",
            delta=1e-5,
            clip_norm=1.0,
            adversary=Adversary.LYING_SERVER,
            max_corrupt=0.05,
            max_dropout=0.0,
            mean_weight=1.0,
            epsilon=EPSILON,
        )
    )


def _noised_sum(learners: Learners, rows: list[dict[str, object]], planned: PrivacyPlan, number: int) -> FloatArray:
    """The decoded sum of a round, shape (d,), in clip norms: every client trains on its one row."""
    lattice, coins = planned.lattice, COINS.child("round", number)
    settings = learners.settings.model_copy(update={"training_round": number})
    total = np.zeros(lattice.length, np.int64)
    for client, row in enumerate(rows):
        place = replace(learners, settings=settings, owner=replace(learners.owner, id=client))
        clipped = clip.to_norm(place.update([row]), lattice.clip_norm).times(1.0)
        encoded = encode.to_ring(clipped, SILENT, lattice, coins.child("rounding", client))
        total += noise.add_share(encoded, planned.share_variance, coins.child("noise", client)).values
    return encode.from_ring(total, lattice, ((-1.0, 1.0), (-1.0, 1.0)), len(rows)).update_sum


ATTACKS = (
    Attack(
        "membership",
        "reader of the model",
        "a released adapter tells members from others no better than the claimed epsilon allows",
        (
            Weakening(
                "fgrpo_secure.privacy.noise",
                "    return NoisedVector(np.add(encoded.values, noise, out=noise), encoded.bound, variance)\n",
                "    return NoisedVector(encoded.values, encoded.bound, variance)\n",
                "the noise: without differential privacy this attack works on ours",
            ),
        ),
        reward_gains,
        f"n = {MEMBERS} members and {MEMBERS} others of one run; area under the ROC curve of reward gains; pass line: "
        "the upper end of its 95 % interval is at most Phi(mu), what epsilon allows; without noise the area must be "
        "0.7 or more",
    ),
)
