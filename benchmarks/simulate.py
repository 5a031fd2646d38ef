"""A run without its protocol: what the federation would learn, at a fraction of the time, for sweeps.

The product's functions choose prompts, pay rewards, compute gains, clip, encode, add noise, check and apply; two
things differ. All clients of a round are trained in one batch (`batched`), and the encoded vectors are added up as
integers without masks, which is the same sum: that masks cancel is what `tests/protocols` proves. Nobody drops.
`tests/benchmarks/test_simulate.py` holds a round of this against a round of the federation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import batched
import numpy as np
import torch
from numpy.typing import NDArray

from fgrpo_secure import (
    adapters,
    client_policy,
    client_round,
    entropy,
    gain,
    models,
    owner,
    round_settings,
    run_plan,
    server_round,
)
from fgrpo_secure.adapters import Policy
from fgrpo_secure.apply import ServerOptimizer
from fgrpo_secure.client_policy import Admitted
from fgrpo_secure.config import Config
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.gain import Baseline
from fgrpo_secure.grpo import rewards
from fgrpo_secure.grpo.advantages import group_advantages
from fgrpo_secure.grpo.objective import objective
from fgrpo_secure.owner import Owner
from fgrpo_secure.privacy import clip, encode, noise
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.encode import EncodedVector, IntArray, Lattice
from fgrpo_secure.privacy.noise import NoisePlan
from fgrpo_secure.privacy.planner import PrivacyPlan
from fgrpo_secure.round_settings import RoundSettings
from protocols.server import Recovered

FloatArray = NDArray[np.float64]
SUPPORTED = {
    "federation.local_steps": 1,
    "federation.schedule": "all",
    "grpo.num_iterations": 1,
    "grpo.beta": 0.0,
    "grpo.top_p": 1.0,
    "grpo.mask_truncated_completions": False,
    "weighting.gain_prompts": None,
}


@dataclass
class Trained:
    """One round of everybody's local training: rows of `updates` are clients, in the order of their ids."""

    ids: torch.Tensor
    ends: torch.Tensor
    rewards: FloatArray  # (clients, prompts, completions)
    updates: FloatArray


