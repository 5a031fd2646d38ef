"""One round at a client whose units are subjects or prompts, on one page: from each unit's prompts to a noised vector.

In mode 'distributed' the client's units are summed and its share of the noise is added; in mode 'local' every step
adds all of its noise, and what is sent is made from noised sums alone. Either way a unit's data reaches nothing but
its own vector, which is clipped, rounded and checked by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fgrpo_secure import gain
from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.owner import Owner
from fgrpo_secure.client.round import Contribution
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.gain import Baseline, Weighed
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo.local_update import PromptGroups, Tally, local_optimizer
from fgrpo_secure.plan.round_settings import RoundSettings, UnitTerms
from fgrpo_secure.privacy import clip, encode, noise, units
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import EncodedVector, Lattice, Score
from fgrpo_secure.privacy.noise import NoisedVector
from fgrpo_secure.privacy.units import EncodedSum


def contribute(
    adapted: AdaptedModel,
    owner: Owner,
    settings: RoundSettings,
    lattice: Lattice,
    past: Baseline,
    max_weight: float,
    entropy: Entropy,
) -> Contribution:
    """One round on its block of `owner`'s units. `lattice` is that of the upload, `max_weight` the owner's own.

    Training and noise go together here, before the client announces itself: noise is drawn for each session anew.

    **Claim** Taking one unit's data away changes the vector before noise by at most the integer bound, and nothing
    else that leaves the client; in mode 'local' this holds for every step's sum.
    **Why** Weights come from noised rewards or none, all denominators are public numbers, and a unit whose data is
    unusable contributes zero while the others go on.
    """
    if terms(settings).mode == "local":
        vector, weighed = _steps(adapted, owner, settings, lattice, past, max_weight, entropy)
    else:
        step = _sample(adapted, owner, settings, 0, entropy.child("step", 0), Tally())
        weighed = _weigh(owner, step, settings, past, entropy).capped(max_weight)
        scores = client_round.scores(weighed.gain, weighed.weight, settings)
        vector = _release(adapted, owner, settings, step, weighed.weight, scores, entropy)
        _keep_view(adapted, owner, settings, [step])
    return Contribution(vector, weighed.baseline, weighed.weight)


def untrained(
    settings: RoundSettings, lattice: Lattice, past: Baseline, max_weight: float, entropy: Entropy
) -> Contribution:
    """What a client sends whose training died: zero, in its full noise.

    In mode 'local' what is sent is made from noised sums alone. Zero is made from nothing, so that it needs none.
    """
    missing = client_round.missing(lattice.dimension)
    # The noise is owed whether or not there was training: a client that fell silent would say that its training died.
    if terms(settings).mode == "distributed":
        return client_round.privatise(missing, settings, lattice, past, max_weight, entropy)
    (least, most), clipped = settings.score_ranges[0], clip.to_norm(missing.update, lattice.clip_norm)
    middle = client_round.scores(0.0, least / 2 + most / 2, settings)
    encoded = encode.to_ring(clipped, middle, lattice, entropy.child("upload"))
    return Contribution(noise.noised_before(encoded), past, middle[0].value)


@dataclass(frozen=True)
class Step:
    """What the units of one step produced: rollouts and rewards, None where data was unusable. Secret.

    `tally` is the round's, for the owner's own view: it counts along, and nothing that leaves depends on it.
    """

    number: int
    groups: Mapping[str, PromptGroups | None] = field(repr=False)
    tally: Tally = field(default_factory=Tally, repr=False)


def terms(settings: RoundSettings) -> UnitTerms:
    """How units take part; ValueError if the unit does not lie inside a client."""
    if settings.units is None:
        raise ValueError(f"the unit is {settings.unit!r}, which does not lie inside a client")
    return settings.units


def _keep_view(adapted: AdaptedModel, owner: Owner, settings: RoundSettings, steps: Sequence[Step]) -> None:
    """What the owner sees of the round, if any unit's data was usable."""
    groups = [each for step in steps for each in step.groups.values() if each is not None]
    if groups:
        owner.keep_view(adapted, groups, steps[0].tally, settings)


def _sample(
    adapted: AdaptedModel, owner: Owner, settings: RoundSettings, number: int, source: Entropy, tally: Tally
) -> Step:
    """The block of units -> who of them takes part -> rollouts and rewards of each, alone."""
    if owner.units is None:
        raise ValueError("this owner's data is not divided into units")
    chosen = terms(settings)
    block = owner.units.in_block(chosen.block(settings.training_round), chosen.blocks)
    # From the client's own secret source: who knows the sample knows who is not in it, and the amplification is gone.
    present = units.sampled(block, chosen.sampling_rate, source)
    groups = {unit: owner.unit_groups(adapted, settings, number, unit) for unit in present}
    return Step(number, groups, tally)


def _weigh(owner: Owner, step: Step, settings: RoundSettings, past: Baseline, entropy: Entropy) -> Weighed:
    """The weight of the whole client. It multiplies every unit's gradient, so no raw reward may have a part in it."""
    weighting = settings.weighting
    if weighting.rule == "uniform" or weighting.reward_range is None or weighting.reward_noise_multiplier is None:
        return Weighed(0.0, 1.0, past)
    present = (each for each in step.groups.values() if each is not None)
    means = [mean for each in present if (mean := owner.mean_reward(settings, each)) is not None]
    expected, multiplier = terms(settings).expected, weighting.reward_noise_multiplier
    source = entropy.child("reward noise")
    seen = gain.Observation(*units.noised_rewards(means, weighting.reward_range, multiplier, expected, source))
    return gain.weigh(seen, past, weighting, settings.training_round)


