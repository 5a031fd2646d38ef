"""A run without its protocol: what the federation would learn, at a fraction of the time, for sweeps.

The product's functions choose prompts, pay rewards, compute gains, clip, encode, add noise, check and apply; two
things differ. All clients of a round are trained in one batch (`batched`), step by step, and the encoded vectors are
added up as integers without masks, which is the same sum: that masks cancel is what `tests/protocols` proves. Nobody
drops. `tests/fgrpo_secure/test_simulation.py` holds rounds of this against rounds of the federation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Self

import batched
import numpy as np
import torch
from numpy.typing import NDArray

from fgrpo_secure import entropy, gain
from fgrpo_secure.client import owner
from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.owner import Owner
from fgrpo_secure.client.round import Learned
from fgrpo_secure.config.schema import Config, Grpo
from fgrpo_secure.config.unit_rules import SMALL_UNITS
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.gain import Baseline
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.averaging import IterateAverage
from fgrpo_secure.learning.grpo import rewards
from fgrpo_secure.learning.grpo.advantages import group_advantages
from fgrpo_secure.learning.grpo.objective import objective
from fgrpo_secure.learning.tasks.files import Row
from fgrpo_secure.plan import adapter_shape, run_plan
from fgrpo_secure.plan.cost import PrivacyPlan
from fgrpo_secure.plan.round_settings import RoundSettings
from fgrpo_secure.plan.terms import Admitted
from fgrpo_secure.privacy import clip, encode, noise, units
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import EncodedVector, IntArray, Lattice, Score
from fgrpo_secure.privacy.noise import NoisePlan
from fgrpo_secure.privacy.units import EncodedSum
from fgrpo_secure.server import round as server_round
from fgrpo_secure.server.optimizer import ServerOptimizer
from fgrpo_secure.server.round import Conclusion
from protocols.server import Recovered

FloatArray = NDArray[np.float64]
SUPPORTED = {
    "federation.schedule": "all",
    "grpo.num_iterations": 1,
    "grpo.beta": 0.0,
    "grpo.top_p": 1.0,
    "grpo.mask_truncated_completions": False,
    "weighting.gain_prompts": None,
}


@dataclass(frozen=True)
class Part:
    """What is trained on and clipped as one: a client's step, or the prompts of one unit inside a client."""

    owner: int
    unit: str | None
    rows: list[Row]

    def label(self, step: int) -> str:
        """Names the part's rollouts, as the client would."""
        return str(step) if self.unit is None else f"{step}/{self.unit}"


@dataclass
class Trained:
    """One round of everybody's local training: rows of `updates` are parts, in the order of their owners.

    Tokens and rewards are the first step's, which gains are observed on.
    """

    parts: list[Part]
    ids: torch.Tensor
    ends: torch.Tensor
    rewards: FloatArray  # (parts, prompts, completions)
    updates: FloatArray