@dataclass
class Simulation:
    """A federation in one process, between rounds."""

    config: Config
    policy: Policy
    owners: list[Owner]
    privacy: PrivacyPlan
    optimizer: ServerOptimizer
    source: Entropy
    baselines: list[Baseline]
    plain: bool = False  # clients send what they encoded, and a trusted server adds the noise
    known: dict[int, Trained] = field(default_factory=dict)  # rounds whose training is known from another run
    decoded: dict[tuple[int, ...], str] = field(default_factory=dict)

    @staticmethod
    def open(config: Config, folder: Path, plain: bool = False) -> "Simulation":
        """The federation of `config` before its first round; `plain` is the baseline of a server that is trusted.

        ValueError for what a simulation cannot do.
        """
        _check(config)
        policy = adapters.attach(models.load(config.model), config.adapter, config.run.seed)
        owners = owner.make_owners(config.client, config.run.seed, set(range(config.clients_total)), folder)
        return Simulation(
            config,
            policy,
            [owners[client] for client in sorted(owners)],
            run_plan.plan(config, policy),
            ServerOptimizer(config.server),
            entropy.from_kind("seeded", config.run.seed).child("owners"),
            [Baseline()] * len(owners),
            plain,
        )

    def round(self, number: int) -> None:
        """One round of everybody, up to the next adapter."""
        lattice = Lattice.build(self.policy.dimension(number), self.config.privacy.clip_norm, client_policy.SCORES)
        variance = run_plan.share_variance(self.privacy, lattice)
        settings = round_settings.for_round(self.config, number, variance)
        trained = self.known.get(number) or self.train(settings)
        vectors = self.contributions(trained, settings, lattice)
        self.conclude(vectors, settings, lattice)

    def train(self, settings: RoundSettings) -> Trained:
        """The first local step of every client, from the model as it is."""
        grpo, number = settings.grpo, settings.training_round
        batches = [own.source.batch(number, 0, grpo.prompts_per_step) for own in self.owners]
        prompts = [[str(row["prompt"]) for row in rows] for rows in batches]
        self.policy.trainable(number)
        batch = batched.sample(self.policy, prompts, grpo, [own.rollout_seed(settings, 0) for own in self.owners])
        paid = self._rewards(batch, batches, prompts)
        advantages = group_advantages(torch.from_numpy(paid).flatten(0, 1), grpo.scale_rewards).flatten().float()
        slopes = _slopes(batch, advantages, settings) * len(self.owners)
        units = torch.arange(len(self.owners)).repeat_interleave(grpo.prompts_per_step)
        grads = batched.gradients(self.policy, number, batch, slopes, units)
        return Trained(batch.ids, batch.ends, paid, _step(grads, settings))

    def contributions(self, trained: Trained, settings: RoundSettings, lattice: Lattice) -> list[IntArray]:
        """Every client's integers as they would go into its mask; reward histories move on."""
        vectors = []
        for place, own in enumerate(self.owners):
            observation = gain.observe(trained.rewards[place])
            past = self.baselines[place]
            relative = gain.relative_gain(observation, past, settings.weighting)
            weight = gain.weight(relative, settings.weighting)
            self.baselines[place] = past.updated(observation, settings.weighting.baseline_decay)
            clipped = clip.to_norm(Update(trained.updates[place]), settings.clip_norm).times(weight)
            scores = client_round.scores(relative, weight, settings)
            source = self.source.child(own.id).child("session", settings.training_round)
            encoded = encode.to_ring(clipped, scores, lattice, source.child("rounding"))
            if settings.share_variance and not self.plain:
                vectors.append(noise.add_share(encoded, settings.share_variance, source.child("noise")).values)
            else:
                vectors.append(noise.no_noise(encoded).values)
        return vectors

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
            self.policy.get_vector(number),
            self.policy.factors(number),
            self.optimizer,
        )
        self.policy.set_vector(number, conclusion.vector)

    def _with_central_noise(self, total: IntArray, settings: RoundSettings, lattice: Lattice) -> IntArray:
        """The noise of one contributor that nobody can lose or know: the same multiplier, without headroom."""
        central = NoisePlan.build(lattice, self.privacy.claim.noise_multiplier, floor=1, colluders=0)
        encoded = EncodedVector(total, lattice.integer_bound)
        source = self.source.child("server", settings.training_round)
        return noise.add_share(encoded, central.share_variance, source).values

    def _rewards(self, batch: batched.Batch, batches: Sequence[Sequence[Any]], prompts: Sequence[Any]) -> FloatArray:
        group, paid, position = self.config.grpo.num_generations, [], 0
        rows = zip(batch.ids.tolist(), batch.ends.tolist(), strict=True)
        tokens = [row[:end] for row, end in rows]
        for own, rows_of_owner, asked in zip(self.owners, batches, prompts, strict=True):
            size = len(asked) * group
            mine = tokens[position : position + size]
            position += size
            columns = {key: [row[key] for row in rows_of_owner] for key in rows_of_owner[0] if key != "prompt"}
            texts = [self._decode(tuple(ids)) for ids in mine]
            marks = rewards.score(own.reward_functions, self.config.grpo.reward_weights, asked, texts, mine, columns)
            paid.append(own.reward_scale * marks.reshape(len(asked), group))
        return np.stack(paid)

    def _decode(self, ids: tuple[int, ...]) -> str:
        if ids not in self.decoded:
            self.decoded[ids] = self.policy.base.tokenizer.decode(list(ids), skip_special_tokens=True)
        return self.decoded[ids]


def _check(config: Config) -> None:
    """ValueError for settings whose arithmetic `batched` does not have."""
    values = config.model_dump()
    for key, wanted in SUPPORTED.items():
        section, _, name = key.partition(".")
        if values[section][name] != wanted:
            raise ValueError(f"a simulation needs {key} = {wanted}, not {values[section][name]}")
    if config.grpo.loss_type not in ("dr_grpo", "grpo") or config.grpo.scale_rewards == "batch":
        raise ValueError("a simulation needs loss_type dr_grpo or grpo, and scale_rewards group or none")


def _slopes(batch: batched.Batch, advantages: torch.Tensor, settings: RoundSettings) -> torch.Tensor:
    """Derivatives of the product's objective, averaged over all clients, by each token's log-probability."""
    mask = (torch.arange(batch.ids.shape[1]) < batch.ends.unsqueeze(1)).float()
    logp = torch.zeros(mask.shape, requires_grad=True)
    loss = objective(logp, logp.detach(), None, advantages, mask, settings.grpo)
    (slopes,) = torch.autograd.grad(loss, logp)
    return slopes


def _step(gradients: torch.Tensor, settings: RoundSettings) -> FloatArray:
    """What one optimiser step changes, by client: torch's optimisers work on each coordinate by itself."""
    grpo = settings.grpo
    if grpo.max_grad_norm is not None:
        norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
        gradients = gradients * (grpo.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
    start = torch.nn.Parameter(torch.zeros_like(gradients))
    kind = torch.optim.SGD if grpo.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind([start], lr=grpo.learning_rate)
    start.grad = gradients
    optimizer.step()
    return start.detach().double().numpy()
