"""Reading a batch with the model: each prompt once for all its completions, completions from its cache.

With G completions of a prompt of L tokens, sampling and training read L tokens where separate rows would read G * L.
Gradients pass through the cache. Models whose cache cannot be read so (recurrent, hybrid) are read in plain rows: each
sequence whole, without padding. Which of the two holds for a model is tried when it is loaded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from inspect import signature
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer

WRONG_BEYOND_WINDOW = ("moshi",)  # families whose cache the library reads wrongly there: found by the generated test
SDPA = "sdpa"  # the library's name of the attention that it takes where a model has it
PROBE_PROMPTS = (4, 2)  # tokens of two prompts, of which the shorter is padded
PROBE_TOKENS = 3  # read after a prompt at once: a cache that takes one token at a time is of no use here
PROBE_COPIES = 2  # the cache is repeated for a group
PROBE_KEPT = (1, 2)  # of these rows one is of each prompt; the others are dropped before the last token
UNREADABLE = (
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    IndexError,
    AssertionError,
)  # what a forward that cannot do it raises


class NoCache(ValueError):
    """The model returns no key-value cache that a group's completions could be read from."""


class Reading:
    """A batch being read. `next_logits`, shape (sequences, vocabulary), predict the token after the prompt.

    Rows of a prompt's completions stand together, `group` of each. Prompts are padded on the left. Raises NoCache.
    """

    def __init__(self, network: Any, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, group: int) -> None:
        self._network = network
        position_ids = (prompt_mask.cumsum(1) - 1).clamp(min=0)
        optional = {"position_ids": position_ids, "logits_to_keep": 1}
        out = network(input_ids=prompt_ids, attention_mask=prompt_mask, use_cache=True, **_known(network, optional))
        returned_as, self._cache = returned_cache(out)
        self._argument = cache_argument(type(network).forward, returned_as)
        self._cache.batch_repeat_interleave(group)
        self._attention = prompt_mask.repeat_interleave(group, dim=0)
        self._length = position_ids[:, -1:].repeat_interleave(group, dim=0) + 1
        self.next_logits: torch.Tensor = out.logits[:, -1].repeat_interleave(group, dim=0)

    def feed(self, ids: torch.Tensor) -> torch.Tensor:
        """Read `ids`, shape (sequences, tokens), after what was read; logits (sequences, tokens, vocabulary)."""
        tokens = ids.shape[1]
        self._attention = torch.cat([self._attention, torch.ones_like(ids)], dim=1)
        out = self._network(
            input_ids=ids,
            attention_mask=self._attention,
            use_cache=True,
            **{self._argument: self._cache},
            **_known(self._network, {"position_ids": self._length + torch.arange(tokens, device=ids.device)}),
        )
        self._length = self._length + tokens
        logits: torch.Tensor = out.logits
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these sequences alone, by their numbers among the present ones, ascending."""
        self._cache.batch_select_indices(rows)
        self._attention, self._length = self._attention[rows], self._length[rows]

    def follow(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits that predict `ids`, shape (sequences, tokens), as they follow the prompts; once, before any `feed`."""
        logits = self.next_logits.unsqueeze(1)
        return logits if ids.shape[1] == 1 else torch.cat([logits, self.feed(ids[:, :-1])], dim=1)


class PlainRows:
    """A batch that is read whole at every step, row by row of the prompts, without cache and without padding: slow, and
    right for every causal model. Used like `Reading`."""

    def __init__(self, network: Any, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, group: int) -> None:
        self._network = network
        prompts = [ids[mask.bool()] for ids, mask in zip(prompt_ids, prompt_mask, strict=True)]
        self._rows = [prompt.unsqueeze(0).expand(group, -1) for prompt in prompts]

    @property
    def next_logits(self) -> torch.Tensor:
        """Logits of the token after what was read."""
        return torch.cat([self._logits(rows, 1)[:, -1] for rows in self._rows])

    def feed(self, ids: torch.Tensor) -> torch.Tensor:
        """As `Reading.feed`."""
        tokens = ids.shape[1]
        parts = ids.split([rows.shape[0] for rows in self._rows])
        self._rows = [torch.cat(both, dim=1) for both in zip(self._rows, parts, strict=True)]
        return torch.cat([self._logits(rows, tokens) for rows in self._rows])

    def keep(self, rows: torch.Tensor) -> None:
        """As `Reading.keep`."""
        starts = [0, *accumulate(each.shape[0] for each in self._rows)]
        chosen = [rows[(rows >= start) & (rows < end)] - start for start, end in pairwise(starts)]
        self._rows = [each[kept] for each, kept in zip(self._rows, chosen, strict=True) if len(kept)]

    def follow(self, ids: torch.Tensor) -> torch.Tensor:
        """As `Reading.follow`."""
        parts = ids[:, :-1].split([rows.shape[0] for rows in self._rows])
        whole = [torch.cat(both, dim=1) for both in zip(self._rows, parts, strict=True)]
        return torch.cat([self._logits(rows, ids.shape[1]) for rows in whole])

    def _logits(self, rows: torch.Tensor, tokens: int) -> torch.Tensor:
        """Of the last `tokens`, shape (sequences, tokens, vocabulary)."""
        kept = _known(self._network, {"logits_to_keep": tokens})
        out = self._network(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False, **kept)
        logits: torch.Tensor = out.logits[:, -tokens:]
        return logits


