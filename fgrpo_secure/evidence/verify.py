"""`fgrpo verify`: a finished run checked from its files alone, step by step, up to the first mismatch.

Nothing in the directory is believed because it says so. Digests and signatures come first; then the statement, the
summary, the metrics and the registry record are computed again, by the functions that wrote them, from what the
clients signed and what configuration and rosters fix, and compared as whole documents. What only the server knows is
shown as asserted. What cannot be known from files is whose keys these are: give the authority's and the server's.

    files -> opening + configuration + rosters -> run's identity -> plans -> ledger -> notes -> adapter -> documents
"""

import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.config.schema import Config
from fgrpo_secure.evidence import adapter_file, basis, files, manifest, registry, statement, summary
from fgrpo_secure.evidence import statement_form as form
from fgrpo_secure.evidence.adapter_file import AdapterFile
from fgrpo_secure.evidence.derived_plans import Planner
from fgrpo_secure.evidence.history import History
from fgrpo_secure.evidence.statement import Basis
from fgrpo_secure.ledger import note_file as notes
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint
from fgrpo_secure.ledger.store import Ledger, LedgerError
from fgrpo_secure.privacy.sizing import InfeasiblePlan
from fgrpo_secure.storage import digests, identity_file, opening, run_directory, signed_file
from fgrpo_secure.storage.opening import Opening
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError
from fgrpo_secure.storage.signed_file import BadFile
from protocols.errors import ProtocolError
from protocols.params import Infeasible
from protocols.roster import Roster, claimed_authority

UNCHECKED = ("report.html", "audit.json", "attacks.json")  # rendering depends on fonts; the others are nobody's word
GIVEN, FROM_FILES = "given", "named in the files only: compare it with one you know"
REFUSALS = (
    BadFile,
    BadCheckpoint,
    LedgerError,
    ProtocolError,
    RunDirectoryError,
    ConfigError,
    Infeasible,
    InfeasiblePlan,
)


class Mismatch(ValueError):
    """The first thing that is not as it should be."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"{check}: {reason}")
        self.check = check
        self.reason = reason


@dataclass(frozen=True)
class Trust:
    """What the auditor knows from elsewhere: keys, and checkpoints that clients kept. Each may be missing."""

    authority: bytes | None = None
    server: bytes | None = None
    witnessed: tuple[Path, ...] = ()


@dataclass
class Evidence:
    """What the checks so far have established, in the order in which they set it."""

    directory: RunDirectory
    trust: Trust
    held: ExitStack
    server: bytes = b""
    authority: bytes = b""
    opening: Opening | None = None
    config: Config | None = None
    rosters: list[Roster] = field(default_factory=list)
    planner: Planner | None = None
    adapter: AdapterFile | None = None
    ledger: Ledger | None = None
    history: History | None = None
    basis: Basis | None = None
    silent: tuple[int, ...] = ()  # clients of the newest roster that did not sign the run's end
    stated: form.Statement | None = None
    asserted: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # of every file that the manifest names
    summary: dict[str, Any] | None = None
    metrics: tuple[dict[str, Any], ...] = ()


def verify(directory: RunDirectory, trust: Trust) -> Iterator[tuple[str, str]]:
    """Yields (check, what it found) for each check that holds; raises Mismatch at the first that does not."""
    with ExitStack() as held:
        yield from steps(Evidence(directory, trust, held))


def steps(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """The same, for a caller that wants what was established."""
    for name, check in CHECKS:
        try:
            found = check(evidence)
        except REFUSALS as problem:
            raise Mismatch(name, str(problem)) from None
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ArithmeticError) as problem:
            raise Mismatch(name, f"cannot be checked: {_one_line(problem)}") from None
        except (RecursionError, MemoryError):
            raise Mismatch(name, "cannot be checked: it is nested too deep, or too large") from None
        yield name, found


def _one_line(problem: Exception) -> str:
    return ascii(str(problem)[:200])[1:-1]


def need(value: Any) -> Any:
    """What an earlier check established."""
    if value is None:
        raise BadFile("an earlier check did not establish it")
    return value


# -------------------------------------------------------------------------------------------------------- the checks


def _secrets(evidence: Evidence) -> str:
    """Regular files of a run only, and no secret key among them: whoever has it can sign what its owner signs."""
    root = evidence.directory.root
    for path in (each for each in sorted(root.rglob("*")) if each.is_file() and not each.is_symlink()):
        if identity_file.is_secret(path):
            raise BadFile(
                f"{path.relative_to(root)} holds a secret key: whoever was handed this directory can sign as its "
                "owner; the key lost its worth, so tell its owner"
            )
    return f"none in {len(files.listing(root))} regular files"


def _files(evidence: Evidence) -> str:
    """Every file is the one that the run left, by the server's signature."""
    evidence.server = evidence.trust.server or signed_file.signer_of(evidence.directory.manifest)
    evidence.digests = manifest.check(evidence.directory, evidence.server)
    return f"{len(evidence.digests)} files, signed by server {evidence.server.hex()} ({_known(evidence.trust.server)})"


