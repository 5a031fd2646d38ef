"""Means that the product does not have, as far as a simulation can try them: subspaces from public data, and weights.

Each is a simulation that differs in one stage and keeps what privacy rests on: a client sends one vector within the
same norm bound, times a weight of at most 1. None of them helped (docs/explanation/learning.md), which is why they
live here. Two others are what a federation is held against: FedProx, and noise at each client alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import batched
import torch
from simulate import Simulation, Trained

from fgrpo_secure import gain
from fgrpo_secure.client.round import Learned
from fgrpo_secure.config.schema import FALL_FOR_ALL_WEIGHT, TOLERATED_FALL
from fgrpo_secure.learning.tasks.evaluation import evaluation_set
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.privacy.encode import FloatArray, IntArray, Lattice

KEPT = 1 / 3  # of the directions that a layer's input can take
PUBLIC = 20  # prompts of each task, without their answers
WHOLE_WEIGHT = (
    "weighting.rule=softmax",
    "weighting.temperature=1e6",
    "weighting.gain_clip=3",
)  # 1 but for rounding: what remains is the cap


class Lever(Simulation):
    """A simulation that differs in a stage."""

    def prepare(self) -> None:
        """What must be found out before the first round, from public data."""


@dataclass
class Subspace(Lever):
    """Rounds of A see only the main directions of what public prompts send into each layer: fewer noisy coordinates."""

    bases: list[torch.Tensor] = field(default_factory=list)  # a layer's, shape (inputs, kept), orthonormal

    def prepare(self) -> None:
        """Find the directions."""
        seen = inputs(self)
        self.bases = [main_directions(each, round(KEPT * each.shape[1])) for each in seen]

    def dimension(self, number: int) -> int:
        """Coordinates within the subspace."""
        return len(self.vector(number))

    def vector(self, number: int) -> FloatArray:
        """Coordinates of the present factors; what lies outside the subspace stays as it is."""
        whole = self.adapted.get_vector(number)
        return whole if self.adapted.factors(number) != "A" else self._within(whole[None])[0]

    def move(self, number: int, vector: FloatArray) -> None:
        """Move the factors by what their coordinates have moved."""
        whole = self.adapted.get_vector(number)
        if self.adapted.factors(number) != "A":
            self.adapted.set_vector(number, vector)
            return
        moved, place, parts = torch.from_numpy(vector - self.vector(number)), 0, []
        for basis, rank in zip(self.bases, self._ranks(), strict=True):
            part = moved[place : place + rank * basis.shape[1]].reshape(rank, -1)
            parts.append((part @ basis.T).flatten())
            place += part.numel()
        self.adapted.set_vector(number, whole + torch.cat(parts).numpy())

    def train(self, settings: RoundSettings) -> Trained:
        """As everybody does; a client cuts its update to the subspace before it is clipped."""
        trained = super().train(settings)
        if self.adapted.factors(settings.training_round) == "A":
            trained.updates = self._within(trained.updates)
        return trained

    def _within(self, vectors: FloatArray) -> FloatArray:
        sizes = [basis.shape[0] * rank for basis, rank in zip(self.bases, self._ranks(), strict=True)]
        layers = torch.split(torch.from_numpy(vectors), sizes, dim=1)
        parts = [
            (layer.unflatten(1, (rank, -1)) @ basis).flatten(1)
            for layer, basis, rank in zip(layers, self.bases, self._ranks(), strict=True)
        ]
        return torch.cat(parts, dim=1).numpy()

    def _ranks(self) -> list[int]:
        return [first.weight.shape[0] for first, _ in batched.lora_pairs(self.adapted)]


@dataclass
class PublicStart(Lever):
    """A starts as the main directions of what public prompts send into each layer, as long as a random A is."""

    def prepare(self) -> None:
        """Put them in A's place; B is zero, so the model is the same."""
        found = inputs(self)
        with torch.no_grad():
            for (first, _), seen in zip(batched.lora_pairs(self.adapted), found, strict=True):
                rows = main_directions(seen, first.weight.shape[0]).T.to(first.weight.dtype)
                first.weight.copy_(rows * first.weight.norm() / rows.norm())


