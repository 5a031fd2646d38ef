"""One round at a client, on one page: from prompts to a noised vector that is ready to be masked.

    prompts -> rollouts -> rewards -> GRPO steps -> update                                    learn
    rewards -> relative gain -> weight
    update -> clip -> times weight -> encode with hidden scalars -> add noise share           privatise

`learn` happens before the client announces itself and takes as long as it takes; what it gives may be used again when
the session is repeated. `privatise` happens once for each session, before that announcement where others could time it,
in a simulation when the vector is masked: its weight, its rounding and its noise are never used twice. Masking, and
everything before and after it on the wire, is `protocols.client`.
"""

from dataclasses import dataclass, field

from fgrpo_secure import gain
from fgrpo_secure.client.boundary import UnusableRound
from fgrpo_secure.client.owner import Owner
from fgrpo_secure.client.store import write_baseline
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.gain import Baseline, Observation, Weighed
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.plan import adaptive_clip
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.privacy import clip, encode, noise
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import EncodedVector, Lattice, Score
from fgrpo_secure.privacy.noise import NoisedVector


@dataclass(frozen=True)
class Learned:
    """What an owner's data came to in a training round. Secret. `observation` is None where its data was unusable."""

    update: Update = field(repr=False)
    observation: Observation | None = field(repr=False)
    seconds_rollouts: float = field(default=0.0, repr=False)
    moments: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Contribution:
    """What a session leaves at the client: the vector to mask, and what is remembered if the session settles: the
    reward history, and the optimiser's moments where those are kept and the round trained."""

    vector: NoisedVector = field(repr=False)
    baseline: Baseline = field(repr=False)
    weight: float = field(repr=False)
    moments: bytes = field(default=b"", repr=False)

    def history(self) -> str:
        """What is remembered, as a client's store takes it."""
        return write_baseline(self.baseline, self.moments)


def learn(adapted: AdaptedModel, owner: Owner, settings: RoundSettings) -> Learned:
    """Train on `owner`'s data from the model as received. The model is back where it was afterwards.

    A failure that depends on data gives what contributes zero and the full noise share: nobody can tell.
    """
    try:
        trained = owner.train(adapted, settings)
    except UnusableRound as reason:
        owner.note(settings, reason)
        return missing(adapted.dimension(settings.training_round))
    return Learned(Update(trained.update), trained.observation, trained.seconds_rollouts, trained.moments)


def missing(dimension: int) -> Learned:
    """What a training amounts to that failed, or died: zero, and no observation."""
    return Learned(Update.zero(dimension), None)


def privatise(
    learned: Learned, settings: RoundSettings, lattice: Lattice, past: Baseline, max_weight: float, entropy: Entropy
) -> Contribution:
    """Weigh by the relative gain, clip, encode and add this client's noise share.

    `max_weight` is the owner's own: its weight never rises above it.

    **Claim** The vector before noise has integer L2 norm at most `lattice.integer_bound`, whatever the data.
    **Why** The weight multiplies the clipped update and is at most 1; the encoder checks the integers themselves.
    """
    weighed, hidden = _weigh(learned, settings, past, max_weight)
    encoded = encode.to_ring(
        # Named by nobody, so that it is gone before noise of the same size is drawn.
        clip.to_norm(learned.update, settings.clip_norm).times(weighed.weight),
        hidden,
        lattice,
        entropy.child("rounding"),
    )
    vector = _noised(encoded, settings, entropy.child("noise"))
    return Contribution(vector, weighed.baseline, weighed.weight, learned.moments)


def _weigh(
    learned: Learned, settings: RoundSettings, past: Baseline, max_weight: float
) -> tuple[Weighed, tuple[Score, ...]]:
    """The weight, and the scalars that are hidden beside the update.

    Without an observation the scalars lie in the middle of their ranges and encode to zero, like the update.
    """
    adapts = settings.adaptive_clip is not None
    if learned.observation is None:
        least, most = settings.score_ranges[0]
        # The middle of the range encodes to zero: an empty contribution is noise in every coordinate, scores included.
        weighed = Weighed(0.0, least / 2 + most / 2, past)
        indicator = adaptive_clip.missing()
    else:
        weighed = gain.weigh(learned.observation, past, settings.weighting, settings.training_round).capped(max_weight)
        indicator = adaptive_clip.bit(learned.update, settings.clip_norm)
    hidden = scores(weighed.gain, weighed.weight, settings)
    return weighed, (*hidden, indicator) if adapts else hidden


def _noised(encoded: EncodedVector, settings: RoundSettings, entropy: Entropy) -> NoisedVector:
    if settings.unit == "none" or settings.aggregation == "plain":  # a client's own policy admits either, or not
        return noise.no_noise(encoded)
    return noise.add_share(encoded, settings.share_variance, entropy)


def scores(relative: float, weight: float, settings: RoundSettings) -> tuple[Score, Score]:
    """Weight and gain with their public ranges: the extra coordinates of the vector, in this order."""
    (least, most), (low, high) = settings.score_ranges[:2]
    return Score(weight, least, most), Score(relative, low, high)