def _rosters(evidence: Evidence) -> str:
    """The rosters are signed by the authority, which is not the server."""
    signed = files.read(evidence.directory.root, "roster.bin")
    evidence.authority = evidence.trust.authority or claimed_authority(signed)
    evidence.rosters = basis.read_rosters(evidence.directory, evidence.authority)
    newest = evidence.rosters[-1]
    if evidence.authority == evidence.server:
        raise BadFile("the authority's key is the server's")
    return f"version {newest.version}, {len(newest.members)} clients, authority {_known(evidence.trust.authority)}"


def _identity(evidence: Evidence) -> str:
    """The configuration is the one that the run's identity is a hash of."""
    evidence.opening, evidence.config = basis.read_opening(evidence.directory), basis.read_config(evidence.directory)
    if evidence.opening.server != evidence.server.hex():
        raise BadFile("opening.json names another server than the one that signed")
    run = opening.check(evidence.opening, evidence.config, evidence.rosters[0])
    evidence.adapter = adapter_file.read(evidence.directory.root)
    shape = evidence.adapter.shape(evidence.config.adapter)
    evidence.planner = Planner(evidence.config, evidence.rosters, shape, run)
    return f"run {run.hex()}"


def _ledger(evidence: Evidence) -> str:
    """Every entry follows from those before it."""
    planner: Planner = need(evidence.planner)
    if planner.first.claim is None:
        if evidence.directory.ledger.exists():
            evidence.held.enter_context(basis.opened_table(evidence.directory))
        return "none: a run without differential privacy charges nothing"
    evidence.ledger = evidence.held.enter_context(basis.opened_ledger(evidence.directory))
    evidence.history = basis.read_history(evidence.ledger, evidence.server)
    return f"{evidence.history.size} entries, root {evidence.history.root}"


def _plans(evidence: Evidence) -> str:
    """Every session's plan, cohort, quorum, noise and charge are those that configuration and rosters give."""
    planner: Planner = need(evidence.planner)
    if evidence.history is None:
        return "none: nobody signed for any"
    planner.check(evidence.history)
    return f"{sum(len(each.sessions) for each in evidence.history.rounds)} sessions as they had to be"


def _witnesses(evidence: Evidence) -> str:
    """Every note is of this ledger, signed by the server and by the derived quorum of enrolled clients."""
    adapter: AdapterFile = need(evidence.adapter)
    planner: Planner = need(evidence.planner)
    bare = Basis(need(evidence.opening), planner, evidence.history, (0, 0), evidence.authority, adapter.digest)
    evidence.basis = bare
    if evidence.ledger is None or evidence.history is None:
        return "none: there is no ledger to witness"
    texts = basis.read_notes(evidence.directory)
    covered = basis.check_notes(texts, evidence.ledger, evidence.history, bare)
    counts = (covered.notes, covered.fewest)
    evidence.basis = Basis(bare.opening, planner, evidence.history, counts, evidence.authority, adapter.digest)
    clients = (member.id for member in evidence.rosters[-1].members if member.id < planner.config.clients_total)
    evidence.silent = tuple(client for client in clients if client not in covered.last)
    end = f"all but {notes.named(evidence.silent)} signed" if evidence.silent else "everybody signed"
    return f"{covered.entries} entries signed for, by at least {covered.fewest} clients each time; {end} the end"


