"""One local GRPO step of many clients at once, for simulations: what each would sample, and each one's gradient.

All clients of a round start from the same model, so their prompts can be read in one batch; after a step, each one's
rows go through factors that its own steps have moved (`Moves`). Completions of a prompt
that begin alike are read once, and the reading that samples them is the one that gradients go back through: the
first step's importance ratio is 1. Every client draws from its own streams, as it would alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.forward import cache_argument, returned_cache
from fgrpo_secure.learning.grpo.prompts import token_ids
from fgrpo_secure.learning.grpo.sampling import inverse_cdf

BUCKETS = 4  # of prompts of similar length, so that little is spent on padding


@dataclass
class Choice:
    """One token of many rows: after which prefix (node), and which token; `logits` have shape (nodes, vocabulary)."""

    step: int
    logits: torch.Tensor
    rows: torch.Tensor
    nodes: torch.Tensor
    tokens: torch.Tensor


@dataclass
class Call:
    """What went through one LoRA layer in one reading: rows of `hidden` and `out` belong to `prompts`."""

    layer: int
    prompts: torch.Tensor
    seen: torch.Tensor
    hidden: torch.Tensor
    out: torch.Tensor


@dataclass
class Batch:
    """Sampled tokens of Q prompts with G completions each, and what gradients need.

    `ids` (Q * G, tokens) are padded on the right, `ends` (Q * G,) count the tokens up to the end of sequence.
    """

    ids: torch.Tensor
    ends: torch.Tensor
    choices: list[Choice] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


class Prefixes:
    """A batch of prefixes being read, one row per node of the tree of completions."""

    def __init__(self, network: Any, ids: torch.Tensor, mask: torch.Tensor) -> None:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = network(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1)
        returned_as, self._cache = returned_cache(out)
        self._argument = cache_argument(type(network).forward, returned_as)
        self._network, self._mask = network, mask
        self._length = positions[:, -1:] + 1
        self.logits: torch.Tensor = out.logits[:, -1]

    def grow(self, parents: torch.Tensor, tokens: torch.Tensor) -> None:
        """Read one more token of each new node."""
        self._cache.batch_select_indices(parents)
        mask = self._mask[parents]
        self._mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        self._length = self._length[parents]
        out = self._network(
            input_ids=tokens.unsqueeze(1),
            attention_mask=self._mask,
            position_ids=self._length,
            use_cache=True,
            **{self._argument: self._cache},
        )
        self._length = self._length + 1
        self.logits = out.logits[:, -1]


@dataclass(frozen=True)
class Moves:
    """How far earlier steps have moved each client's factors: (layer, half) -> shape (clients, outputs, inputs).

    `clients`, shape (prompts,), says whose a prompt is.
    """

    factors: dict[tuple[int, int], torch.Tensor]
    clients: torch.Tensor

    @staticmethod
    def build(adapted: AdaptedModel, round_number: int, vectors: torch.Tensor, clients: torch.Tensor) -> "Moves":
        """From vectors of the round's factors, shape (clients, dimension)."""
        trained = adapted.trainable(round_number)
        flat = torch.split(vectors.float(), [parameter.numel() for parameter in trained], dim=1)
        position = {id(parameter): place for place, parameter in enumerate(trained)}
        factors = {
            (layer, half): flat[position[id(module.weight)]].unflatten(1, module.weight.shape)
            for layer, pair in enumerate(lora_pairs(adapted))
            for half, module in enumerate(pair)
            if id(module.weight) in position
        }
        return Moves(factors, clients)

    def after(
        self, layer: int, half: int, prompts: torch.Tensor, seen: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        """What a factor gives out for rows of `prompts`, once it has moved."""
        own = self.factors.get((layer, half))
        return out if own is None else out + torch.einsum("nti,noi->nto", seen, own[self.clients[prompts]])


class Recorder:
    """Notes what passes the LoRA layers while it is open. `prompts` says whose rows are being read."""

    def __init__(self, adapted: AdaptedModel, calls: list[Call], moves: Moves) -> None:
        self.prompts = torch.empty(0, dtype=torch.long)
        self._calls, self._moves = calls, moves
        self._halves: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        for index, (first, second) in enumerate(lora_pairs(adapted)):
            self._handles.append(first.register_forward_hook(lambda _, given, out, i=index: self._first(i, given, out)))
            self._handles.append(second.register_forward_hook(lambda _, given, out, i=index: self._second(i, out)))

    def close(self) -> None:
        """Take the hooks out."""
        for handle in self._handles:
            handle.remove()

    def _first(self, layer: int, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        hidden = self._moves.after(layer, 0, self.prompts, given[0], out)
        self._halves[layer] = (given[0], hidden)
        return hidden

    def _second(self, layer: int, out: torch.Tensor) -> torch.Tensor:
        seen, hidden = self._halves.pop(layer)
        out = self._moves.after(layer, 1, self.prompts, hidden, out)
        self._calls.append(Call(layer, self.prompts, seen, hidden, out))
        return out


def lora_pairs(adapted: AdaptedModel) -> list[tuple[Any, Any]]:
    """The modules (A, B) of every LoRA layer."""
    return [
        (module.lora_A["default"], module.lora_B["default"])
        for module in adapted.model.modules()
        if hasattr(module, "lora_A") and "default" in module.lora_A
    ]


def sample(
    adapted: AdaptedModel,
    prompts: Sequence[Sequence[str]],
    settings: Grpo,
    seeds: Sequence[int],
    moves: Moves,
) -> Batch:
    """The completions that each client samples; `prompts` and `seeds` have one entry per client.

    `adapted.trainable` of the round must have been called: the graph is kept for `gradients`.
    """
    device = adapted.network.device
    flat = [prompt for own in prompts for prompt in own]
    group, steps = settings.num_generations, settings.max_completion_length
    tokenizer = adapted.base.tokenizer
    drawn = [
        Streams(seed).uniform([token_ids(tokenizer, prompt, settings) for prompt in own], group, steps)
        for own, seed in zip(prompts, seeds, strict=True)
    ]
    uniform = torch.from_numpy(np.concatenate(drawn)).to(device)
    rows = len(flat) * group
    ids = torch.full((rows, steps), tokenizer.pad_token_id, device=device)
    batch = Batch(ids, torch.full((rows,), steps, device=device))
    order = sorted(range(len(flat)), key=lambda index: len(flat[index]))
    recorder = Recorder(adapted, batch.calls, moves)
    try:
        for bucket in range(BUCKETS):
            chosen = order[len(order) * bucket // BUCKETS : len(order) * (bucket + 1) // BUCKETS]
            if chosen:
                _sample_bucket(adapted, flat, torch.tensor(chosen, device=device), settings, uniform, batch, recorder)
    finally:
        recorder.close()
    return batch


def _sample_bucket(
    adapted: AdaptedModel,
    flat: Sequence[str],
    chosen: torch.Tensor,
    settings: Grpo,
    uniform: torch.Tensor,
    batch: Batch,
    recorder: Recorder,
) -> None:
    tokenizer, group = adapted.base.tokenizer, settings.num_generations
    texts = [flat[index] for index in chosen.tolist()]
    encoded = tokenizer(texts, padding=True, return_tensors="pt").to(chosen.device)
    recorder.prompts = chosen
    tree = Prefixes(adapted.network, encoded["input_ids"], encoded["attention_mask"])
    rows = (chosen.unsqueeze(1) * group + torch.arange(group, device=chosen.device)).flatten()
    nodes = torch.arange(len(chosen), device=chosen.device).repeat_interleave(group)
    owners = chosen
    for step in range(settings.max_completion_length):
        scaled = tree.logits.float() / settings.temperature
        with torch.no_grad():
            tokens = inverse_cdf(torch.softmax(scaled, dim=-1)[nodes], uniform[rows, step])
        batch.choices.append(Choice(step, scaled, rows, nodes, tokens))
        batch.ids[rows, step] = tokens
        ended = tokens == tokenizer.eos_token_id
        batch.ends[rows[ended]] = step + 1
        if step + 1 == settings.max_completion_length or bool(ended.all()):
            return
        rows, nodes, tokens = rows[~ended], nodes[~ended], tokens[~ended]
        unique, nodes = torch.unique(nodes * scaled.shape[1] + tokens, return_inverse=True)
        parents = unique // scaled.shape[1]
        owners = owners[parents]
        recorder.prompts = owners
        tree.grow(parents, unique % scaled.shape[1])


def gradients(
    adapted: AdaptedModel, round_number: int, batch: Batch, slopes: torch.Tensor, units: torch.Tensor
) -> torch.Tensor:
    """Each unit's gradient of its loss, shape (units, dimension).

    `slopes`, shape (rows, tokens), are the loss's derivatives by the log-probability of each token; `units`, shape
    (prompts,), says which unit a prompt belongs to.
    """
    position = {id(parameter): place for place, parameter in enumerate(adapted.trainable(round_number))}
    pairs = lora_pairs(adapted)
    wanted = [
        (call, half, position[id(pairs[call.layer][half].weight)])
        for call in batch.calls
        for half in (0, 1)
        if id(pairs[call.layer][half].weight) in position
    ]
    slopes_out = [_logit_slopes(choice, slopes[choice.rows, choice.step]) for choice in batch.choices]
    through = [call.out if half else call.hidden for call, half, _ in wanted]
    found = torch.autograd.grad([choice.logits for choice in batch.choices], through, slopes_out, allow_unused=True)
    sizes = [parameter.numel() for parameter in adapted.trainable(round_number)]
    count = int(units.max()) + 1
    parts = [torch.zeros(count, size, device=units.device) for size in sizes]
    for (call, half, place), slope in zip(wanted, found, strict=True):
        if slope is not None:
            given = call.hidden if half else call.seen
            outer = torch.einsum("nto,nti->noi", slope, given.detach()).flatten(1)
            parts[place].index_add_(0, units[call.prompts], outer)
    return torch.cat(parts, dim=1)


def _logit_slopes(choice: Choice, slopes: torch.Tensor) -> torch.Tensor:
    """Derivatives by the logits: of log softmax, weighted by the slopes of the rows that chose there."""
    weights = torch.zeros_like(choice.logits)
    weights.index_put_((choice.nodes, choice.tokens), slopes.to(weights.dtype), accumulate=True)
    return weights - torch.softmax(choice.logits.detach(), dim=-1) * weights.sum(dim=-1, keepdim=True)
