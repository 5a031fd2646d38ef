"""What a verified run amounts to, in three lines for whoever must decide: proven, only asserted, not checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from fgrpo_secure.evidence.verify import UNCHECKED, Evidence, need
from fgrpo_secure.ledger import note_file


def lines(evidence: Evidence, measured: bool = False) -> tuple[str, str, str]:
    """The verdict on a run of which every check held. `measured`: the pass rates were measured again."""
    return _proven(evidence), _asserted(evidence.asserted, measured), _unchecked(evidence, measured)


def _proven(evidence: Evidence) -> str:
    said = need(evidence.stated)
    if said.ledger is None or said.claims is None:
        return (
            "Proven: nothing by clients' signatures, because a run without differential privacy charges nothing; the "
            "configuration is the one that the run's identity names."
        )
    claim, done = said.claims.server, f"{said.run.rounds} of {said.run.rounds_planned} rounds"
    who = f"the signatures of at least {said.assumptions.quorum} clients of every session that could have been"
    return (
        f"Proven, by {who} (of {said.run.clients} enrolled by the authority): {done} with the configuration, noise and "
        f"thresholds in config.toml, epsilon {claim.epsilon_spent:.4g} at delta {claim.delta:g} for each {said.unit}, "
        f"and the adapter {said.run.adapter_digest[:16]}."
    )


def _asserted(word: Mapping[str, Any], measured: bool) -> str:
    results = word["statement.results"]
    before, after = (_rate(results[f"pass_rate_{when}"]) for when in ("initial", "final"))
    operator = ", ".join(word["statement.operator"])
    between = "pass rates and rewards between the first and the last round, "
    rates = between if measured else f"pass rates ({before} before, {after} after) and rewards, "
    return (
        f"Only asserted by the server: {rates}its own times and bytes, the dates ({word['statement.started']} to "
        f"{word['statement.ended'] or 'not stated'}), {len(word['statement.audits'])} audits, and the operator's name "
        f"({operator})."
    )


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _unchecked(evidence: Evidence, measured: bool) -> str:
    present = [name for name in UNCHECKED if (evidence.directory.root / name).is_file()]
    again = "" if measured else "the pass rates (`fgrpo verify --evaluate` measures them again); "
    listed = ", ".join(present)
    files = f"{listed} (`fgrpo report` draws a page from what was verified); " if present else ""
    keys = [
        f"{whose} {key.hex()} ({with_whom})"
        for whose, key, given, with_whom in (
            ("the authority's key", evidence.authority, evidence.trust.authority, "ask whoever enrolled the clients"),
            ("the server's key", evidence.server, evidence.trust.server, "ask the operator, or any client"),
        )
        if given is None
    ]
    whose_keys = f"whose these keys are: {'; '.join(keys)}" if keys else "nothing else that files can show"
    return f"Not checked: {again}{files}{_silent(evidence.silent)}{whose_keys}."


def _silent(clients: Sequence[int]) -> str:
    """**Why** So few of a cohort that the others are a quorum may have been asked for vectors, of which no sum comes,
    in a session that a server hides or says it gave back: they alone know, and do not sign."""
    if not clients:
        return ""
    return (
        f"whether {note_file.named(clients)}, who did not sign the run's end, paid for sessions without a sum that the "
        "ledger lacks or gave back (ask them: their own ledgers say so); "
    )
