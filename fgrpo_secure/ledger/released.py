"""What a round released beside the adapter, as facts of the entry that settles it: the clients sign it with the rest.

All three come from the round's noisy sums. In the ledger as hexadecimal floats: entries hold no other kind.
"""

from collections.abc import Mapping
from typing import Any

NAMES = ("mean_weight", "mean_gain", "update_norm")


def facts(mean_weight: float, mean_gain: float, update_norm: float) -> dict[str, str]:
    """As an entry holds them."""
    return dict(zip(NAMES, map(float.hex, (mean_weight, mean_gain, update_norm)), strict=True))


def read(settled: Mapping[str, Any]) -> dict[str, float]:
    """The figures by name; ValueError or KeyError if the entry has none."""
    return {name: float.fromhex(settled["facts"][name]) for name in NAMES}
