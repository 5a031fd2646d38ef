"""From the files of a run to what its statement is computed from. The server reads them as an auditor does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.evidence import adapter_file, derived_plans, files, history
from fgrpo_secure.evidence.derived_plans import Planner
from fgrpo_secure.evidence.history import History
from fgrpo_secure.evidence.statement import Basis
from fgrpo_secure.ledger import note_file
from fgrpo_secure.ledger.note_file import Covered
from fgrpo_secure.ledger.store import Ledger, Ledgers
from fgrpo_secure.storage import opening, rosters
from fgrpo_secure.storage.opening import Opening
from fgrpo_secure.storage.run_directory import RunDirectory
from fgrpo_secure.storage.signed_file import BadFile
from protocols.roster import Roster

LEDGER_OWNER = "server"


def read_opening(directory: RunDirectory) -> Opening:
    """What the run began with. BadFile if that is none."""
    data = files.read(directory.root, "opening.json")
    try:
        found = opening.decode(data)
    except (ValueError, RecursionError):
        raise BadFile("opening.json says nothing that a run begins with") from None
    if opening.encode(found) != data:  # with a name twice, two readers would read two things
        raise BadFile("opening.json is not in its one byte form")
    return found


def read_config(directory: RunDirectory) -> Config:
    """The configuration as its text says it: paths are not looked up. BadFile unless it is in its one form."""
    text = files.read(directory.root, "config.toml")
    try:
        config = config_file.parse_text(text.decode(), "config.toml")
    except (UnicodeDecodeError, RecursionError):
        raise BadFile("config.toml is not a configuration") from None
    if config_file.dump(config).encode() != text:  # a comment that says something else than the value would be believed
        raise BadFile(
            "config.toml is not in the form in which this version writes it: it was edited, or the run was made by "
            "another version, which then verifies it"
        )
    return config


def read_rosters(directory: RunDirectory, authority: bytes) -> list[Roster]:
    """All rosters of the run, oldest first, by the authority's signature."""
    for name in files.listing(directory.root):
        if name.startswith("rosters/"):
            files.read(directory.root, name)
    files.read(directory.root, "roster.bin")
    return rosters.rosters(directory, authority)


@contextmanager
def opened_ledger(directory: RunDirectory) -> Iterator[Ledger]:
    """The server's ledger, to read."""
    files.listing(directory.root)  # no link, no pipe, within bounds
    _check_whole(directory)
    store = Ledgers.read(directory.ledger)
    try:
        yield store.existing(LEDGER_OWNER)
    finally:
        store.close()


def _check_whole(directory: RunDirectory) -> None:
    """The ledger's file is as long as it says: SQLite itself reads one that is cut inside its last page."""
    with directory.ledger.open("rb") as file:
        head = file.read(100)
    page = int.from_bytes(head[16:18], "big") or 1
    page = 65536 if page == 1 else page
    if directory.ledger.stat().st_size != page * int.from_bytes(head[28:32], "big"):
        raise BadFile("ledger.sqlite is cut short, or no ledger")


@contextmanager
def opened_table(directory: RunDirectory) -> Iterator[None]:
    """The ledger of a run that charges nothing: it must be empty. BadFile otherwise."""
    files.listing(directory.root)
    store = Ledgers.read(directory.ledger)
    try:
        if store.owners() or store.plans():
            raise BadFile("the ledger has entries, in a run without differential privacy")
        yield
    finally:
        store.close()


def read_history(ledger: Ledger, server: bytes) -> History:
    """What a ledger tells, after every row was derived again."""
    ledger.verify()
    return history.read(ledger.entries(), ledger.plans(), ledger.root().hex(), server)


def read_notes(directory: RunDirectory) -> dict[str, str]:
    """The text of every note by its name."""
    names = [name for name in files.listing(directory.root) if name.startswith("notes/")]
    try:
        return {name.removeprefix("notes/"): files.read(directory.root, name).decode() for name in names}
    except UnicodeDecodeError:
        raise BadFile("a note is not text") from None


def client_keys(rosters_of_run: list[Roster]) -> dict[int, list[bytes]]:
    """The keys of every client of any roster of the run."""
    keys: dict[int, list[bytes]] = {}
    for member in (member for roster in rosters_of_run for member in roster.members):
        keys.setdefault(member.id, []).append(member.public)
    return keys


def check_notes(texts: Mapping[str, str], ledger: Ledger, basis_history: History, facts: Basis) -> Covered:
    """What the clients' signatures cover. BadFile or BadCheckpoint at the first note that does not hold."""
    origin, server = origin_of(facts.opening), bytes.fromhex(facts.opening.server)
    settled = {found.end["position"]: found for found in basis_history.settled if found.end is not None}
    on_the_way = client_keys(facts.planner.rosters)
    at_the_end = {client: [key] for client, key in rosters.last_keys(facts.planner.rosters).items()}

    def is_end(size: int) -> bool:
        return basis_history.closing is not None and size == basis_history.size

    def keys(size: int) -> dict[int, list[bytes]]:
        return at_the_end if is_end(size) else on_the_way

    def rosters_seen(size: int) -> dict[int, Roster]:
        # Everybody is shown the newest one before it signs the end: whoever names an older one was not.
        every = facts.planner.rosters
        return {roster.version: roster for roster in (every[-1:] if is_end(size) else every)}

    def required(size: int, signed: frozenset[int]) -> dict[str, tuple[tuple[int, ...], int]]:
        if is_end(size):
            return facts.planner.possible(signed)
        before = [position for position in settled if position < size]
        return derived_plans.expected_signers(settled[max(before)]) if before else {}

    priced = facts.planner.priced(basis_history)
    return note_file.check(texts, ledger, origin, server, keys, required, priced, rosters_seen)


def origin_of(found: Opening) -> str:
    """The name under which the run's ledger is signed."""
    return f"fgrpo-secure/ledger/{found.server}/{found.run}"


def read(directory: RunDirectory, authority: bytes) -> Basis:
    """Everything of a run that ended, checked as far as it takes to compute from it."""
    began, config = read_opening(directory), read_config(directory)
    found = read_rosters(directory, authority)
    run = opening.check(began, config, found[0])
    adapter = adapter_file.read(directory.root)
    planner = Planner(config, found, adapter.shape(config.adapter), run)
    if config.privacy.unit == "none":
        return Basis(began, planner, None, (0, 0), authority, adapter.digest)
    with opened_ledger(directory) as ledger:
        told = read_history(ledger, bytes.fromhex(began.server))
        planner.check(told)
        bare = Basis(began, planner, told, (0, 0), authority, adapter.digest)
        covered = check_notes(read_notes(directory), ledger, told, bare)
    return Basis(began, planner, told, (covered.notes, covered.fewest), authority, adapter.digest)
