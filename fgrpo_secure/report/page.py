"""From facts to one HTML page that needs nothing else: no script, no font, no request."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2

from fgrpo_secure.evidence import manifest
from fgrpo_secure.report import comparison, mapping, plots
from fgrpo_secure.report.facts import RunFacts
from fgrpo_secure.run_directory import RunDirectory

RATES = ("initial", "final", "greedy_initial", "greedy_final")
NOTE_WITHOUT_PRIVACY = "No differential privacy: what protects is the aggregation alone. The server learns exact sums."


def render(directory: RunDirectory, facts: RunFacts) -> str:
    """The report of one run."""
    present = [name for name in sorted(mapping.FILES) if (directory.root / name).is_file()]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=f"Report of {facts.name}",
            facts=facts,
            summary=facts.summary,
            statement=facts.statement,
            plain=in_plain_words(facts),
            plots=plots.all_plots(facts),
            supports=mapping.supports({name: manifest.digest(directory.root / name) for name in present}),
            session_rows=_session_rows(facts),
            seen_rows=[(row["name"], row["cover"], row["meaning"]) for row in facts.statement["server_saw"]],
            assumption_rows=_pairs(facts.statement["assumptions"]),
            audits=facts.audits,
            audit_rows=_audit_rows(facts),
            attacks=facts.attacks,
            attack_rows=_attack_rows(facts),
            simulation_rows=_pairs(facts.summary.get("simulation_only", {})),
            version_rows=_pairs(facts.statement["versions"]),
        )
    )


def render_comparison(runs: Sequence[RunFacts]) -> str:
    """The report of several runs beside each other."""
    return (
        _environment()
        .get_template("comparison.html.j2")
        .render(
            title="Comparison of " + ", ".join(run.name for run in runs),
            runs=runs,
            columns=comparison.COLUMNS,
            rows=comparison.rows(runs),
            plots=comparison.all_plots(runs),
        )
    )


def in_plain_words(facts: RunFacts) -> list[tuple[str, str]]:
    """(question, answer): what somebody in a hurry must know, in an order that can be read alone."""
    words = [
        ("What was learned?", _learned(facts)),
        ("What was spent?", _spent(facts)),
        ("What is guaranteed, against whom?", _guarantee(facts)),
    ]
    if facts.statement["run"]["reproducible_entropy"]:
        words.append(
            ("Is it private?", "No: this run used reproducible randomness, for tests. Anybody can compute it.")
        )
    return words


def _learned(facts: RunFacts) -> str:
    rates = {name: f"{facts.summary[f'pass_rate.{name}']:.1%}" for name in RATES}
    return (
        f"On public problems that nobody trained on, the pass rate went from {rates['initial']} to {rates['final']} "
        f"(most likely answer: {rates['greedy_initial']} to {rates['greedy_final']}), over "
        f"{facts.summary['clients']} data owners and {facts.summary['rounds']} rounds."
    )


def _spent(facts: RunFacts) -> str:
    if not facts.private:
        return "Nothing is accounted: the run has no differential privacy."
    claim = facts.statement["claims"]["server"]
    return (
        f"epsilon {claim['epsilon_spent']:.2f} of the {claim['epsilon']:.2f} allowed, at delta {claim['delta']:g}, "
        f"for each {_unit(facts)}."
    )


def _guarantee(facts: RunFacts) -> str:
    if not facts.private:
        return NOTE_WITHOUT_PRIVACY
    claim, assumed = facts.statement["claims"]["server"], facts.statement["assumptions"]
    return (
        f"Whatever the server, with up to {assumed['colluders']} colluding data owners, or a reader of the model does: "
        f"taking part changes the odds of any conclusion about a {_unit(facts)} by at most a factor of "
        f"e^{claim['epsilon_spent']:.2f}, but for a chance of {claim['delta']:g}. The server "
        f"({assumed['adversary'].replace('_', ' ')}) saw only sums over {assumed['minimum_survivors']} or more of them."
    )


def _unit(facts: RunFacts) -> str:
    return str(facts.statement["unit"]).replace("_", " ")


def _session_rows(facts: RunFacts) -> list[tuple[str, ...]]:
    columns = ("round", "session", "outcome", "survivors", "charge", "noise_multiplier")
    sessions = [{**each, "session": each["session"][:16]} for each in facts.statement["rounds"]]
    return [tuple(_figure(session.get(column)) for column in columns) for session in sessions]


def _audit_rows(facts: RunFacts) -> list[tuple[str, ...]]:
    """(audit, figure, epsilon, claim, rests on) of every bound and estimate."""
    return [
        (
            audit.audit,
            f"{kind}: {name}",
            _figure(value),
            _figure(audit.claimed_epsilon),
            audit.assumptions.get(name, "-"),
        )
        for audit in facts.audits.values()
        for kind, values in (("at least", audit.lower_bounds), ("about", audit.estimates))
        for name, value in values.items()
    ]


def _attack_rows(facts: RunFacts) -> list[tuple[str, ...]]:
    trials = facts.attacks.trials if facts.attacks else ()
    return [(each.attack, each.adversary, each.ours, each.weakened, each.evidence) for each in trials]


def _pairs(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, tables inside tables written out with dotted names."""
    pairs: list[tuple[str, str]] = []
    for name, value in table.items():
        inner = _pairs(value) if isinstance(value, Mapping) else [("", _figure(value))]
        pairs += [(f"{name}.{deeper}".rstrip("."), text) for deeper, text in inner]
    return pairs


def _environment() -> jinja2.Environment:
    folder = resources.files("fgrpo_secure.report")
    loader = jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text())
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["short"] = lambda text: str(text)[:16]
    return environment


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
