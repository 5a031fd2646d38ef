"""Poisoned rewards: an owner who pays for nonsense, a thousand times as much as others pay for sense.

Its machine runs the real client, so all that the poison can do goes through the clip. That one client can also lie with
its vectors is `lying_clients`.
"""

import numpy as np

from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.privacy import clip, encode
from fgrpo_secure.privacy.encode import FloatArray, Lattice, Score, SumOutOfBounds
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.learners import Learners, cosines, rows_of

HONEST = 11
PRICE = -1_000.0
COINS = SeededEntropy(b"poison")
SILENT = (Score(0.0, -1.0, 1.0), Score(0.0, -1.0, 1.0))
DOMINATED = 0.9  # the cosine of a step with the poisoner's own update


def poisoned_rewards() -> Outcome:
    """One of twelve owners pays -1,000 for what the others pay 1 for. Who decides where the model goes is measured."""
    learners = Learners.build(
        grpo={
            "optimizer": "sgd",
            "learning_rate": 100.0,
            "prompts_per_step": 1,
            "scale_rewards": "none",
            "max_grad_norm": None,
        }
    )
    rows = rows_of("add", HONEST + 1)
    updates = [learners.update([row]).values for row in rows[:HONEST]]
    poison = learners.update([rows[HONEST]], PRICE).values
    lattice = Lattice.build(learners.dimension, 1.0)
    step = _step([*updates, poison], lattice)
    if step is None:
        return Outcome(False, "the sum is refused: honest clients cannot add up to it")
    alone = _step([poison], lattice)
    cosine = float(cosines(poison[None, :], step)[0])
    share = np.inf if alone is None else float(np.linalg.norm(alone))
    return Outcome(
        cosine > DOMINATED,
        f"the step's cosine with the poisoned update is {cosine:.3f}; it moved the sum by {share:.3g} clip norms",
        {"cosine": cosine, "moved": share, "pass_line": DOMINATED},
    )


def _step(updates: list[FloatArray], lattice: Lattice) -> FloatArray | None:
    """The decoded sum, shape (d,), in clip norms; None if the server refuses it."""
    total = np.zeros(lattice.length, np.int64)
    for client, update in enumerate(updates):
        clipped = clip.to_norm(clip.Update(update), lattice.clip_norm).times(1.0)
        total += encode.to_ring(clipped, SILENT, lattice, COINS.child(client)).values
    try:
        encode.check_sum(total, lattice, len(updates), 0)
    except SumOutOfBounds:
        return None
    return encode.from_ring(total, lattice, ((-1.0, 1.0), (-1.0, 1.0)), len(updates)).update_sum


ATTACKS = (
    Attack(
        "poisoned-rewards",
        "an owner who pays for nonsense",
        "whatever an owner pays for, its real client moves a round by no more than one clip norm, and rounding",
        (
            Weakening(
                "fgrpo_secure.privacy.clip",
                "    if unit_norm <= clip_norm / largest * slack:\n",
                "    if unit_norm < math.inf:\n",
                "the clip",
            ),
            Weakening(
                "fgrpo_secure.privacy.encode",
                "    if not np.max(np.abs(clipped.values)) <= clipped.bound:",
                "    if not np.max(np.abs(clipped.values)) <= math.inf:",
                "no coordinate above the bound",
            ),
            Weakening(
                "fgrpo_secure.privacy.encode",
                "        if within(rounded, bound):\n",
                "        if rounded.size:\n",
                "the exact norm of the integers",
            ),
            Weakening(
                "fgrpo_secure.privacy.encode",
                "    if not within(total, bound):\n",
                "    if total.size == 0:\n",
                "the bound on the decoded sum",
            ),
        ),
        poisoned_rewards,
    ),
)
