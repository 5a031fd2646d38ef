"""What an optimiser of local steps remembers, from one round to the next: for an owner that keeps it. Secret.

By the factors that a round trains: where rounds alternate, those of A stay while B is trained. SGD remembers nothing.
"""

from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save

LARGEST = 1 << 28  # bytes: what is larger is not kept, because an owner's store holds it three times


@dataclass
class Moments:
    """The state of optimisers as bytes, empty before the first round. What is kept last stands."""

    kept: bytes = field(default=b"", repr=False)

    def restore(self, factors: str, optimizer: torch.optim.Optimizer) -> None:
        """Give a fresh optimiser what the last one of these factors remembered."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in (load(self.kept) if self.kept else {}).items():
            of, index, what = name.split("/")
            if of == factors:
                state.setdefault(int(index), {})[what] = tensor
        if state:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

    def keep(self, factors: str, optimizer: torch.optim.Optimizer) -> None:
        """Remember what this one does, beside that of other factors; nothing new if a number of it is not finite."""
        named = {
            f"{factors}/{index}/{what}": tensor.detach().cpu().contiguous()
            for index, state in optimizer.state_dict()["state"].items()
            for what, tensor in state.items()
            if isinstance(tensor, torch.Tensor)
        }
        # Infinite moments would make every later step of these factors zero.
        if not all(bool(tensor.isfinite().all()) for tensor in named.values()):
            return
        others = load(self.kept) if self.kept else {}
        both = {name: each for name, each in others.items() if name.split("/")[0] != factors} | named
        if sum(each.numel() * each.element_size() for each in both.values()) <= LARGEST:
            self.kept = save(both) if both else b""
