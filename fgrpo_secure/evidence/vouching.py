"""Who vouches for what a run says: each figure of its statement, summary and metrics, by who could have made it up.

One table for the report, for docs/how-to/audit-a-run.md and for whoever adds a figure: tests go through every field of
the three documents and fail where one has no voucher, or two.
"""

from dataclasses import dataclass, replace
from enum import StrEnum


class Voucher(StrEnum):
    """Who stands for a figure, the strongest first."""

    SIGNED = "proven by clients' signatures"
    CONFIGURED = "follows from the configuration"
    MEASURED = "measured again by verify"
    ASSERTED = "asserted by the server"


@dataclass(frozen=True)
class Figure:
    """One figure, or several of one kind. `places` are its fields: document, then names, `*` for any one name.

    `key` finds its value in a report. `basis` says what the voucher rests on, and what that does not show.
    """

    key: str
    words: str
    voucher: Voucher
    basis: str
    places: tuple[str, ...]


SIGNED, CONFIGURED, ASSERTED = Voucher.SIGNED, Voucher.CONFIGURED, Voucher.ASSERTED
FIGURES = (
    Figure(
        "spent", "epsilon spent", SIGNED, "the charges that a quorum of every session's clients signed, by arithmetic",
        ("statement.claims.*.epsilon_spent", "summary.privacy.epsilon_spent", "metrics.epsilon_spent"),
    ),
    Figure(
        "rounds", "rounds, sessions, survivors, dropouts", SIGNED,
        "the ledger's entries, and the plan that each of them names",
        (
            "statement.run.rounds", "statement.rounds.*", "summary.rounds", "summary.dropouts",
            "summary.failed_sessions", "metrics.round", "metrics.session", "metrics.survivors", "metrics.dropped",
            "metrics.failed_sessions",
        ),
    ),
    Figure(
        "charges", "charge and noise of each session", SIGNED, "computed again from each signed plan and its survivors",
        ("statement.rounds.*.charge", "statement.rounds.*.noise_multiplier", "metrics.clip_norm"),
    ),
    Figure(
        "ledger", "the ledger's size and root", SIGNED, "each client signed that it had only grown",
        ("statement.ledger.*",),
    ),
    Figure(
        "models", "base model and tokenizer, by digest", SIGNED,
        "each client compared them with what it had loaded before it took part",
        ("statement.run.base_model_digest", "statement.run.tokenizer_digest"),
    ),
    Figure(
        "adapter", "the released adapter, by digest", SIGNED, "each client compared it before it signed the last entry",
        ("statement.run.adapter_digest",),
    ),
    Figure(
        "clients", "who the clients are", CONFIGURED,
        "the rosters, which the authority signed, not the server; clients sign which one is the newest that they saw",
        ("statement.origins.*", "statement.run.clients", "summary.clients"),
    ),
    Figure(
        "budget", "epsilon and delta allowed, unit, mechanism", CONFIGURED,
        "the run's identity is a digest of the configuration; clients sign under that name",
        (
            "statement.claims.*", "statement.unit", "statement.adjacency", "statement.mechanism.*",
            "statement.composition", "summary.privacy.*", "summary.differential_privacy", "summary.warnings",
        ),
    ),
    Figure(
        "assumed", "adversary, colluders, quorum, thresholds", CONFIGURED,
        "computed again from configuration and rosters; the weakest of all rounds",
        ("statement.assumptions.*", "summary.aggregation.*", "summary.secure_aggregation"),
    ),
    Figure(
        "settings", "name of the run, rounds planned, sizes, weights", CONFIGURED, "the same identity",
        (
            "statement.run.identity", "statement.run.name", "statement.run.rounds_planned",
            "statement.run.base_model", "statement.run.reproducible_entropy", "statement.format",
            "summary.name", "summary.reproducible_entropy", "summary.adapter.*", "summary.weighting.rule",
        ),
    ),
    Figure(
        "seen", "what the server saw, what is not protected", CONFIGURED, "the protocol's messages, field by field",
        ("statement.server_saw.*", "statement.not_protected.*"),
    ),
    Figure(
        "released", "mean weight and gain, update norm, fraction within the clip norm", ASSERTED,
        "the server decoded them from noisy sums; clients' signatures fix what it said, and cannot check it",
        ("metrics.mean_weight", "metrics.mean_gain", "metrics.update_norm", "metrics.fraction_within"),
    ),
    Figure(
        "stopped", "why a run stopped early", ASSERTED, "the server's reason, fixed when clients signed the last entry",
        ("statement.run.stopped", "summary.stopped"),
    ),
    Figure(
        "dates", "dates (UTC)", ASSERTED,
        "the server's clock; the start is part of the run's identity, the end of the last entry, which clients signed",
        ("statement.asserted.started", "statement.asserted.ended"),
    ),
    Figure(
        "versions", "versions of the server's libraries", ASSERTED, "the server's word, fixed in the run's identity",
        ("statement.versions.*",),
    ),
    Figure(
        "operator", "the operator's name", ASSERTED, "as the configuration gives it; nobody checked who that is",
        ("statement.asserted.operator.*",),
    ),
    Figure(
        "results", "pass rates and rewards", ASSERTED,
        "`fgrpo verify --evaluate` measures those before and after training again",
        (
            "statement.asserted.results.*", "summary.pass_rate.*", "summary.reward.*", "metrics.reward",
            "metrics.pass_rate", "metrics.pass_rate_greedy",
        ),
    ),
    Figure(
        "costs", "the server's times, traffic", ASSERTED, "nobody else measured them",
        ("summary.seconds.*", "summary.bytes.*", "metrics.seconds_server", "metrics.bytes_*"),
    ),
    Figure(
        "audits", "audits", ASSERTED, "`fgrpo audit` on config.toml makes them again",
        ("statement.asserted.audits.*",),
    ),
    Figure(
        "unsigned", "how far a run without differential privacy came", ASSERTED,
        "such a run charges nothing, so that nobody signs for it",
        ("statement.asserted.unsigned.*",),
    ),
)  # fmt: skip
UNSIGNED = "the server's word: a run without differential privacy charges nothing, so that no client signs"
AGAIN = "measured again when this was drawn, those of the rounds between excepted"


