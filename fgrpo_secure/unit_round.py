"""One round at a client whose units are subjects or prompts, on one page: from each unit's prompts to a noised vector.

In mode 'distributed' the client's units are summed and its share of the noise is added; in mode 'local' every step
adds all of its noise, and what is sent is made from noised sums alone. Either way a unit's data reaches nothing but
its own vector, which is clipped, rounded and checked by itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fgrpo_secure import client_round, gain
from fgrpo_secure import entropy as entropies
from fgrpo_secure.adapters import Policy
from fgrpo_secure.client_round import Contribution
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.gain import Baseline
from fgrpo_secure.grpo.local_update import PromptGroups, local_optimizer
from fgrpo_secure.owner import Owner
from fgrpo_secure.privacy import clip, encode, noise, units
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import EncodedVector, Lattice, Score
from fgrpo_secure.privacy.noise import NoisedVector
from fgrpo_secure.round_settings import RoundSettings, UnitTerms


def contribute(
    policy: Policy, owner: Owner, settings: RoundSettings, lattice: Lattice, past: Baseline, entropy: Entropy
) -> Contribution:
    """One round on `owner`'s units whose turn it is; `lattice` is that of the upload.

    **Claim** Taking one unit's data away changes the vector before noise by at most the integer bound, and nothing
    else that leaves the client; in mode 'local' this holds for every step's sum.
    **Why** Weights come from noised rewards or none, all denominators are public numbers, and a unit whose data is
    unusable contributes zero while the others go on.
    """
    started = entropies.processor_time()
    if terms(settings).mode == "local":
        vector, weighed, rollouts = _steps(policy, owner, settings, lattice, past, entropy)
    else:
        step = _sample(policy, owner, settings, 0, entropy.child("step", 0))
        weighed = _weigh(step.groups, settings, past, entropy).capped(owner.max_weight)
        rollouts = step.seconds
        scores = client_round.scores(weighed.gain, weighed.weight, settings)
        vector = _release(policy, owner, settings, step, weighed.weight, scores, entropy)
    return Contribution(vector, weighed.baseline, rollouts, entropies.processor_time() - started)


@dataclass(frozen=True)
class Step:
    """What the units of one step produced: rollouts and rewards, None where data was unusable. Secret."""

    number: int
    groups: Mapping[str, PromptGroups | None] = field(repr=False)
    seconds: float = 0.0


@dataclass(frozen=True)
class Weighed:
    """The client's weight and gain, public or made from noised rewards, and its reward history after them."""

    weight: float
    gain: float
    baseline: Baseline = field(repr=False)

    def capped(self, max_weight: float) -> "Weighed":
        """The same with a weight of at most the owner's largest."""
        return replace(self, weight=min(self.weight, max_weight))


def terms(settings: RoundSettings) -> UnitTerms:
    """How units take part; ValueError if the unit does not lie inside a client."""
    if settings.units is None:
        raise ValueError(f"the unit is {settings.unit!r}, which does not lie inside a client")
    return settings.units


def _sample(policy: Policy, owner: Owner, settings: RoundSettings, number: int, coins: Entropy) -> Step:
    """Whose turn it is -> who takes part -> rollouts and rewards of each, alone."""
    if owner.units is None:
        raise ValueError("this owner's data is not divided into units")
    started, chosen = entropies.processor_time(), terms(settings)
    turn = owner.units.turn(chosen.block(settings.training_round), chosen.blocks)
    present = units.sampled(turn, chosen.sampling_rate, coins)
    groups = {unit: owner.unit_groups(policy, settings, number, unit) for unit in present}
    return Step(number, groups, entropies.processor_time() - started)


def _weigh(
    groups: Mapping[str, PromptGroups | None], settings: RoundSettings, past: Baseline, entropy: Entropy
) -> Weighed:
    """The weight of the whole client. It multiplies every unit's gradient, so no raw reward may have a part in it."""
    weighting = settings.weighting
    if weighting.rule == "uniform" or weighting.reward_range is None or weighting.reward_noise_multiplier is None:
        return Weighed(1.0, 0.0, past)
    means = (float(each.rewards.mean()) for each in groups.values() if each is not None)
    expected, multiplier = terms(settings).expected, weighting.reward_noise_multiplier
    seen = units.noised_rewards(means, weighting.reward_range, multiplier, expected, entropy.child("reward noise"))
    relative = gain.relative_gain(seen, past, weighting)
    return Weighed(gain.weight(relative, weighting), relative, past.updated(seen, weighting.baseline_decay))