@dataclass
class Simulation:
    """A federation in one process, between rounds."""

    config: Config
    adapted: AdaptedModel
    owners: list[Owner]
    privacy: PrivacyPlan
    optimizer: ServerOptimizer
    average: IterateAverage
    source: Entropy
    baselines: list[Baseline]
    weights: list[float]  # of the last round, by owner: what nobody but a simulation knows
    plain: bool = False  # clients send what they encoded, and a trusted server adds the noise
    known: dict[int, Trained] = field(default_factory=dict)  # rounds whose training is known from another run
    decoded: dict[tuple[int, ...], str] = field(default_factory=dict)
    proximal: float = 0.0  # FedProx's mu: local steps are drawn back to the model that they began with
    silent: set[int] = field(default_factory=set)  # owners without data: they send zero, and their noise
    released: list[Conclusion] = field(default_factory=list)  # what each round made public

    @classmethod
    def open(cls, config: Config, folder: Path, plain: bool = False) -> Self:
        """The federation of `config` before its first round; `plain` is the baseline of a server that is trusted.

        ValueError for what a simulation cannot do.
        """
        _check(config)
        adapted = adapters.attach(models.load(config.model), config.adapter, config.run.seed)
        everybody, unit = set(range(config.clients_total)), config.privacy.unit
        owners = owner.make_owners(config.client, config.run.seed, everybody, folder, unit, config.units_per_client)
        return cls(
            config,
            adapted,
            [owners[client] for client in sorted(owners)],
            run_plan.plan(config, adapter_shape.of(adapted)),
            ServerOptimizer(config.server),
            IterateAverage(config.server.averaging),
            entropy.from_kind("seeded", config.run.seed).child("owners"),
            [Baseline()] * len(owners),
            [1.0] * len(owners),
            plain,
        )

    def round(self, number: int) -> None:
        """One round of everybody, up to the next adapter."""
        within = tuple(each.fraction_within for each in self.released if each.fraction_within is not None)
        settings = run_plan.settings_of_round(self.config, self.privacy, number, self.dimension(number), within)
        lattice = settings.unit_lattice(self.dimension(number))
        trained = self.known.get(number) or self.train(settings)
        vectors = self.contributions(trained, settings, lattice)
        self.conclude(vectors, settings, lattice)

    def dimension(self, number: int) -> int:
        """How many coordinates a round's updates have."""
        return self.adapted.dimension(number)

    def vector(self, number: int) -> FloatArray:
        """What a round trains, as it is."""
        return self.adapted.get_vector(number)

    def move(self, number: int, vector: FloatArray) -> None:
        """Put what a round trained in its place."""
        self.adapted.set_vector(number, vector)

    def largest_weight(self, place: int, learned: Learned, settings: RoundSettings) -> float:  # noqa: ARG002  levers ask
        """What an owner's weight never rises above."""
        return 1.0

    def parts(self, settings: RoundSettings, step: int = 0) -> list[Part]:
        """Whose rows are trained on in a step of a round."""
        number, count = settings.training_round, settings.grpo.prompts_per_step
        if settings.units is None:
            return [Part(own.id, None, own.source.batch(number, step, count)) for own in self.owners]
        return [
            Part(own.id, unit, own.units.batch(unit, number, step, count))
            for own in self.owners
            for unit in own.units.in_block(settings.units.block(number), settings.units.blocks)
        ]

    def train(self, settings: RoundSettings) -> Trained:
        """The local steps of every part, each from the model as it is; on units there is but one."""
        first = self._sampled(settings, 0, None)
        if settings.units is not None:
            # a unit's own direction is that of `unit_gradients`: nothing but its clip shortens it
            first.updates = -first.updates * settings.grpo.prompts_per_step
            return first
        steps = LocalSteps(first.updates.shape, settings.grpo, self.proximal)
        steps.step(first.updates)
        for step in range(1, settings.local_steps):
            steps.step(self._sampled(settings, step, steps.moved).updates)
        first.updates = steps.moved.double().numpy()
        return first

    def _sampled(self, settings: RoundSettings, step: int, moved: torch.Tensor | None) -> Trained:
        """What every part samples in a step, is paid for, and its gradients in the place of updates."""
        grpo, number, parts = settings.grpo, settings.training_round, self.parts(settings, step)
        prompts = [[str(row["prompt"]) for row in part.rows] for part in parts]
        if len({len(own) for own in prompts}) != 1:
            raise ValueError("a simulation needs as many prompts in every part")
        self.adapted.trainable(number)
        whose = torch.arange(len(parts)).repeat_interleave(len(prompts[0]))
        moves = batched.Moves({}, whose) if moved is None else batched.Moves.build(self.adapted, number, moved, whose)
        seeds = [self.owners[part.owner].rollout_seed(settings, part.label(step)) for part in parts]
        batch = batched.sample(self.adapted, prompts, grpo, seeds, moves)
        paid = self._rewards(batch, parts, prompts)
        advantages = group_advantages(torch.from_numpy(paid).flatten(0, 1), grpo.scale_rewards).flatten().float()
        slopes = _slopes(batch, advantages, settings) * len(parts)
        grads = batched.gradients(self.adapted, number, batch, slopes, whose)
        return Trained(parts, batch.ids, batch.ends, paid, grads.double().numpy())

    def contributions(self, trained: Trained, settings: RoundSettings, lattice: Lattice) -> list[IntArray]:
        """Every client's integers as they would go into its mask; reward histories move on."""
        mine: list[list[int]] = [[] for _ in self.owners]
        for place, part in enumerate(trained.parts):
            mine[part.owner].append(place)
        vectors = []
        for own, places in zip(self.owners, mine, strict=True):
            source = self.source.child(own.id).child("session", settings.training_round)
            if settings.units is None:
                vectors.append(self._client(trained, places[0], settings, lattice, source))
                continue
            encoded = _units(trained, places, settings, lattice, source.child("rounding", 0))
            if settings.share_variance and not self.plain:
                vectors.append(noise.add_share(encoded, settings.share_variance, source.child("noise", 0)).values)
            else:
                vectors.append(encoded.values)
        return vectors

    def _client(
        self, trained: Trained, place: int, settings: RoundSettings, lattice: Lattice, source: Entropy
    ) -> IntArray:
        if place in self.silent:
            learned = client_round.missing(lattice.dimension)
        else:
            learned = Learned(Update(trained.updates[place]), gain.observe(trained.rewards[place]))
        if self.plain or not settings.share_variance:  # a trusted server adds the noise, or nobody does
            settings = settings.model_copy(update={"aggregation": "plain"})
        most = self.largest_weight(place, learned, settings)
        made = client_round.privatise(learned, settings, lattice, self.baselines[place], most, source)
        self.baselines[place], self.weights[place] = made.baseline, made.weight
        return made.vector.values

    def conclude(self, vectors: Sequence[IntArray], settings: RoundSettings, lattice: Lattice) -> None:
        """The server's part, on the sum alone."""
        total = np.sum(vectors, axis=0)
        if self.plain and self.privacy.claim is not None:
            total = self._with_central_noise(total, settings, lattice)
        totals = {"update": total[: lattice.dimension], "scores": total[lattice.dimension :]}
        number = settings.training_round
        conclusion = server_round.conclude(
            Recovered(totals, tuple(range(len(vectors))), (), {}),
            Admitted(settings, lattice, self.privacy.parameters.colluders, Fraction(0)),  # nobody keeps a ledger here
            self.vector(number),
            self.adapted.factors(number),
            self.optimizer,
        )
        self.move(number, conclusion.vector)
        self.average.add(self.adapted.full_state())
        self.released.append(conclusion)

    def _with_central_noise(self, total: IntArray, settings: RoundSettings, lattice: Lattice) -> IntArray:
        """The noise of one contributor that nobody can lose or know: the same multiplier, without headroom."""
        encoded = EncodedVector(total, lattice.integer_bound)
        source = self.source.child("server", settings.training_round)
        return noise.add_share(encoded, self.whole_noise(lattice), source).values

    def whole_noise(self, lattice: Lattice) -> int:
        """The variance that a sum needs in all, where nobody's part of it can be missing or known."""
        return NoisePlan.build(lattice, self.privacy.claim.noise_multiplier, floor=1, colluders=0).share_variance

    def _rewards(self, batch: batched.Batch, parts: Sequence[Part], prompts: Sequence[Sequence[str]]) -> FloatArray:
        group, paid, position = self.config.grpo.num_generations, [], 0
        rows = zip(batch.ids.tolist(), batch.ends.tolist(), strict=True)
        tokens = [row[:end] for row, end in rows]
        for part, asked in zip(parts, prompts, strict=True):
            own, size = self.owners[part.owner], len(asked) * group
            mine = tokens[position : position + size]
            position += size
            columns = {key: [row[key] for row in part.rows] for key in part.rows[0] if key != "prompt"}
            texts = [self._decode(tuple(ids)) for ids in mine]
            marks = rewards.score(own.reward_functions, own.reward_weights, asked, texts, mine, columns)
            paid.append(own.reward_scale * marks.reshape(len(asked), group))
        return np.stack(paid)

    def _decode(self, ids: tuple[int, ...]) -> str:
        if ids not in self.decoded:
            self.decoded[ids] = self.adapted.base.tokenizer.decode(list(ids), skip_special_tokens=True)
        return self.decoded[ids]


