"""Reading a batch with the model: each prompt once for all its completions, completions from its cache.

With G completions of a prompt of L tokens, sampling and training read L tokens where separate rows would read G * L.
Gradients pass through the cache. Works on any Hugging Face causal model that has one.
"""

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

import torch


class Reading:
    """A batch being read. `next_logits`, shape (sequences, vocabulary), predict the token after the prompt.

    Rows of a prompt's completions stand together, `group` of each. Prompts are padded on the left.
    """

    def __init__(self, network: Any, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, group: int) -> None:
        self._network = network
        position_ids = (prompt_mask.cumsum(1) - 1).clamp(min=0)
        optional = {"position_ids": position_ids, "logits_to_keep": 1}
        out = network(input_ids=prompt_ids, attention_mask=prompt_mask, use_cache=True, **self._known(optional))
        self._cache = out.past_key_values
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
            past_key_values=self._cache,
            use_cache=True,
            **self._known({"position_ids": self._length + torch.arange(tokens, device=ids.device)}),
        )
        self._length = self._length + tokens
        logits: torch.Tensor = out.logits
        return logits

    def _known(self, optional: dict[str, Any]) -> dict[str, Any]:
        """Those arguments that this kind of model takes: one with relative positions needs no position ids."""
        taken = _parameters(type(self._network).forward)
        return {name: value for name, value in optional.items() if name in taken}


@cache
def _parameters(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(signature(forward).parameters)
