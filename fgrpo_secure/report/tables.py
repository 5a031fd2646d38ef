"""The tables of one run's report: rows of text under columns. What is long becomes short, and keeps its exact form."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fgrpo_secure.evidence import vouching
from fgrpo_secure.report.facts import RunFacts

MOST_CLIENTS = 2000  # rows of the table of data owners; the roster has them all
SHORT = 16  # digits of a digest in a table


@dataclass(frozen=True)
class Table:
    """`name` is read aloud. On a narrow screen each row becomes a card, with the column's name before each value."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def identity(facts: RunFacts) -> list[tuple[str, str, bool]]:
    """(what, value, whether it is a digest or key) that names the run, its models and its parties."""
    run, origins, word = facts.stated.run, facts.stated.origins, facts.stated.asserted
    shipped = " (the one that comes with the package)" if run.base_model == "builtin" else ""
    rows: list[tuple[str, str | None, bool]] = [
        ("Operator", f"{', '.join(word.operator)} (asserted)", False),
        ("Began, ended", f"{_date(word.started)} to {_date(word.ended)}, by the server's clock (UTC)", False),
        ("Base model", f"{run.base_model}{shipped}", False),
        ("Its digest", run.base_model_digest, True),
        ("Tokenizer's digest", run.tokenizer_digest, True),
        ("Released adapter's digest", run.adapter_digest, True),
        ("Data owners", took_part(facts), False),
        ("Enrolled by", origins.authority, True),
        ("Server", origins.server, True),
        ("Run", run.identity, True),
        ("Ledger's root", facts.stated.ledger.root if facts.stated.ledger else None, True),
    ]
    return [
        (what, value or "not signed by anybody in this run", digest and bool(value)) for what, value, digest in rows
    ]


def _date(text: str | None) -> str:
    return "not stated" if text is None else text[:19].replace("T", " ")


def took_part(facts: RunFacts) -> str:
    """Who took part, in a sentence."""
    stated, clients = facts.stated, participation(facts)
    enrolled = f"{stated.run.clients} on roster version {stated.origins.roster_version}"
    if not facts.basis.history:
        return f"{enrolled}; which rounds each took part in is not signed in this run"
    rounds = len(facts.basis.history.settled)
    always = sum(summed == rounds for _, _, _, summed in clients)
    never = sum(not summed for _, _, _, summed in clients)
    rest = f", {never} in none" if never else ""
    return f"{enrolled}; {always} of them in the sums of all {rounds} rounds{rest}"


def participation(facts: RunFacts) -> list[tuple[str, str, int, int]]:
    """(name, key, sessions that it was asked to, sums that it is in) of every client of the newest roster."""
    asked, summed = Counter[int](), Counter[int]()
    for found in facts.basis.history.rounds if facts.basis.history else ():
        asked.update(client for session in found.sessions for client in session.plan.cohort)
        summed.update(client for ids in found.survivors.values() for client in ids)
    newest = facts.basis.planner.rosters[-1]
    return [(each.name, each.public.hex(), asked[each.id], summed[each.id]) for each in newest.members]


def clients(facts: RunFacts) -> Table:
    """The data owners by the roster that the authority signed."""
    listed = participation(facts)[:MOST_CLIENTS]
    signed = facts.basis.history is not None
    rows = (
        (name, key[:SHORT], *((str(asked), str(summed)) if signed else ("-", "-")))
        for name, key, asked, summed in listed
    )
    return Table("Data owners", ("data owner", "public key begins", "sessions", "sums it is in"), tuple(rows))


def vouchers(facts: RunFacts) -> Table:
    """Each figure, what it is in this run, and who vouches for it."""
    measured = facts.verified is not None and facts.verified.measured is not None
    listed = vouching.figures(facts.basis.history is not None, measured)
    values = dict(_values(facts))
    rows = tuple((each.words, values[each.key], each.voucher.value, each.basis.replace("`", "")) for each in listed)
    return Table("What it says, and who vouches", ("figure", "in this run", "who vouches", "on what that rests"), rows)


