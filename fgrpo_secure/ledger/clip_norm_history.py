"""What an adaptive clip norm leaves for an auditor: each round's published share, and the norms that follow from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fgrpo_secure.config.schema import Privacy
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.plan import adaptive_clip
from fgrpo_secure.storage.signed_file import BadFile

SHARE = "share_within"  # the fact of a settled entry that holds the released share, a hexadecimal float


def facts(share: float | None) -> dict[str, str]:
    """What a settled entry adds; nothing where the clip norm is fixed."""
    return {} if share is None else {SHARE: share.hex()}


def check(metrics: Sequence[Mapping[str, Any]], privacy: Privacy, ledger: Ledger | None) -> None:
    """Every round's clip norm follows from the shares before it, and those are the ledger's. Raises BadFile."""
    rule, first, shares = privacy.adaptive_clip, privacy.clip_norm, list[float]()
    entries = [] if ledger is None else [entry for entry in ledger.entries() if entry["kind"] in ("intent", "settled")]
    numbers = {entry["session"]: entry["round"] for entry in entries if entry["kind"] == "intent"}
    settled = {numbers[each["session"]]: each for each in entries if each["kind"] == "settled"}
    for line in metrics:
        expected = first if rule is None else adaptive_clip.clip_norm(rule, first, shares)
        if abs(line["clip_norm"] - expected) > adaptive_clip.ROUNDING * expected:
            raise BadFile(f"round {line['round']} clipped to {line['clip_norm']:g}; the rule gives {expected:g}")
        share = line[SHARE]
        if (share is None) != (rule is None):
            raise BadFile(f"round {line['round']} has a share within the clip norm that its configuration has not")
        if ledger is not None and _published(settled[line["session"]]) != facts(share).get(SHARE):
            raise BadFile(f"round {line['round']} has another share within the clip norm than the ledger")
        shares += [] if share is None else [share]


def _published(entry: Mapping[str, Any]) -> str | None:
    found: str | None = entry["facts"].get(SHARE)
    return found
