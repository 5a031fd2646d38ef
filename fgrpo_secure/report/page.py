"""From facts to one HTML page that needs nothing else: no script, no font, no request."""

from collections.abc import Sequence
from importlib import resources

import jinja2

from fgrpo_secure.report import comparison, mapping, plots, tables, words
from fgrpo_secure.report.facts import RunFacts
from fgrpo_secure.report.tables import Table
from fgrpo_secure.report.words import NOTE_WITHOUT_PRIVACY as NOTE_WITHOUT_PRIVACY

LONG = 26  # characters: a longer word may be broken anywhere, so that no table is wider than its page
OPEN_CLIENTS = 40  # more data owners than that are listed, but folded away


def render(facts: RunFacts) -> str:
    """The report of one run."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=f"Report of {facts.name}",
            facts=facts,
            stated=facts.stated,
            standing=words.standing(facts),
            plain=words.in_plain_words(facts),
            identity=tables.identity(facts),
            mechanism=words.mechanism(facts),
            charges=words.charges(facts),
            assumptions=words.assumptions(facts),
            plots=plots.all_plots(facts),
            supports=mapping.supports(facts.digests),
            vouchers=tables.vouchers(facts),
            clients=tables.clients(facts),
            took_part=tables.took_part(facts),
            clients_open=facts.stated.run.clients <= OPEN_CLIENTS,
            ledger=tables.ledger(facts),
            seen=tables.seen(facts),
            audit_table=tables.audits(facts),
            attack_table=tables.attacks(facts),
            versions=tables.versions(facts),
        )
    )


def render_comparison(runs: Sequence[RunFacts]) -> str:
    """The report of several runs beside each other."""
    checked = Table(
        "What was checked",
        ("run", "checked", "server's key", "ledger's root"),
        tuple((run.name, words.standing(run), run.stated.origins.server, _root(run)) for run in runs),
    )
    return (
        _environment()
        .get_template("comparison.html.j2")
        .render(
            title="Comparison of " + ", ".join(run.name for run in runs),
            runs=Table("Runs", comparison.COLUMNS, tuple(comparison.rows(runs))),
            checked=checked,
            apart=len({run.unit for run in runs if run.private}) > 1,
            sets=len(set(comparison.evaluation_sets(runs))),
            plots=comparison.all_plots(runs),
        )
    )


def _root(run: RunFacts) -> str:
    return "none: nothing is charged" if run.stated.ledger is None else run.stated.ledger.root


def _environment() -> jinja2.Environment:
    folder = resources.files("fgrpo_secure.report")
    loader = jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text())
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["short"] = lambda text: str(text)[: tables.SHORT]
    environment.filters["has_long_word"] = lambda text: max(map(len, str(text).split()), default=0) > LONG
    return environment
