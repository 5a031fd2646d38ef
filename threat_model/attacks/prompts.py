"""Gradient inversion: which prompt did a client train on? The server trains on all it can think of and compares.

The strongest dictionary attack: the truth is among the candidates, the model, the rewards and the seed of the rollouts
are the client's own, so an update that is seen as it is gives its prompt away every time.
"""

from functools import cache

import numpy as np

from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.plan import cost as planner
from fgrpo_secure.privacy import clip, encode, noise
from fgrpo_secure.privacy.encode import FloatArray, IntArray, Lattice, Score
from protocols import ring
from protocols.params import Adversary
from protocols.wire import Step
from threat_model import views, world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.learners import Learners, cosines, rows_of
from threat_model.views import ServerView

CANDIDATES = 64
VICTIMS = 24
COHORT = 6
FEW = 4  # victims whose prompt comes out first by luck: more in one of 20,000 runs
COINS = SeededEntropy(b"prompts")
SILENT = (Score(0.0, -1.0, 1.0), Score(0.0, -1.0, 1.0))
ROUNDS = 12
EPSILON = 8.0


@cache
def _dictionary() -> FloatArray:
    """What a client would learn from each candidate, shape (candidates, d); prompts that teach nothing are left out."""
    learners = Learners.build()
    learned = [learners.update([row]).values for row in rows_of("add", CANDIDATES + 32)]
    table: FloatArray = np.array([update for update in learned if update.any()])[:CANDIDATES]
    return table


def _encoded(update: FloatArray, lattice: Lattice, *label: str | int) -> IntArray:
    clipped = clip.to_norm(clip.Update(update), lattice.clip_norm).times(1.0)
    return encode.to_ring(clipped, SILENT, lattice, COINS.child(*label)).values


def _outcome(hits: int, best: float, what: str) -> Outcome:
    return Outcome(
        hits > FEW,
        f"{hits} of {VICTIMS} victims' prompts came out first of {CANDIDATES} from {what}; mean cosine {best:.3f}",
        {"hits": float(hits), "victims": float(VICTIMS), "pass_line": float(FEW), "mean_cosine": best},
    )


def _judge(seen: list[FloatArray], what: str) -> Outcome:
    """`seen[k]` is what the adversary holds of a client that trained on candidate k."""
    table = _dictionary()
    found = [cosines(table, each) for each in seen]
    hits = sum(int(np.argmax(each)) == victim for victim, each in enumerate(found))
    return _outcome(hits, float(np.mean([each[victim] for victim, each in enumerate(found)])), what)


def from_an_upload() -> Outcome:
    """Reads single uploads as the server receives them."""
    table = _dictionary()
    lattice = Lattice.build(table.shape[1], 1.0)
    seen: list[FloatArray] = []
    for first in range(0, VICTIMS, COHORT):
        at = world.build(COHORT)
        at.change_plan(vectors=(("update", lattice.dimension), ("scores", lattice.scores)))
        for place, client in enumerate(at.ids):
            values = _encoded(table[first + place], lattice, "upload", first + place)
            at.values[client] = {"update": values[: lattice.dimension], "scores": values[lattice.dimension :]}
        view = views.watch(at, Step.AGREE)
        seen += [_read(view, client, lattice.dimension) for client in at.ids]
    return _judge(seen, "their uploads")


def _read(view: ServerView, client: int, length: int) -> FloatArray:
    packed = view.upload(client).vectors[0]
    return ring.to_signed(ring.unpack(packed, length, view.plan.ring_bits), view.plan.ring_bits).astype(np.float64)


def from_a_sum() -> Outcome:
    """Reads the sum of a round of the victim and five others, whose prompts are not in the dictionary."""
    table = _dictionary()
    learners = Learners.build()
    others = [learners.update([row]).values for row in rows_of("sub", COHORT - 1)]
    planned = planner.plan(
        planner.PlanRequest(
            rounds=ROUNDS,
            clients=COHORT,
            clients_per_round=COHORT,
            rounds_per_client=ROUNDS,
            dimension=table.shape[1],
            unit="client",
            delta=1e-5,
            clip_norm=1.0,
            adversary=Adversary.LYING_SERVER,
            max_corrupt=0.1,
            max_dropout=0.0,
            mean_weight=1.0,
            epsilon=EPSILON,
        )
    )
    lattice, seen = planned.lattice, []
    for victim in range(VICTIMS):
        total = np.zeros(lattice.length, np.int64)
        for place, update in enumerate([table[victim], *others]):
            integers = encode.EncodedVector(_encoded(update, lattice, "sum", victim, place), lattice.integer_bound)
            total += noise.add_share(integers, planned.share_variance, COINS.child("noise", victim, place)).values
        seen.append(total[: lattice.dimension].astype(np.float64))
    return _judge(seen, f"sums of {COHORT} clients")


STATISTICS = (
    f"n = {VICTIMS} victims, {CANDIDATES} candidates each; how many true prompts have the largest cosine; pass line: "
    f"at most {FEW} (by luck more in one of 20,000 runs)"
)

ATTACKS = (
    Attack(
        "prompts-from-an-upload",
        "honest-but-curious server",
        "an upload says nothing about the prompts behind it",
        (
            Weakening(
                "protocols.client",
                "masks.Keystreams(signed_keys)",
                "masks.Keystreams([])",
                "masks on the vectors",
            ),
        ),
        from_an_upload,
        STATISTICS,
    ),
    Attack(
        "prompts-from-a-sum",
        "honest-but-curious server",
        "with differential privacy, a sum over few clients does not say what one of them trained on",
        (
            Weakening(
                "fgrpo_secure.privacy.noise",
                "    return NoisedVector(np.add(encoded.values, noise, out=noise), encoded.bound, variance)\n",
                "    return NoisedVector(encoded.values, encoded.bound, variance)\n",
                "the noise: without differential privacy this attack works on ours",
            ),
        ),
        from_a_sum,
        STATISTICS,
    ),
)
