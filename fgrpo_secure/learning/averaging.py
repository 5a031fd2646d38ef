"""The average of the adapters after each round: what is evaluated and saved where `server.averaging` is above 0.

It is made of released adapters alone, so it is post-processing and costs no privacy. The rounds themselves go on from
the last adapter, never from the average.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from fgrpo_secure.learning.adapters import AdaptedModel

PREFIX = "average."
WEIGHT = "average"


class IterateAverage:
    """After t rounds: the mean of theta_1 .. theta_t with weights decay^(t - i), factor by factor."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._weight = 0.0
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, adapter: Mapping[str, torch.Tensor]) -> None:
        """Count the adapter of one more finished round."""
        if self._decay == 0:
            return
        self._weight = self._decay * self._weight + 1
        for name, value in adapter.items():
            before = self._sums.get(name)
            new = value.detach().double()
            self._sums[name] = new.clone() if before is None else self._decay * before + new

    @contextmanager
    def shown(self, adapted: AdaptedModel) -> Iterator[None]:
        """`adapted` holds the average inside, and again its own adapter afterwards."""
        if not self._sums:
            yield
            return
        own = {name: value.detach().clone() for name, value in adapted.full_state().items()}
        adapted.load_full_state(
            {name: (total / self._weight).to(own[name].dtype) for name, total in self._sums.items()}
        )
        try:
            yield
        finally:
            adapted.load_full_state(own)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint needs, as named tensors."""
        if not self._sums:
            return {}
        named = {PREFIX + name: total for name, total in self._sums.items()}
        return named | {WEIGHT: torch.tensor(self._weight, dtype=torch.float64)}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from what `state` returned; entries of others are left alone."""
        self._weight = float(state[WEIGHT]) if WEIGHT in state else 0.0
        self._sums = {name.removeprefix(PREFIX): total for name, total in state.items() if name.startswith(PREFIX)}


def without(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries of a checkpoint that are not an average's."""
    return {name: value for name, value in state.items() if name != WEIGHT and not name.startswith(PREFIX)}