def _check(config: Config) -> None:
    """ValueError for settings whose arithmetic `batched` does not have."""
    values = config.model_dump()
    for key, wanted in SUPPORTED.items():
        section, _, name = key.partition(".")
        if values[section][name] != wanted:
            raise ValueError(f"a simulation needs {key} = {wanted}, not {values[section][name]}")
    if config.privacy.unit in SMALL_UNITS and (config.privacy.mode, config.weighting.rule) != (
        "distributed",
        "uniform",
    ):
        raise ValueError("a simulation of units inside clients needs mode distributed and uniform weights")
    if config.privacy.sampling_rate is not None:
        raise ValueError("a simulation has no secret sampling of units: leave out privacy.sampling_rate")
    if config.grpo.loss_type not in ("dr_grpo", "grpo") or config.grpo.scale_rewards == "batch":
        raise ValueError("a simulation needs loss_type dr_grpo or grpo, and scale_rewards group or none")


def _units(
    trained: Trained, places: Sequence[int], settings: RoundSettings, lattice: Lattice, rounding: Entropy
) -> EncodedSum:
    """A client's units, each clipped and rounded by itself, then added up: `unit_round` with uniform weights."""
    silent = [Score(0.0, -1.0, 1.0)] * lattice.scores
    vectors = [
        encode.to_ring(
            clip.to_norm(Update(trained.updates[place]), lattice.clip_norm).times(1.0),
            silent,
            lattice,
            rounding.child("unit", trained.parts[place].unit or ""),
        )
        for place in places
    ]
    nothing = clip.to_norm(Update.zero(lattice.dimension), lattice.clip_norm)
    own = encode.to_ring(nothing, client_round.scores(0.0, 1.0, settings), lattice, rounding.child("scores"))
    return units.total(vectors, own, lattice)


