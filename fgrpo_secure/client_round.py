"""One round at a client, on one page: from prompts to a noised vector that is ready to be masked.

Each line is one stage with its own type; skipping one does not type-check. Masking itself, and everything before
and after it on the wire, is `protocols.client`.
"""

from dataclasses import dataclass, field

from fgrpo_secure import adaptive_clip, gain
from fgrpo_secure import entropy as entropies
from fgrpo_secure.adapters import Policy
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.gain import Baseline
from fgrpo_secure.owner import Owner, UnusableRound
from fgrpo_secure.privacy import clip, encode, noise
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import EncodedVector, Lattice, Score
from fgrpo_secure.privacy.noise import NoisedVector
from fgrpo_secure.round_settings import RoundSettings


@dataclass(frozen=True)
class Contribution:
    """What the round leaves at the client: the vector to mask, and its reward history if the round settles."""

    vector: NoisedVector = field(repr=False)
    baseline: Baseline = field(repr=False)
    seconds_rollouts: float
    seconds_training: float


def contribute(
    policy: Policy, owner: Owner, settings: RoundSettings, lattice: Lattice, past: Baseline, entropy: Entropy
) -> Contribution:
    """Train on `owner`'s data, weigh by its relative gain, clip, encode and add this client's noise share.

    **Claim** The vector before noise has integer L2 norm at most `lattice.integer_bound`, whatever the data.
    **Why** The weight multiplies the clipped update and is at most 1; the encoder checks the integers themselves.
    A failure that depends on data contributes zero and the full noise share: nobody can tell.
    """
    started = entropies.processor_time()
    learned = _learn(policy, owner, settings, past)  # rollouts -> rewards -> GRPO steps -> update, gain, weight
    trained = entropies.processor_time() - started
    clipped = clip.to_norm(learned.update, settings.clip_norm).times(learned.weight)
    said = (*scores(learned.gain, learned.weight, settings), *learned.within)
    encoded = encode.to_ring(clipped, said, lattice, entropy.child("rounding"))
    noised = _noised(encoded, settings, entropy.child("noise"))
    return Contribution(noised, learned.baseline, learned.seconds_rollouts, trained)


@dataclass(frozen=True)
class Learned:
    """What an owner's data came to in this round. Secret."""

    update: Update = field(repr=False)
    gain: float = field(repr=False)
    weight: float = field(repr=False)
    baseline: Baseline = field(repr=False)
    seconds_rollouts: float
    within: tuple[Score, ...] = field(default=(), repr=False)


def _learn(policy: Policy, owner: Owner, settings: RoundSettings, past: Baseline) -> Learned:
    """Local training and the relative gain; what encodes to zero everywhere if the data is unusable."""
    weighting = settings.weighting
    try:
        trained = owner.train(policy, settings)
    except UnusableRound as reason:
        owner.note(settings, reason)
        zero = Update.zero(policy.dimension(settings.training_round))
        low, high = score_ranges(settings)[0]
        middle = low / 2 + high / 2  # of a range: encodes to zero
        return Learned(zero, 0.0, middle, past, 0.0, _within(adaptive_clip.nothing(), settings))
    relative = gain.relative_gain(trained.observation, past, weighting)
    baseline = past.updated(trained.observation, weighting.baseline_decay)
    weight = min(gain.weight(relative, weighting), owner.max_weight)
    update = Update(trained.update)
    within = _within(adaptive_clip.bit(update, settings.clip_norm), settings)
    return Learned(update, relative, weight, baseline, trained.seconds_rollouts, within)


def _within(bit: Score, settings: RoundSettings) -> tuple[Score, ...]:
    """The coordinate that an adaptive clip adds to `scores`; none without one."""
    return () if settings.adaptive_clip is None else (bit,)


def _noised(encoded: EncodedVector, settings: RoundSettings, entropy: Entropy) -> NoisedVector:
    if settings.unit == "none" or settings.aggregation == "plain":  # a client's own policy admits either, or not
        return noise.no_noise(encoded)
    return noise.add_share(encoded, settings.share_variance, entropy)


def scores(relative: float, weight: float, settings: RoundSettings) -> tuple[Score, Score]:
    """Weight and gain with their public ranges: the extra coordinates of the vector, in this order."""
    limit = settings.weighting.gain_clip
    return Score(weight, settings.weighting.min_weight, 1.0), Score(relative, -limit, limit)


def score_ranges(settings: RoundSettings) -> tuple[tuple[float, float], ...]:
    """The public (low, high) of every coordinate besides the update's, for the server's decoder."""
    limit = settings.weighting.gain_clip
    bits = () if settings.adaptive_clip is None else ((0.0, 1.0),)
    return (settings.weighting.min_weight, 1.0), (-limit, limit), *bits