def _release(
    policy: Policy,
    owner: Owner,
    settings: RoundSettings,
    step: Step,
    weight: float,
    scores: tuple[Score, ...],
    entropy: Entropy,
) -> NoisedVector:
    """Gradient -> clip -> times weight -> integers, each unit alone; then the sum, and noise on it."""
    lattice = settings.unit_lattice(policy.dimension(settings.training_round))
    rounding = entropy.child("rounding", step.number)
    nothing = clip.to_norm(Update.zero(lattice.dimension), lattice.clip_norm)
    own = encode.to_ring(nothing, scores, lattice, rounding.child("scores"))
    summed = units.total(_vectors(policy, owner, settings, step, weight, lattice, rounding), own, lattice)
    if settings.aggregation == "plain" and terms(settings).mode == "distributed":  # a baseline: the server's noise
        return noise.no_noise(summed)
    return noise.add_share(summed, settings.share_variance, entropy.child("noise", step.number))


def _vectors(
    policy: Policy,
    owner: Owner,
    settings: RoundSettings,
    step: Step,
    weight: float,
    lattice: Lattice,
    rounding: Entropy,
) -> Iterator[EncodedVector]:
    silent = [Score(0.0, -1.0, 1.0)] * lattice.scores  # a unit says nothing about weight and gain
    for unit, groups in step.groups.items():
        if groups is not None:
            update = owner.unit_update(policy, settings, groups)
            clipped = clip.to_norm(update, lattice.clip_norm).times(weight)
            yield encode.to_ring(clipped, silent, lattice, rounding.child("unit", unit))


def _steps(
    policy: Policy, owner: Owner, settings: RoundSettings, lattice: Lattice, past: Baseline, entropy: Entropy
) -> tuple[NoisedVector, Weighed, float]:
    """Local steps along noised sums, the weight from the first step's noised rewards, and the clipped change.

    The model is back where it was afterwards. A step's rewards are charged with every step, though only the first
    step's are looked at.
    """
    round_number, seconds = settings.training_round, 0.0
    received, parameters = policy.get_vector(round_number), policy.trainable(round_number)
    optimizer, weighed = local_optimizer(parameters, settings.grpo), Weighed(1.0, 0.0, past)
    middle = client_round.scores(0.0, 1.0, settings)
    try:
        for number in range(settings.local_steps):
            step = _sample(policy, owner, settings, number, entropy.child("step", number))
            if number == 0:
                weighed = _weigh(step.groups, settings, past, entropy).capped(owner.max_weight)
            noised = _release(policy, owner, settings, step, 1.0, middle, entropy)
            _descend(parameters, optimizer, noised, settings)
            seconds += step.seconds
        update = policy.get_vector(round_number) - received
    finally:
        policy.set_vector(round_number, received)
        for parameter in parameters:
            parameter.grad = None
    clipped = clip.to_norm(Update(update), lattice.clip_norm).times(weighed.weight)
    scores = client_round.scores(weighed.gain, weighed.weight, settings)
    return noise.noised_before(encode.to_ring(clipped, scores, lattice, entropy.child("upload"))), weighed, seconds


def _descend(
    parameters: list[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    noised: NoisedVector,
    settings: RoundSettings,
) -> None:
    """One optimiser step along a noised sum, divided by the public number of units in a step."""
    dimension = sum(parameter.numel() for parameter in parameters)
    lattice = settings.unit_lattice(dimension)
    mean: NDArray[np.float64] = noised.values[:dimension] / lattice.scale / terms(settings).expected
    position = 0
    for parameter in parameters:
        part = torch.from_numpy(mean[position : position + parameter.numel()])
        parameter.grad = -part.reshape(parameter.shape).to(parameter)
        position += parameter.numel()
    optimizer.step()