def _values(facts: RunFacts) -> Iterator[tuple[str, str]]:
    stated, summary = facts.stated, facts.summary
    run, word, assumed, claims = stated.run, stated.asserted, stated.assumptions, stated.claims
    yield "spent", "none" if claims is None else f"{claims.server.epsilon_spent:.4g}"
    charged = f"{len(stated.rounds)} charged, " if stated.rounds else ""
    yield "rounds", f"{run.rounds} of {run.rounds_planned} planned, {charged}{summary['dropouts']} dropouts"
    yield "charges", _between([each.noise_multiplier for each in stated.rounds if each.noise_multiplier is not None])
    ledger = stated.ledger
    yield (
        "ledger",
        "none" if ledger is None else f"{ledger.size} entries, {ledger.notes} notes, root {ledger.root[:SHORT]}",
    )
    yield "models", f"{run.base_model}, {(run.base_model_digest or 'no digest')[:SHORT]}"
    yield "adapter", run.adapter_digest[:SHORT]
    yield "clients", f"{run.clients}, roster version {stated.origins.roster_version}"
    allowed = "no differential privacy" if claims is None else f"epsilon {claims.server.epsilon:.4g}"
    yield "budget", allowed if claims is None else f"{allowed}, delta {claims.server.delta:g}, for each {facts.unit}"
    who = assumed.adversary.replace("_", " ")
    held = f"quorum {assumed.quorum}, sums of {assumed.minimum_survivors} or more"
    yield "assumed", f"{who}, {assumed.colluders} colluders, {held}"
    yield "settings", f"{run.name}, {run.rounds_planned} rounds, {summary['adapter.dimension']} coordinates"
    yield "seen", f"{len(stated.server_saw)} fields, {len(stated.not_protected)} limits"
    yield "released", f"for each of {len(facts.rounds)} rounds, in the plots"
    yield "stopped", run.stopped or "it did not"
    yield "dates", f"{_date(word.started)} to {_date(word.ended)}"
    yield "versions", f"fgrpo-secure {stated.versions['fgrpo-secure']} and {len(stated.versions) - 1} others"
    yield "operator", ", ".join(word.operator)
    yield "results", f"{_rate(summary['pass_rate.initial'])} to {_rate(summary['pass_rate.final'])}, sampled"
    yield (
        "costs",
        f"{summary['seconds.total']:.3g} s, {summary['bytes.up_per_client_per_round'] / 1000:.3g} kB sent a round",
    )
    yield "audits", f"{len(word.audits)} before the run ended"
    yield "unsigned", "-" if word.unsigned is None else f"{word.unsigned.rounds} rounds"


def _between(values: list[float]) -> str:
    if not values:
        return "nothing was charged"
    low, high = min(values), max(values)
    return f"noise multiplier {low:.4g}" if low == high else f"noise multipliers {low:.4g} to {high:.4g}"


def _rate(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def ledger(facts: RunFacts) -> Table:
    """Every charged round: the charge as a number, beside its exact fraction and what it is of the whole."""
    history, basis = facts.basis.history, facts.basis
    rows = []
    for found, session in zip(history.rounds if history else (), facts.stated.rounds, strict=True):
        charge = Fraction(session.charge)
        spent = basis.epsilon_after((found.end or found.opened)["position"] + 1)
        rows.append(
            (
                str(session.training_round + 1),
                session.session[:SHORT],
                session.outcome,
                _figure(session.survivors),
                f"{float(charge):.4g} = {session.charge}",
                f"{float(charge / history.budget):.2%}" if history and history.budget else "-",
                _figure(spent),
                _figure(session.noise_multiplier),
            )
        )
    columns = (
        "round",
        "session",
        "outcome",
        "in the sum",
        "charge",
        "of the budget",
        "epsilon after",
        "noise multiplier",
    )
    return Table("Sessions and charges", columns, tuple(rows))


def seen(facts: RunFacts) -> Table:
    """What the server saw, field by field."""
    rows = tuple((row.name, row.cover.value, row.meaning) for row in facts.stated.server_saw)
    return Table("What the server saw", ("field", "covered by", "what it is"), rows)


def audits(facts: RunFacts) -> Table:
    """(audit, figure, epsilon, claim, rests on) of every bound and estimate."""
    rows = tuple(
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
    )
    return Table("Audits", ("audit", "epsilon", "value", "claimed", "rests on"), rows)


def attacks(facts: RunFacts) -> Table:
    """The latest campaign."""
    trials = facts.attacks.trials if facts.attacks else ()
    rows = tuple((each.attack, each.adversary, each.ours, each.weakened, each.evidence) for each in trials)
    return Table("Attacks", ("attack", "adversary", "ours", "weakened copy", "what ours answered"), rows)


def versions(facts: RunFacts) -> Table:
    """The server's libraries."""
    return Table("Versions", ("what", "version"), tuple(sorted(facts.stated.versions.items())))


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
