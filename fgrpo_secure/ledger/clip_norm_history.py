"""What an adaptive clip norm leaves for an auditor: each round's fraction, and the norms that follow from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fgrpo_secure.config.schema import Privacy
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.plan import adaptive_clip
from fgrpo_secure.storage.signed_file import BadFile

FRACTION = "fraction_within"  # the fact of a settled entry that holds the released fraction, a hexadecimal float


def facts(fraction: float | None) -> dict[str, str]:
    """What a settled entry adds; nothing where the clip norm is fixed."""
    return {} if fraction is None else {FRACTION: fraction.hex()}


def check(metrics: Sequence[Mapping[str, Any]], privacy: Privacy, ledger: Ledger | None) -> None:
    """Every round's clip norm follows from the fractions before it, and those are the ledger's. Raises BadFile."""
    rule, first, fractions = privacy.adaptive_clip, privacy.clip_norm, list[float]()
    entries = [] if ledger is None else [entry for entry in ledger.entries() if entry["kind"] in ("intent", "settled")]
    numbers = {entry["session"]: entry["round"] for entry in entries if entry["kind"] == "intent"}
    settled = {numbers[each["session"]]: each for each in entries if each["kind"] == "settled"}
    for line in metrics:
        expected = first if rule is None else adaptive_clip.clip_norm(rule, first, fractions)
        if abs(line["clip_norm"] - expected) > adaptive_clip.ROUNDING * expected:
            raise BadFile(f"round {line['round']} clipped to {line['clip_norm']:g}; the rule gives {expected:g}")
        fraction = line[FRACTION]
        if (fraction is None) != (rule is None):
            raise BadFile(f"round {line['round']} has a fraction within the clip norm that its configuration has not")
        if ledger is not None and _published(settled[line["session"]]) != facts(fraction).get(FRACTION):
            raise BadFile(f"round {line['round']} has another fraction within the clip norm than the ledger")
        fractions += [] if fraction is None else [fraction]


def _published(entry: Mapping[str, Any]) -> str | None:
    found: str | None = entry["facts"].get(FRACTION)
    return found
