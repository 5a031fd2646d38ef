"""`fgrpo verify`: a finished run checked from its files alone, step by step, up to the first mismatch.

Nothing in the directory is believed because it says so: digests and signatures first, then every derived figure is
derived again. What cannot be known from files is whose keys these are: give the authority's and the server's.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # has no types of its own

from fgrpo_secure import config_file, enrolment, schedule
from fgrpo_secure.config import Config
from fgrpo_secure.evidence import clip_norms, manifest, notes, registry, signed_file, spent, statement
from fgrpo_secure.evidence.signed_file import BadFile
from fgrpo_secure.evidence.spent import Terms
from fgrpo_secure.privacy.checkpoint_note import BadCheckpoint
from fgrpo_secure.privacy.ledger import Ledger, LedgerError, Ledgers
from fgrpo_secure.run_directory import RunDirectory
from protocols.errors import ProtocolError
from protocols.identity import Identity
from protocols.roster import Roster


class Mismatch(ValueError):
    """The first thing that is not as it should be."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"{check}: {reason}")
        self.check = check


@dataclass(frozen=True)
class Trust:
    """What the auditor knows from elsewhere: keys, and checkpoints that clients kept. Each may be missing."""

    authority: bytes | None = None
    server: bytes | None = None
    witnessed: tuple[Path, ...] = ()


@dataclass
class Evidence:
    """What the checks so far have established."""

    directory: RunDirectory
    trust: Trust
    server: bytes = b""
    statement: dict[str, Any] = field(default_factory=dict)
    config: Config | None = None
    roster: Roster | None = None
    rosters: list[Roster] = field(default_factory=list)  # all of the run, oldest first
    keys: dict[int, list[bytes]] = field(default_factory=dict)  # of every client of any roster of the run
    ledger: Ledger | None = None


def verify(directory: RunDirectory, trust: Trust) -> Iterator[tuple[str, str]]:
    """Yields (check, what it found) for each check that holds; raises Mismatch at the first that does not."""
    evidence = Evidence(directory, trust)
    with closing(_Open(evidence)):
        for name, check in CHECKS:
            try:
                yield name, check(evidence)
            except (BadFile, BadCheckpoint, LedgerError, ProtocolError, jsonschema.ValidationError) as problem:
                reason = problem.message if isinstance(problem, jsonschema.ValidationError) else str(problem)
                raise Mismatch(name, reason) from None
            except (OSError, ValueError, KeyError, TypeError) as problem:
                raise Mismatch(name, f"cannot be checked: {problem}") from None


@dataclass
class _Open:
    """Closes the ledger that a check opened."""

    evidence: Evidence

    def close(self) -> None:
        if self.evidence.ledger is not None:
            self.evidence.ledger.close()


def _files(evidence: Evidence) -> str:
    """Every file is the one that the run left, by the server's signature."""
    evidence.server = evidence.trust.server or signed_file.signer_of(evidence.directory.manifest)
    files = manifest.check(evidence.directory, evidence.server)
    key = evidence.directory.server_key
    if key.exists() and Identity.from_seed(key.read_bytes()).public != evidence.server:
        raise BadFile(f"{key.name} is not the key that signed")
    known = "given" if evidence.trust.server else "named in the files only: compare it with one you know"
    return f"{len(files)} files, signed by server {evidence.server.hex()} ({known})"


def _statement(evidence: Evidence) -> str:
    """The statement is signed by the same server and has the published form."""
    evidence.statement = signed_file.read(evidence.directory.statement, evidence.server)
    signed = json.loads(evidence.directory.statement.read_bytes())
    jsonschema.validate(signed, statement.schema())
    evidence.config = config_file.load(str(evidence.directory.config))
    return f"{statement.FORMAT}, unit {evidence.statement['unit']!r}"


def _roster(evidence: Evidence) -> str:
    """The roster is signed by the authority, which is not the server."""
    origins = evidence.statement["origins"]
    authority = evidence.trust.authority or bytes.fromhex(origins["authority"])
    evidence.rosters = enrolment.rosters(evidence.directory, authority)
    evidence.roster = evidence.rosters[-1]
    for member in (member for roster in evidence.rosters for member in roster.members):
        evidence.keys.setdefault(member.id, []).append(member.public)
    if evidence.roster.digest.hex() != origins["roster_digest"]:
        raise BadFile(f"{evidence.directory.roster.name} is not the roster that the statement names")
    if authority == evidence.server:
        raise BadFile("the authority's key is the server's")
    known = "given" if evidence.trust.authority else "named in the files only: compare it with one you know"
    return f"version {evidence.roster.version}, {len(evidence.roster.members)} clients, authority {known}"


def _ledger(evidence: Evidence) -> str:
    """Every entry follows from those before it, up to the root that the statement names."""
    stated = evidence.statement["ledger"]
    if stated is None:
        return "none: a run without differential privacy charges nothing"
    ledger = Ledgers.read(evidence.directory.ledger).existing("server")
    evidence.ledger = ledger
    ledger.verify()
    if {"size": ledger.size(), "root": ledger.root().hex()} != stated:
        raise BadFile(f"the ledger has {ledger.size()} entries and root {ledger.root().hex()}; the statement differs")
    return f"{ledger.size()} entries, root {ledger.root().hex()}"


