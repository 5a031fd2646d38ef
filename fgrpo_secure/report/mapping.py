"""Which requirement each piece of evidence supports. A table, not a verdict: compliance is for people to judge.

Sources: Regulation (EU) 2016/679 (GDPR); Regulation (EU) 2024/1689 (AI Act); NIST SP 800-226 (March 2025). Articles
are named, not quoted; check the text in force where you are.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Support:
    """A requirement, what supports it, and the file that shows it."""

    source: str
    requirement: str
    evidence: str
    file: str
    digest: str


TABLE = (
    (
        "GDPR Art. 5(1)(c)",
        "data minimisation",
        "only clipped, noised and masked adapter updates leave a client",
        "privacy_statement.json",
    ),
    (
        "GDPR Art. 5(1)(f), 32(1)(a)",
        "confidentiality, encryption",
        "the protocol's parameters and what the server saw",
        "privacy_statement.json",
    ),
    ("GDPR Art. 32(1)(b)", "resilience", "dropouts survived and sessions failed, in each round", "metrics.jsonl"),
    (
        "GDPR Art. 32(1)(d)",
        "regular testing of measures",
        "audit lower bounds, where audits were run",
        "audit.json",
    ),
    ("GDPR Art. 5(2)", "accountability", "an append-only ledger that the clients signed", "ledger.sqlite"),
    ("GDPR Art. 25", "protection by design and by default", "the configuration that was in force", "config.toml"),
    (
        "GDPR Art. 35(7)",
        "impact assessment: measures and residual risk",
        "epsilon, assumptions, and what is not protected",
        "privacy_statement.json",
    ),
    ("AI Act Art. 10", "data governance", "roster of data owners and their enrolment", "roster.bin"),
    (
        "AI Act Art. 11, Annex IV",
        "technical documentation",
        "configuration, statement and summary",
        "privacy_statement.json",
    ),
    ("AI Act Art. 12, 19", "automatic records", "one line for each round, one entry for each charge", "metrics.jsonl"),
    ("AI Act Art. 13", "transparency to deployers", "results on public problems, before and after", "summary.json"),
    (
        "AI Act Art. 15",
        "accuracy, robustness, cybersecurity",
        "held-out results; the adversary and colluders assumed",
        "summary.json",
    ),
    (
        "NIST SP 800-226",
        "epsilon, delta and how they are meant",
        "claims with adjacency and unit",
        "privacy_statement.json",
    ),
    (
        "NIST SP 800-226",
        "unit of privacy and bound on contributions",
        "unit, clip norm, rounds of each client",
        "privacy_statement.json",
    ),
    ("NIST SP 800-226", "composition over all releases", "every charge, in order", "ledger.sqlite"),
    ("NIST SP 800-226", "trust model", "adversary, colluders, quorum, who is trusted", "privacy_statement.json"),
    (
        "NIST SP 800-226",
        "mechanism, randomness, floating point",
        "discrete noise from AES-256-CTR, integers throughout",
        "privacy_statement.json",
    ),
    ("NIST SP 800-226", "what is not protected", "the list, in the statement", "privacy_statement.json"),
)


FILES = frozenset(row[3] for row in TABLE)


def supports(digests: Mapping[str, str]) -> list[Support]:
    """The table for a run that has the files of `digests`. Rows whose file is missing are left out."""
    return [Support(*row, digests[row[3]]) for row in TABLE if row[3] in digests]