@contextmanager
def recomputed(network: Any) -> Iterator[None]:
    """What is read inside keeps each layer's input alone for its gradient: a backward pass computes the layer again.

    For `PlainRows`: a cache would be written twice. Unlike the library's own switch it needs no training mode, which
    would turn dropout on.
    """
    layers = recomputable(network)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def recomputable(network: Any) -> list[Any]:
    """The layers that can be computed twice."""
    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def told(padded: bool) -> Iterator[None]:
    """Inside, where single tokens are read on, the library is told whether any prompt is padded.

    **Why** Its usual attention looks at the mask for that with each token, and an accelerator would wait each time.
    """
    known: dict[str, Any] = {"allow_is_causal_skip": False} if padded else {"attention_mask": None}
    library = ALL_MASK_ATTENTION_FUNCTIONS[SDPA]
    ALL_MASK_ATTENTION_FUNCTIONS[SDPA] = lambda **asked: library(**{**asked, **known})
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS[SDPA] = library


def opened(
    network: Any, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, group: int, from_cache: bool
) -> Reading | PlainRows:
    """The prompts being read, from the cache where the model has one that can be."""
    return (Reading if from_cache else PlainRows)(network, prompt_ids, prompt_mask, group)


def reads_from_cache(network: Any) -> bool:
    """Whether reading on from the cache gives what reading whole sequences gives, beside a padded prompt, too.

    Tried, not looked up: names of arguments differ between versions of the library, a forward that takes any keyword
    swallows a cache that it does not know, and a recurrent model may take one token at a time. Each of them would
    train on wrong logits without a word.
    """
    if getattr(getattr(network, "config", None), "model_type", "") in WRONG_BEYOND_WINDOW:
        return False
    longest = max(PROBE_PROMPTS)
    prompts = torch.stack([_probe(network, longest), _probe(network, longest)])
    mask = torch.stack([(torch.arange(longest) >= longest - length).long() for length in PROBE_PROMPTS])
    mask, rest = mask.to(prompts.device), _probe(network, PROBE_TOKENS).expand(len(PROBE_PROMPTS) * PROBE_COPIES, -1)
    with torch.no_grad():
        try:
            whole = _tried(PlainRows(network, prompts, mask, PROBE_COPIES), rest)
            found = _tried(Reading(network, prompts, mask, PROBE_COPIES), rest)
        except torch.OutOfMemoryError:  # a RuntimeError, but of this machine and not of the model
            raise
        except UNREADABLE:
            return False
    return _equal(found, whole)


def _tried(reading: Reading | PlainRows, rest: torch.Tensor) -> torch.Tensor:
    """All logits of a reading on: of some tokens at once, and of one more after some rows were dropped."""
    kept = torch.tensor(PROBE_KEPT, device=rest.device)
    seen = [reading.next_logits.unsqueeze(1), reading.feed(rest[:, :-1])]
    reading.keep(kept)
    return torch.cat([*(logits.flatten(0, 1) for logits in seen), reading.feed(rest[kept, -1:]).flatten(0, 1)])


def is_causal(network: Any) -> bool:
    """Whether what comes later leaves the logits of what came before as they are."""
    ids = _probe(network, max(PROBE_PROMPTS)).unsqueeze(0)
    with torch.no_grad():
        try:
            both = [network(input_ids=ids[:, :tokens], use_cache=False).logits[:, :2] for tokens in (2, ids.shape[1])]
        except torch.OutOfMemoryError:  # a RuntimeError, but of this machine and not of the model
            raise
        except UNREADABLE:
            return False
    return _equal(*both)


def _probe(network: Any, tokens: int) -> torch.Tensor:
    weight = network.get_input_embeddings().weight
    ids: torch.Tensor = torch.arange(tokens, device=weight.device) % weight.shape[0]
    return ids


def _equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two logits are the same up to rounding. What all tokens have in common says nothing, and would hide what
    they differ by."""
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    one, other = (logits.float() - logits.float().mean(dim=-1, keepdim=True) for logits in (found, expected))
    return bool((one - other).norm() <= tolerance * other.norm())


def returned_cache(out: Any) -> tuple[str, Any]:
    """The cache in a model's output and the name it came by, told by what it can do."""
    for name, value in out.items():
        if hasattr(value, "batch_repeat_interleave"):
            return name, value
    raise NoCache("the model returns no key-value cache that can be repeated for a group")


@cache
def cache_argument(forward: Callable[..., Any], returned_as: str) -> str:
    """The argument by which a model takes its cache back: the one declared as a cache, or what it was returned as."""
    for name, parameter in signature(forward).parameters.items():
        if "Cache" in str(parameter.annotation):
            return name
    return returned_as


def _known(network: Any, optional: dict[str, Any]) -> dict[str, Any]:
    """Those arguments that this kind of model takes: one with relative positions needs no position ids."""
    taken = _parameters(type(network).forward)
    return {name: value for name, value in optional.items() if name in taken}


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(signature(forward).parameters)