def _witnesses(evidence: Evidence) -> str:
    """Every checkpoint is one of this ledger's, signed by the server and by a quorum of enrolled clients."""
    if evidence.ledger is None or evidence.config is None:
        return "none: there is no ledger to witness"
    return notes.check(
        evidence.directory.notes,
        evidence.ledger,
        evidence.statement["origins"]["ledger"],
        evidence.server,
        evidence.keys,
        evidence.statement["assumptions"]["quorum"],
        partial(_partitions, evidence.config, evidence.rosters),
    )


def _partitions(config: Config, rosters: list[Roster], training_round: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """How the round's clients may have been split: by each roster of the run, on each day on which it changes."""
    for roster in rosters:
        ends = {member.last_day + 1 for member in roster.members if member.last_day is not None}
        for day in sorted({0, *ends}):
            if roster.last_day is None or day <= roster.last_day:
                clients = schedule.clients(config, roster, day)
                if clients:
                    yield schedule.partition(config, roster.digest, training_round, clients)


def _kept_elsewhere(evidence: Evidence) -> str:
    """Checkpoints that clients kept are of this very ledger."""
    if not evidence.trust.witnessed or evidence.ledger is None:
        return "none given"
    for path in evidence.trust.witnessed:
        text = path.read_text(encoding="utf-8")
        notes.check_one(text, path.name, evidence.ledger, evidence.statement["origins"]["ledger"], evidence.server)
    return f"{len(evidence.trust.witnessed)} of this ledger"


def _claims(evidence: Evidence) -> str:
    """Spent budgets and realised noise are what the ledger's entries amount to."""
    stated = evidence.statement
    if stated["rounds"] != statement.releases(evidence.ledger):
        raise BadFile("the statement's rounds are not the ledger's")
    if stated["claims"] is None:
        return "no differential privacy is claimed"
    if evidence.ledger is None:
        raise BadFile("a claim without a ledger")
    claim = stated["claims"]["server"]
    terms = Terms.read(stated["mechanism"])
    if evidence.config is not None:
        config, rate = evidence.config, terms.sampling and terms.sampling.rate
        configured = config.unit_blocks, schedule.unit_budgets(config), config.privacy.sampling_rate
        if configured != (terms.turns, terms.budgets, rate):
            raise BadFile("config.toml lets units take part in other turns, or at another rate, than the statement")
    amounts_to = spent.epsilon(evidence.ledger, terms, claim["delta"])
    if {amounts_to} != {claim["epsilon_spent"], stated["claims"]["release"]["epsilon_spent"]}:
        raise BadFile(f"the ledger amounts to epsilon {amounts_to}, the statement says {claim['epsilon_spent']}")
    asked = (evidence.config and evidence.config.privacy.epsilon) or 0.0  # a plan may need a little less of it
    if amounts_to > (allowed := max(asked, claim["epsilon"])) * (1 + 1e-9):
        raise BadFile(f"epsilon {amounts_to} was spent, {allowed} was allowed")
    return f"epsilon {amounts_to:.4g} of {claim['epsilon']:.4g} at delta {claim['delta']:g}"


def _settings(evidence: Evidence) -> str:
    """Configuration, summary and registry record say the same as the statement."""
    config, stated = evidence.config, evidence.statement
    summary = json.loads(evidence.directory.summary.read_text())
    if config is None or config.run.name != stated["run"]["name"] or config.privacy.unit != stated["unit"]:
        raise BadFile("config.toml is of another run than the statement")
    for key in ("rounds", "clients", "stopped"):
        if summary[key] != stated["run"][key]:
            raise BadFile(f"summary.json has {key} = {summary[key]}, the statement {stated['run'][key]}")
    if evidence.directory.metrics.exists():
        clip_norms.check(evidence.directory.read_metrics(), config.privacy, evidence.ledger)
    rule = config.privacy.adaptive_clip
    if stated["mechanism"] is not None and stated["mechanism"]["adaptive_clip"] != (rule and rule.model_dump()):
        raise BadFile("config.toml adapts the clip norm by another rule than the statement")
    record = registry.dump(registry.build(stated, config.deployment))
    if evidence.directory.registry.read_text() != record:
        raise BadFile(f"{evidence.directory.registry.name} is not the statement's record")
    return f"{summary['rounds']} rounds, {summary['clients']} clients"


CHECKS: tuple[tuple[str, Callable[[Evidence], str]], ...] = (
    ("files", _files),
    ("statement", _statement),
    ("roster", _roster),
    ("ledger", _ledger),
    ("witnesses", _witnesses),
    ("checkpoints kept elsewhere", _kept_elsewhere),
    ("claims", _claims),
    ("settings", _settings),
)