def _release(
    adapted: AdaptedModel,
    owner: Owner,
    settings: RoundSettings,
    step: Step,
    weight: float,
    scores: tuple[Score, ...],
    entropy: Entropy,
) -> NoisedVector:
    """The sum of the step's units, and noise on it."""
    summed = before_noise(adapted, owner, settings, step, weight, scores, entropy)
    if settings.aggregation == "plain" and terms(settings).mode == "distributed":  # a baseline: the server's noise
        return noise.no_noise(summed)
    return noise.add_share(summed, settings.share_variance, entropy.child("noise", step.number))


def before_noise(
    adapted: AdaptedModel,
    owner: Owner,
    settings: RoundSettings,
    step: Step,
    weight: float,
    scores: tuple[Score, ...],
    entropy: Entropy,
) -> EncodedSum:
    """Gradient -> clip -> times weight -> integers, each unit alone; then the sum with the client's own scores.

    Public for the audit that takes each unit away and looks at what else changes.
    """
    lattice = settings.unit_lattice(adapted.dimension(settings.training_round))
    rounding = entropy.child("rounding", step.number)
    # The client's own scores in a vector of their own: beside a unit's update they would share its norm bound.
    nothing = clip.to_norm(Update.zero(lattice.dimension), lattice.clip_norm)
    own = encode.to_ring(nothing, scores, lattice, rounding.child("scores"))
    present = ((unit, groups) for unit, groups in step.groups.items() if groups is not None)
    # Rounded with a label of its own name: in one stream a unit's absence would shift the rounding of all after it.
    vectors = (
        unit_vector(adapted, owner, settings, groups, weight, rounding.child("unit", unit), step.tally)
        for unit, groups in present
    )
    return units.total(vectors, own, lattice)


def unit_vector(
    adapted: AdaptedModel,
    owner: Owner,
    settings: RoundSettings,
    groups: PromptGroups,
    weight: float,
    rounding: Entropy,
    tally: Tally | None = None,
) -> EncodedVector:
    """One unit's integers, from its own rollouts and `rounding` of its own."""
    lattice = settings.unit_lattice(adapted.dimension(settings.training_round))
    silent = [Score(0.0, -1.0, 1.0)] * lattice.scores  # a unit says nothing about weight and gain
    clipped = clip.to_norm(owner.unit_update(adapted, settings, groups, tally), lattice.clip_norm).times(weight)
    return encode.to_ring(clipped, silent, lattice, rounding)


def _steps(
    adapted: AdaptedModel,
    owner: Owner,
    settings: RoundSettings,
    lattice: Lattice,
    past: Baseline,
    max_weight: float,
    entropy: Entropy,
) -> tuple[NoisedVector, Weighed]:
    """Local steps along noised sums, the weight from the first step's noised rewards, and the clipped change.

    The model is back where it was afterwards. A step's rewards are charged with every step, though only the first
    step's are looked at.
    """
    round_number = settings.training_round
    received, parameters = adapted.get_vector(round_number), adapted.trainable(round_number)
    optimizer, weighed = local_optimizer(parameters, settings.grpo), Weighed(0.0, 1.0, past)
    middle, steps, tally = client_round.scores(0.0, 1.0, settings), list[Step](), Tally()
    try:
        for number in range(settings.local_steps):
            step = _sample(adapted, owner, settings, number, entropy.child("step", number), tally)
            if number == 0:
                weighed = _weigh(owner, step, settings, past, entropy).capped(max_weight)
            # Unweighted, with middle scores: the weight comes once, at the end, on what is public by then.
            noised = _release(adapted, owner, settings, step, 1.0, middle, entropy)
            _descend(parameters, optimizer, noised, settings)
            steps.append(step)
        # Made from noised sums alone, whatever the optimiser did with them: post-processing costs nothing.
        update = adapted.get_vector(round_number) - received
    finally:
        # Whatever happened: the next unit or round must begin from the model as received.
        adapted.set_vector(round_number, received)
        for parameter in parameters:
            parameter.grad = None
    _keep_view(adapted, owner, settings, steps)
    clipped = clip.to_norm(Update(update), lattice.clip_norm).times(weighed.weight)
    scores = client_round.scores(weighed.gain, weighed.weight, settings)
    return noise.noised_before(encode.to_ring(clipped, scores, lattice, entropy.child("upload"))), weighed


def _descend(
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    noised: NoisedVector,
    settings: RoundSettings,
) -> None:
    """One optimiser step along a noised sum, divided by the public number of units in a step."""
    dimension = sum(parameter.numel() for parameter in parameters)
    lattice = settings.unit_lattice(dimension)
    # By the public number: the true one is data.
    mean: NDArray[np.float64] = noised.values[:dimension] / lattice.scale / terms(settings).expected
    position = 0
    for parameter in parameters:
        part = torch.from_numpy(mean[position : position + parameter.numel()])
        parameter.grad = -part.reshape(parameter.shape).to(parameter)
        position += parameter.numel()
    optimizer.step()