def _kept_elsewhere(evidence: Evidence) -> str:
    """Checkpoints that clients kept are of this very ledger."""
    if not evidence.trust.witnessed or evidence.ledger is None:
        return "none given"
    known: Basis = need(evidence.basis)
    priced = known.planner.priced(need(evidence.history))
    for path in evidence.trust.witnessed:
        text = files.read_kept(path)
        notes.check_receipt(
            text,
            path.name,
            evidence.ledger,
            basis.origin_of(known.opening),
            evidence.server,
            basis.client_keys(evidence.rosters),
            priced,
            {roster.version: roster for roster in evidence.rosters},
        )
    return f"{len(evidence.trust.witnessed)} of this ledger"


def _adapter(evidence: Evidence) -> str:
    """The adapter is the one that the ledger's last entry names, with everything in its folder."""
    adapter: AdapterFile = need(evidence.adapter)
    history = evidence.history
    if history is None:
        return f"{adapter.digest.hex()}: the server's word, nobody signed for it"
    if history.closing is None:
        raise BadFile("the ledger has no last entry: the run did not end, or its end was cut off")
    closing = history.closing
    if closing.adapter != adapter.digest.hex():
        raise BadFile("adapter/ is not the adapter that the run released")
    if closing.files != digests.of_folder(evidence.directory.adapter):
        raise BadFile("adapter/ holds other files than the run released")
    if closing.engine != opening.engine_digest(need(evidence.config)):
        raise BadFile("config.toml has another [engine] than the run ended with")
    if closing.rounds != len(history.finished):
        raise BadFile("the ledger's last entry counts other rounds than the ledger")
    return adapter.digest.hex()


def _statement(evidence: Evidence) -> str:
    """The statement is, as a whole, what follows; only its part `asserted` is the server's word."""
    content = signed_file.read(evidence.directory.statement, evidence.server)
    try:
        said = msgspec.convert(content, form.Statement)
    except msgspec.ValidationError as problem:
        raise BadFile(f"privacy_statement.json has not its published form: {problem}") from None
    word = said.asserted
    follows = statement.statement(need(evidence.basis), word.results, word.audits, word.unsigned)
    _same("privacy_statement.json", content, form.builtins(follows))
    evidence.stated = follows
    evidence.asserted |= {f"statement.{name}": value for name, value in form.builtins(follows)["asserted"].items()}
    if follows.claims is None:
        return f"{form.FORMAT}: no differential privacy is claimed"
    claim = follows.claims.server
    config: Config = need(evidence.config)
    allowed = max(config.privacy.epsilon or 0.0, claim.epsilon)  # a plan may need a little less of what was asked
    if claim.epsilon_spent > allowed * (1 + 1e-9):
        raise BadFile(f"epsilon {claim.epsilon_spent} was spent, {allowed} was allowed")
    return f"epsilon {claim.epsilon_spent:.4g} of {claim.epsilon:.4g} at delta {claim.delta:g}, unit {follows.unit}"


def _documents(evidence: Evidence) -> str:
    """Summary, metrics and registry record are, but for what the server asserts, what follows."""
    root, known, said = evidence.directory.root, need(evidence.basis), need(evidence.stated)
    data = files.read(root, "summary.json")
    written = json.loads(data)
    if run_directory.summary_form(written) != data:  # with a name twice, two readers would read two things
        raise BadFile("summary.json is not in its one byte form")
    word = {name: written[name] for name in summary.ASSERTED}
    _check_costs(word)
    counts = {name: written[name] for name in ("dropouts", "failed_sessions")}
    _same("summary.json", written, summary.derived(known, said.asserted.unsigned, counts) | word)
    if summary.results(written) != said.asserted.results:
        raise BadFile("summary.json has other results than the statement")
    evidence.asserted |= {f"summary.{name}": value for name, value in word.items()}
    evidence.summary = written
    _check_metrics(evidence, list(summary.metrics(known)))
    record = registry.dump(registry.build(form.builtins(said), need(evidence.config).deployment))
    if files.read(root, "deployment_registry.yaml") != record.encode():
        raise BadFile("deployment_registry.yaml is not the statement's record")
    return f"{said.run.rounds} rounds, {said.run.clients} clients"


