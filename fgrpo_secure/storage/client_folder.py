"""The folder of one data owner on a machine of its own: everything of this owner, and nothing of anybody else.

    DIR/                    0700; refused if others can read it
        client.identity     the secret key, until the first run is joined; then it lies in the books
        next.identity       the secret key that follows, until a roster names it
        client-policy.toml  what the owner insists on            both are the owner's to edit,
        client.toml         what it trains on, and with what     and read at every start
        client.log          what happened here, and why: for nobody else
        tensorboard/        its own rounds, where it asked for them in that form
        books/              sessions, identity and budget ledger
        runs/RUN/           what was joined: the invitation that the owner agreed to
        spool/              messages on their way, and when the present session began

Read here without configuration or numbers, so that an idle client stays small.
"""

import fcntl
import os
import re
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fgrpo_secure.config import anchors
from fgrpo_secure.errors import UnusableInput, printable
from fgrpo_secure.storage import identity_file, invitation
from fgrpo_secure.storage.invitation import RUN, Invitation
from fgrpo_secure.storage.kept import Kept, below, code_of, imported
from fgrpo_secure.storage.owners_folder import LEDGERS, STATE

IDENTITY = "client.identity"
PRIVATE_MODE = 0o700
LONGEST_LINE = 2000  # characters of a line in the owner's log, some of which others chose
LARGEST_ADAPTER = 1 << 31  # bytes, where nothing says how large it is


class ClientFolderError(UnusableInput):
    """The folder cannot be used for what was asked; the sentence says why."""


