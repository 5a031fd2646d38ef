"""Attacks on the noise: colluders take theirs away, or were not counted; a sum gives away who was in it.

The adversary is the server with colluding clients after a round that ended with its fewest survivors. It knows every
contribution but the victim's, and its colluders' noise.
"""

import numpy as np

from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.plan import cost as planner
from fgrpo_secure.privacy import clip, encode, noise
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import Score
from protocols.params import Adversary
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.audit import mechanism
from threat_model.audit.setting import Setting, setting

ROUNDS = 3
CLIENTS = 10
EPSILON = 4.0
TRIALS = 50_000
CHANCE = 0.05  # of the coordinates an attacker who guesses may get right
COINS = SeededEntropy(b"noise")


def _setting(max_corrupt: float) -> Setting:
    """A federation in which every client takes part in every round."""
    return setting(
        planner.plan(
            planner.PlanRequest(
                rounds=ROUNDS,
                clients=CLIENTS,
                clients_per_round=CLIENTS,
                rounds_per_client=ROUNDS,
                dimension=1_024,
                unit="client",
                delta=1e-5,
                clip_norm=1.0,
                adversary=Adversary.LYING_SERVER,
                max_corrupt=max_corrupt,
                max_dropout=0.0,
                mean_weight=1.0,
                epsilon=EPSILON,
            )
        )
    )


def noise_removal() -> Outcome:
    """A colluder takes as many times its own share away as there are honest clients, and rounds what is left."""
    what = _setting(0.1)
    drawn = np.frombuffer(COINS.bytes(8 * what.lattice.dimension, "victim"), np.int64).astype(np.float64)
    clipped = clip.to_norm(Update(drawn), what.lattice.clip_norm).times(1.0)
    secret = encode.to_ring(clipped, (Score(0.0, -1.0, 1.0),) * 2, what.lattice, COINS.child("rounding"))
    nothing = encode.EncodedVector(np.zeros_like(secret.values), secret.bound)
    own = noise.add_share(nothing, what.share_variance, COINS.child("colluder")).values
    seen = noise.add_share(secret, what.share_variance, COINS.child("victim")).values
    for client in range(what.honest - 1):
        seen = seen + noise.add_share(nothing, what.share_variance, COINS.child("client", client)).values
    right = float(np.mean(seen - what.honest * own == secret.values))
    return Outcome(
        right > CHANCE,
        f"{right:.1%} of the victim's {secret.values.size:,} integers were recovered from the noised sum",
        {"recovered": right, "pass_line": CHANCE},
    )


def _presence(max_corrupt: float) -> Outcome:
    what = _setting(max_corrupt)
    found = mechanism.audit(what, COINS.child("presence"), TRIALS)
    best = max(found.lower_bounds.values())
    return Outcome(
        best > what.epsilon,
        f"guesses about {TRIALS:,} sums show a privacy loss of at least epsilon {best:.2f}; claimed is "
        f"{what.epsilon:.2f}, colluders: {what.colluders}",
        {"claimed": what.epsilon, **found.lower_bounds},
    )


def presence() -> Outcome:
    """Who is in a sum, guessed from its size along the victim's direction."""
    return _presence(0.1)


def uncounted_colluders() -> Outcome:
    """The same by a server with three of ten clients on its side."""
    return _presence(0.3)


STATISTICS = (
    f"n = {TRIALS:,} independent trials; largest of three lower bounds on epsilon, together wrong with chance "
    f"{mechanism.ALPHA:g}; pass line: at most the claimed epsilon"
)

ATTACKS = (
    Attack(
        "noise-removal",
        "the server and a colluding client",
        "a colluder's own noise says nothing about anybody else's",
        (
            Weakening(
                "fgrpo_secure.privacy.noise",
                '    key = entropy.bytes(KEY_BYTES, "share")\n',
                "    key = bytes(KEY_BYTES)\n",
                "a key of each client's own for its noise",
            ),
        ),
        noise_removal,
        f"n = 1,026 coordinates; share recovered exactly; pass line: at most {CHANCE:.0%}",
    ),
    Attack(
        "presence-in-sums",
        "the server and a colluding client",
        "sums of a whole run give away a client's presence no better than the claimed epsilon allows",
        (
            Weakening(
                "fgrpo_secure.privacy.noise",
                "discrete_gaussian.sample(discrete_gaussian.table(variance),",
                "discrete_gaussian.sample(discrete_gaussian.table(variance * 81 // 100),",
                "all of the noise: nine tenths of its deviation are drawn",
            ),
        ),
        presence,
        STATISTICS,
    ),
    Attack(
        "uncounted-colluders",
        "the server and three colluding clients of ten",
        "a round is charged for the noise that honest survivors alone add",
        (
            Weakening(
                "fgrpo_secure.privacy.noise",
                "(survivors - self.colluders) * self.share_variance",
                "survivors * self.share_variance",
                "colluders' shares do not count when a round is charged",
            ),
        ),
        uncounted_colluders,
        STATISTICS,
    ),
)