def _check_metrics(evidence: Evidence, follow: list[dict[str, Any]]) -> None:
    name = "metrics.jsonl"
    present = evidence.directory.metrics.exists()
    text = files.read(evidence.directory.root, name).decode() if present else ""
    lines = [json.loads(line) for line in text.splitlines()]
    if "".join(map(run_directory.metrics_form, lines)) != text:
        raise BadFile(f"{name} is not in its one byte form")
    for number, line in enumerate(lines, 1):
        _check_line(f"{name}, line {number},", line)
    evidence.metrics = tuple(lines)
    if evidence.history is None:
        evidence.asserted |= {f"metrics.{number}": line for number, line in enumerate(lines, 1)}
        return
    if len(lines) != len(follow):
        raise BadFile(f"{name} has {len(lines)} rounds; the ledger has {len(follow)}")
    for number, (line, derived) in enumerate(zip(lines, follow, strict=True), 1):
        word = {key: line[key] for key in summary.MEASURED}
        _same(f"{name}, round {number},", line, derived | word)
        evidence.asserted |= {f"metrics.{number}.{key}": value for key, value in word.items()}


def _check_line(where: str, line: Any) -> None:
    """Names and types of a round's figures, whoever vouches for their values."""
    try:
        msgspec.convert(line, run_directory.RoundMetrics)
    except msgspec.ValidationError as problem:
        raise BadFile(f"{where} is no round of a run: {problem}") from None
    if line.keys() != {each.name for each in fields(run_directory.RoundMetrics)}:
        raise BadFile(f"{where} has other figures than a round of a run")


def _check_costs(word: Mapping[str, Any]) -> None:
    """Times and bytes of summary.json, which nothing is compared with, are at least amounts."""
    for name in set(word) - set(summary.RESULTS):
        if type(word[name]) not in (int, float) or not 0 <= word[name] < float("inf"):
            raise BadFile(f"summary.json says {name} = {_short(word[name])}; allowed are numbers from 0")


def _same(document: str, written: Any, follows: Any, place: str = "") -> None:
    """Returns if two documents are the same, types included; else BadFile naming the first place that differs."""
    if isinstance(written, dict) and isinstance(follows, dict):
        if written.keys() != follows.keys():
            odd = sorted(written.keys() ^ follows.keys())[0]
            raise BadFile(f"{document} has or lacks {(place + odd)[:200]!a}")
        for name, value in written.items():
            _same(document, value, follows[name], f"{place}{name}.")
    elif isinstance(written, list) and isinstance(follows, list | tuple):
        if len(written) != len(follows):
            raise BadFile(f"{document} has {len(written)} of {place.rstrip('.')}; what was signed gives {len(follows)}")
        for position, (one, other) in enumerate(zip(written, follows, strict=True)):
            _same(document, one, other, f"{place}{position}.")
    elif not hmac.compare_digest(_text(written), _text(follows)):
        raise BadFile(
            f"{document} says {place.rstrip('.')} = {_short(written)}; what was signed and configured gives "
            f"{_short(follows)}"
        )


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()


def _short(value: Any) -> str:
    return json.dumps(value)[:80]


def _known(key: bytes | None) -> str:
    return GIVEN if key else FROM_FILES


CHECKS: tuple[tuple[str, Callable[[Evidence], str]], ...] = (
    ("secrets", _secrets),
    ("files", _files),
    ("rosters", _rosters),
    ("identity", _identity),
    ("ledger", _ledger),
    ("plans", _plans),
    ("witnesses", _witnesses),
    ("checkpoints kept elsewhere", _kept_elsewhere),
    ("adapter", _adapter),
    ("statement", _statement),
    ("documents", _documents),
)