@dataclass
class Laggards(Lever):
    """Who rises counts less, down to half at the largest gain: w = 1 - g / 6 for the gain g of the rule `history`."""

    def largest_weight(self, place: int, learned: Learned, settings: RoundSettings) -> float:
        """1 for who stands still or falls."""
        return 1.0 - max(0.0, own_gain(self, place, learned, settings)) / 6


@dataclass
class AgainstTheMean(Laggards):
    """The rule `history` on a client's gain less the cohort's: the mean gain that the last round's sum released."""

    def largest_weight(self, place: int, learned: Learned, settings: RoundSettings) -> float:
        """Who falls behind the others counts half, even if it does not fall."""
        others = max(0.0, self.released[-1].mean.mean_gain) if self.released else 0.0
        behind = own_gain(self, place, learned, settings) - others
        return min(1.0, max(0.5, 1.0 + (behind + TOLERATED_FALL) / FALL_FOR_ALL_WEIGHT))


@dataclass
class Proximal(Lever):
    """FedProx: every local step is drawn back to the model that the round began with."""

    proximal: float = 0.01


@dataclass
class LocalNoise(Lever):
    """Each client adds as much noise as the sum needs: its own vector keeps the guarantee, where no sum hides it."""

    def contributions(self, trained: Trained, settings: RoundSettings, lattice: Lattice) -> list[IntArray]:
        """As everybody's, with the whole noise in each."""
        return super().contributions(trained, self._alone(settings, lattice), lattice)

    def conclude(self, vectors: Sequence[IntArray], settings: RoundSettings, lattice: Lattice) -> None:
        """As ever; the bound on the sum is that of so much noise."""
        super().conclude(vectors, self._alone(settings, lattice), lattice)

    def _alone(self, settings: RoundSettings, lattice: Lattice) -> RoundSettings:
        return settings.model_copy(update={"share_variance": self.whole_noise(lattice)})


KINDS: dict[str, type[Lever]] = {
    "subspace": Subspace,
    "public start": PublicStart,
    "laggards": Laggards,
    "against the mean": AgainstTheMean,
    "proximal": Proximal,
    "local noise": LocalNoise,
}


def own_gain(simulation: Simulation, place: int, learned: Learned, settings: RoundSettings) -> float:
    """A client's gain by the rule `history`, whatever rule is set."""
    if learned.observation is None:
        return 0.0
    weighting = settings.weighting.model_copy(update={"rule": "history"})
    return gain.weigh(learned.observation, simulation.baselines[place], weighting, settings.training_round).gain


def inputs(simulation: Simulation) -> list[torch.Tensor]:
    """What public prompts send into every LoRA layer, shape (tokens, inputs)."""
    adapted = simulation.adapted
    tasks = sorted({(client.task, client.difficulty) for client in simulation.config.client if client.task})
    prompts = [str(row["prompt"]) for task, level in tasks for row in evaluation_set(task, level, PUBLIC)]
    seen: list[list[torch.Tensor]] = [[] for _ in batched.lora_pairs(adapted)]

    def keep(index: int, given: tuple[torch.Tensor, ...]) -> None:
        seen[index].append(given[0].detach().flatten(0, 1).double())

    handles = [
        first.register_forward_pre_hook(lambda _, given, index=index: keep(index, given))
        for index, (first, _) in enumerate(batched.lora_pairs(adapted))
    ]
    try:
        with torch.no_grad():
            for prompt in prompts:
                adapted.network(**adapted.base.tokenizer(prompt, return_tensors="pt"))
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(each) for each in seen]


def main_directions(seen: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` directions that hold most of `seen`, as orthonormal columns."""
    return torch.linalg.svd(seen, full_matrices=False).Vh[:count].T.contiguous()