def _slopes(batch: batched.Batch, advantages: torch.Tensor, settings: RoundSettings) -> torch.Tensor:
    """Derivatives of the product's objective, averaged over all clients, by each token's log-probability."""
    mask = (torch.arange(batch.ids.shape[1]) < batch.ends.unsqueeze(1)).float()
    logp = torch.zeros(mask.shape, requires_grad=True)
    loss = objective(logp, logp.detach(), None, advantages, mask, settings.grpo)
    (slopes,) = torch.autograd.grad(loss, logp)
    return slopes


class LocalSteps:
    """Everybody's local optimiser: torch's work on each coordinate by itself, so that one serves all clients.

    `moved`, shape (clients, dimension), is what the steps so far have changed.
    """

    def __init__(self, shape: tuple[int, ...], grpo: Grpo, proximal: float) -> None:
        self._parameter = torch.nn.Parameter(torch.zeros(shape))
        kind = torch.optim.SGD if grpo.optimizer == "sgd" else torch.optim.Adam
        self._proximal = proximal
        self._optimizer, self._longest = kind([self._parameter], lr=grpo.learning_rate), grpo.max_grad_norm

    @property
    def moved(self) -> torch.Tensor:
        """The change since the round began."""
        return self._parameter.detach()

    def step(self, gradients: FloatArray) -> None:
        """One step of each client along its own gradient, and that of proximal / 2 * |moved|^2."""
        found = torch.from_numpy(gradients).float() + self._proximal * self.moved
        if self._longest is not None:
            norms = torch.linalg.vector_norm(found, dim=1, keepdim=True)
            found = found * (self._longest / (norms + 1e-6)).clamp(max=1.0)
        self._parameter.grad = found
        self._optimizer.step()
