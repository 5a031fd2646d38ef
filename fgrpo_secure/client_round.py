"""One round at a client, on one page: from prompts to a noised vector that is ready to be masked.

Each line is one stage with its own type; skipping one does not type-check. Masking itself, and everything before
and after it on the wire, is `protocols.client`.
"""

from dataclasses import dataclass, field

from fgrpo_secure import entropy as entropies
from fgrpo_secure import gain
from fgrpo_secure.adapters import Policy
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.gain import Baseline
from fgrpo_secure.owner import Owner, UnusableRound
from fgrpo_secure.privacy import clip, encode, noise
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import Lattice, Score
from fgrpo_secure.privacy.noise import NoisedVector
from fgrpo_secure.round_settings import RoundSettings


@dataclass(frozen=True)
class Contribution:
    """What the round leaves at the client: the vector to mask, and its reward history if the round settles."""

    vector: NoisedVector = field(repr=False)
    baseline: Baseline = field(repr=False)
    seconds_training: float
    seconds_privacy: float


def contribute(
    policy: Policy, owner: Owner, settings: RoundSettings, lattice: Lattice, past: Baseline, entropy: Entropy
) -> Contribution:
    """Train on `owner`'s data, weigh by its relative gain, clip, encode and add this client's noise share.

    **Claim** The vector before noise has integer L2 norm at most `lattice.integer_bound`, whatever the data.
    **Why** The weight multiplies the clipped update and is at most 1; the encoder checks the integers themselves.
    A failure that depends on data contributes zero and the full noise share: nobody can tell.
    """
    started = entropies.processor_time()
    weighting = settings.weighting
    try:
        trained = owner.train(policy, settings)  # rollouts -> rewards -> GRPO steps
        update = Update(trained.update)
        relative = gain.relative_gain(trained.observation, past, weighting)
        weight = gain.weight(relative, weighting)
        baseline = past.updated(trained.observation, weighting.baseline_decay)
    except UnusableRound as reason:
        owner.note(settings, reason)
        update, relative, weight, baseline = (
            Update.zero(lattice.dimension),
            0.0,
            gain.reference_weight(weighting),
            past,
        )
    trained_at = entropies.processor_time()
    clipped = clip.to_norm(update, settings.clip_norm).times(weight)
    encoded = encode.to_ring(clipped, scores(relative, weight, settings), lattice, entropy.child("rounding"))
    noised = (
        noise.no_noise(encoded)
        if settings.unit == "none"
        else noise.add_share(encoded, settings.share_variance, entropy.child("noise"))
    )
    return Contribution(noised, baseline, trained_at - started, entropies.processor_time() - trained_at)


def scores(relative: float, weight: float, settings: RoundSettings) -> tuple[Score, Score]:
    """Weight and gain with their public ranges: the extra coordinates of the vector, in this order."""
    limit = settings.weighting.gain_clip
    return Score(weight, settings.weighting.min_weight, 1.0), Score(relative, -limit, limit)


def score_ranges(settings: RoundSettings) -> tuple[tuple[float, float], tuple[float, float]]:
    """The public (low, high) of `scores`, for the server's decoder."""
    limit = settings.weighting.gain_clip
    return (settings.weighting.min_weight, 1.0), (-limit, limit)
