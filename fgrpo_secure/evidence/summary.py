"""summary.json and metrics.jsonl: which of their figures follow from what was signed, and what those must be.

Both files are for scripts: flat names, numbers. What stands in `ASSERTED` or `MEASURED` only the server knows; all
else is written, and checked, by the functions here.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fgrpo_secure.config.schema import Config
from fgrpo_secure.evidence import derived_plans
from fgrpo_secure.evidence import statement_form as form
from fgrpo_secure.evidence.history import Round
from fgrpo_secure.evidence.statement import Basis, progress
from fgrpo_secure.ledger import clip_norm_history as clip_norms
from fgrpo_secure.ledger import released
from fgrpo_secure.plan.cost import PrivacyPlan

RESULTS = (
    "reward.initial",
    "reward.final",
    "pass_rate.initial",
    "pass_rate.final",
    "pass_rate.greedy_initial",
    "pass_rate.greedy_final",
)
ASSERTED = (
    *RESULTS,
    "bytes.up_per_client_per_round",
    "bytes.down_per_client_per_round",
    "seconds.total",
    "seconds.aggregation",
)
"""Of summary.json: results on public problems, and what the operator measured of its own machines and lines."""

MEASURED = (
    "bytes_up_per_client",
    "bytes_down_per_client",
    "seconds_server",
    "reward",
    "pass_rate",
    "pass_rate_greedy",
)
"""Of each line of metrics.jsonl: the same, round by round."""

SECTIONS = ("privacy", "aggregation", "adapter")  # of the plan's facts: the privacy part of a summary


def derived(basis: Basis, unsigned: form.Unsigned | None, counts: Mapping[str, int]) -> dict[str, Any]:
    """All of summary.json but `ASSERTED`. `counts` are dropouts and failed sessions of a run without a ledger."""
    history, done = basis.history, progress(basis, unsigned)
    spent = None if history is None else basis.epsilon_after(history.size)
    if history is not None:
        counts = {"dropouts": sum(map(dropped, history.finished)), "failed_sessions": failed_sessions(basis)}
    return summary(basis.config, basis.planner.first, done, counts, spent)


def summary(
    config: Config, privacy: PrivacyPlan, done: form.Unsigned, counts: Mapping[str, int], spent: float | None
) -> dict[str, Any]:
    """The same from its parts, for a run that has nothing signed at all."""
    facts, unit = privacy.facts(), config.privacy.unit
    return {
        "name": config.run.name,
        "rounds": done.rounds,
        "clients": config.clients_total,
        "stopped": done.stopped,
        "reproducible_entropy": config.run.entropy == "seeded",
        "secure_aggregation": "no secure aggregation" if privacy.trusted_server else "secure aggregation",
        "warnings": facts["warnings"],
        "differential_privacy": unit if unit != "none" else "no differential privacy",
        **{name: value for name, value in facts.items() if name.split(".")[0] in SECTIONS},
        "privacy.epsilon_spent": spent,
        "weighting.rule": config.weighting.rule,
        "dropouts": counts["dropouts"],
        "failed_sessions": counts["failed_sessions"],
    }


def results(written: Mapping[str, Any]) -> form.Results:
    """The figures on the public evaluation set, of a whole summary."""
    return form.Results(**{name.replace(".", "_"): written[name] for name in RESULTS})


def metrics(basis: Basis) -> Iterator[dict[str, Any]]:
    """Each line of metrics.jsonl but `MEASURED`, by the rounds that ended."""
    if basis.history is None:
        return
    before = -1
    for found in basis.history.finished:
        end = found.end
        if end is None:
            continue
        yield {
            "round": found.training_round + 1,
            "session": found.sessions[0].plan.session_number,
            "survivors": end["survivors"],
            "dropped": dropped(found),
            "failed_sessions": _failed_between(basis, before, end["position"]) + derived_plans.failed_shards(found),
            **released.read(end),
            "clip_norm": found.sessions[0].settings.clip_norm,
            clip_norms.FRACTION: _share(end),
            "epsilon_spent": basis.epsilon_after(end["position"] + 1),
        }
        before = end["position"]


def dropped(found: Round) -> int:
    """Clients of the sessions that ended which were lost on the way."""
    survivors = found.survivors
    return sum(len(session.plan.cohort) - len(survivors[session.name]) for session in found.ended)


def failed_sessions(basis: Basis) -> int:
    """Rounds that ended without a sum, and shards that did in rounds that ended with one."""
    history = basis.history
    if history is None:
        return 0
    return _failed_between(basis, -1, history.size) + sum(map(derived_plans.failed_shards, history.settled))


def _failed_between(basis: Basis, after: int, before: int) -> int:
    entries = basis.history.entries if basis.history else ()
    return sum(entry["kind"] == "aborted" and after < entry["position"] < before for entry in entries)


def _share(end: Mapping[str, Any]) -> float | None:
    share = end["facts"].get(clip_norms.FRACTION)
    return None if share is None else float.fromhex(share)