def figures(signed: bool, measured: bool) -> list[Figure]:
    """The table of one run. `signed`: its clients signed a ledger. `measured`: pass rates were measured again."""
    return [_of_run(each, signed, measured) for each in FIGURES if each.key != "unsigned" or not signed]


def _of_run(figure: Figure, signed: bool, measured: bool) -> Figure:
    if figure.voucher is SIGNED and not signed:
        return replace(figure, voucher=ASSERTED, basis=UNSIGNED)
    if figure.key == "results" and measured:
        return replace(figure, voucher=Voucher.MEASURED, basis=AGAIN)
    return figure


def figure_of(place: str) -> Figure:
    """The figure that a field belongs to: the one that names it most closely. LookupError if none or two do."""
    closest = [
        (sum(part != "*" for part in pattern.split(".")), figure)
        for figure in FIGURES
        for pattern in figure.places
        if _covers(pattern.split("."), place.split("."))
    ]
    best = max((rank for rank, _ in closest), default=0)
    found = {figure.key: figure for rank, figure in closest if rank == best}
    if len(found) != 1:
        raise LookupError(f"{place} is vouched for by {sorted(found) or 'nobody'}")
    return next(iter(found.values()))


def _covers(pattern: list[str], place: list[str]) -> bool:
    """A last `*` covers everything below; `name_*` every name that begins so."""
    if len(pattern) > len(place):
        return False
    fits = all(part in ("*", name) or _begins(part, name) for part, name in zip(pattern, place, strict=False))
    return fits and (len(pattern) == len(place) or pattern[-1] == "*")


def _begins(part: str, name: str) -> bool:
    return part.endswith("_*") and name.startswith(part[:-1])


def markdown() -> str:
    """The table as docs/how-to/audit-a-run.md has it."""
    rows = [f"| {each.words} | {each.voucher} | {each.basis} |" for each in FIGURES]
    return "\n".join(("| figure | who vouches | on what that rests |", "|---|---|---|", *rows))