@dataclass(frozen=True)
class ClientFolder:
    """Paths in an owner's folder, and the few facts that are read from it directly."""

    root: Path

    @staticmethod
    def make(root: Path) -> "ClientFolder":
        """A new, empty folder that only this user can read. ClientFolderError if something is there already."""
        try:
            root.mkdir(parents=True, mode=PRIVATE_MODE)
            root.chmod(PRIVATE_MODE)
        except FileExistsError:
            raise ClientFolderError(f"{root} exists; an owner's folder is made anew, choose another name") from None
        except OSError as problem:
            raise ClientFolderError(f"{root} cannot be made: {problem.strerror}") from None
        return ClientFolder(root)

    @staticmethod
    def open(root: Path) -> "ClientFolder":
        """The folder, if it is an owner's and nobody else can read it; else ClientFolderError."""
        folder = ClientFolder(root)
        if not folder.is_one:
            raise ClientFolderError(f"{root} is no owner's folder; `fgrpo client new {root}` makes one")
        state = root.stat()
        if state.st_uid != os.geteuid():
            raise ClientFolderError(f"{root} belongs to another user; run the client as the one that it belongs to")
        if state.st_mode & 0o077:
            raise ClientFolderError(f"{root} can be read by others; `chmod 700 {root}`, and change keys if anybody did")
        return folder

    @property
    def is_one(self) -> bool:
        """Whether an owner's folder was made here."""
        return self.identity.is_file() or self.state.is_file()

    @property
    def identity(self) -> Path:
        return self.root / IDENTITY

    @property
    def next_identity(self) -> Path:
        return self.root / "next.identity"

    @property
    def policy(self) -> Path:
        return self.root / "client-policy.toml"

    @property
    def own_file(self) -> Path:
        return self.root / "client.toml"

    @property
    def log(self) -> Path:
        return self.root / "client.log"

    @property
    def rounds(self) -> Path:
        """What the owner sees of its own rounds; `client.own_view` writes it."""
        return self.root / "client.rounds.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def state(self) -> Path:
        return self.root / "books" / STATE

    @property
    def ledgers(self) -> Path:
        return self.root / "books" / LEDGERS

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def pid(self) -> Path:
        return self.root / "daemon.pid"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def spool(self) -> Path:
        """A folder for messages on their way, made when it is first asked for."""
        path = self.root / "spool"
        path.mkdir(exist_ok=True, mode=PRIVATE_MODE)
        return path

    @property
    def name(self) -> str:
        """The owner's name, as it was enrolled."""
        return str(self._own().get("name", ""))

    @property
    def proxy(self) -> str | None:
        """The proxy that the owner's machine needs, from client.toml; None: none."""
        return self._network().get("proxy")

    @property
    def certificate(self) -> tuple[Path, Path] | None:
        """The client certificate and its key that the owner names for the network; None: none."""
        named = [self._network().get(key) for key in ("certificate", "key")]
        if named == [None, None]:
            return None
        if None in named:
            raise ClientFolderError(f"{self.own_file}: network.certificate and network.key are named together")
        certificate, key = (self.root / str(each) for each in named)  # an absolute path stays as it is
        return certificate, key

    def kept(self) -> Kept:
        """The folder with its books, keys and data, wherever links lead, and the code that the client runs.

        Raises UnusableInput if client.toml cannot be read, or names more than can be looked at.
        """
        table = self._own().get("data", {})
        data = table if isinstance(table, dict) else {}
        anchors.anchor_own(data, self.own_file)  # as `config.own_file.load` does
        named = (data.get("reward"), data.get("trainer"))
        functions = [spec for each in named for spec in (each if isinstance(each, list) else [each])]
        files = (self.identity, self.next_identity, self.policy, self.own_file, self.log, self.rounds, self.pid)
        folders = [self.tensorboard, self.state.parent, self.runs, self.root / "spool"]
        folders += [Path(str(data["data"]))] if "data" in data else []
        secrets = (*files, self.status, self.state, self.ledgers, *(file for each in folders for file in below(each)))
        code = (file for spec in functions if isinstance(spec, str) for file in code_of(spec))
        return Kept((self.root, *secrets), (*code, *imported()))

    def pinned(self) -> tuple[str, ...]:
        """The identities (hex) of the runs that were joined."""
        if not self.runs.is_dir():
            return ()
        named = (entry.name for entry in self.runs.iterdir() if re.fullmatch(RUN, entry.name))
        return tuple(sorted(name for name in named if self.invitation_path(name).is_file()))

    def invitation_path(self, run: str) -> Path:
        """Where the invitation to a run is kept once it was agreed to."""
        return self.runs / run / "invitation.json"

    def adapter_bytes_path(self, run: str) -> Path:
        """Where the size of a run's adapter is kept, as this client computed it when it joined."""
        return self.runs / run / "adapter.bytes"

    def adapter_bytes(self, run: str) -> int:
        """The most bytes that a run's adapter may have."""
        try:
            return int(self.adapter_bytes_path(run).read_text("ascii"))
        except (OSError, ValueError):
            return LARGEST_ADAPTER

    def invitation(self, run: str) -> Invitation:
        """What was agreed to. ClientFolderError if that run was never joined."""
        if run not in self.pinned():
            raise ClientFolderError(f"{self.root} has not joined run {run[:40]!r}; `fgrpo client join` does")
        return invitation.read(self.invitation_path(run))

    def choose(self, run: str | None) -> str:
        """The run that is meant: the one given, by its first digits, or the only one. ClientFolderError otherwise."""
        pinned = self.pinned()
        if not pinned:
            raise ClientFolderError(f"{self.root} has joined no run; `fgrpo client join {self.root} INVITATION` does")
        found = [each for each in pinned if each.startswith(run or "")]
        if len(found) != 1:
            named = ", ".join(each[:8] for each in pinned)
            raise ClientFolderError(f"{self.root} has joined {len(pinned)} runs; choose one with --run: {named}")
        return found[0]

    def enrolled(self) -> tuple[int, bytes] | None:
        """(id on the roster, secret identity seed) as the books have it; None before the first run was joined."""
        if not self.state.is_file():
            return None
        try:
            with closing(sqlite3.connect(f"{self.state.resolve().as_uri()}?mode=rw", uri=True, timeout=30)) as database:
                row = database.execute("SELECT owner, seed FROM identity").fetchone()
        except sqlite3.Error:
            raise ClientFolderError(f"{self.state} is damaged; put back an undamaged copy") from None
        return None if row is None else (int(row[0]), bytes(row[1]))

    def seed(self) -> bytes:
        """The owner's present secret identity seed."""
        enrolled = self.enrolled()
        return identity_file.read_seed(self.identity) if enrolled is None else enrolled[1]

    def next_seed(self) -> bytes | None:
        """The secret identity seed that follows, if the owner put one there: a newer roster may know no other."""
        return identity_file.read_seed(self.next_identity) if self.next_identity.is_file() else None

    def client_id(self, run: str) -> int:
        """The owner's id on the roster of a run that it joined."""
        self.invitation(run)
        enrolled = self.enrolled()
        if enrolled is None:
            raise ClientFolderError(f"{self.state} holds no identity; put the owner's books back")
        return enrolled[0]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Nobody else acts for this owner meanwhile; ClientFolderError if somebody does.

        The lock is the operating system's, on the folder itself: it leaves no file and ends with the process.
        """
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ClientFolderError(
                    f"another process acts for the owner in {self.root}; `fgrpo client stop {self.root}` ends a client"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def is_claimed(self) -> bool:
        """Whether somebody acts for this owner now."""
        try:
            with self.claimed():
                return False
        except ClientFolderError:
            return True

    def write_log(self, line: str) -> None:
        """Add one line to the log that only the owner reads; what cannot be printed stands there escaped."""
        with suppress(OSError), open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
            file.write(printable(line[:LONGEST_LINE]) + "\n")

    def _network(self) -> dict[str, str]:
        network = self._own().get("network", {})
        return {key: str(value) for key, value in network.items()} if isinstance(network, dict) else {}

    def _own(self) -> dict[str, object]:
        try:
            return tomllib.loads(self.own_file.read_text("utf-8"))
        except OSError as problem:
            raise ClientFolderError(f"{self.own_file} cannot be read: {problem.strerror}") from None
        except ValueError as problem:
            raise ClientFolderError(f"{self.own_file} is not valid TOML: {problem}") from None
