"""What a run leaves behind, and where: configuration, metrics, summary, adapter, ledger, checkpoints.

Everything in it is public or charged: aggregates over a cohort, figures on the public evaluation set, public facts
about time and bytes. Private state of data owners lives beside it, in `<run>.owners/`, readable by its owner only; the
server's key and its working state in `<run>.server/`, readable by the server only. Only the run directory is handed on.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fgrpo_secure.errors import UnusableInput

UNFINISHED = ".writing-"  # begins the name of a file until it is whole


class RunDirectoryError(UnusableInput):
    """The run directory cannot be used for what was asked."""


@dataclass(frozen=True)
class RoundMetrics:
    """One line of metrics.jsonl. None: not measured in this round.

    `fraction_within` is that of clients which an adaptive clip norm did not cut; it, `mean_weight` and `mean_gain` come
    from the noisy sums that the ledger was charged for; `reward`, `pass_rate` and `pass_rate_greedy` from the public
    evaluation set. `seconds_server` is processor time of the server itself, clients' not included.
    """

    round: int
    session: int
    survivors: int
    dropped: int
    failed_sessions: int
    mean_weight: float
    mean_gain: float
    clip_norm: float
    fraction_within: float | None
    update_norm: float
    epsilon_spent: float | None
    bytes_up_per_client: int
    bytes_down_per_client: int
    seconds_server: float
    reward: float | None = None
    pass_rate: float | None = None
    pass_rate_greedy: float | None = None


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, and the few files it writes by itself.

    `shared_owners` is a folder of data owners that outlives the run; None: they live beside it.
    """

    root: Path
    shared_owners: Path | None = None

    def __post_init__(self) -> None:
        if self.root.name in ("", ".."):  # `.` and `..`: what lies beside a run is named after it
            object.__setattr__(self, "root", self.root.resolve())

    def with_owners(self, folder: str | None) -> "RunDirectory":
        """The same run with the data owners in `folder`, if it names one."""
        return self if folder is None else replace(self, shared_owners=Path(folder))

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    @property
    def private(self) -> Path:
        """What only the server may read: its key, and what it needs to go on. Never handed to anybody."""
        root = self.root.absolute()
        return root.with_name(root.name + ".server")

    @property
    def simulation(self) -> Path:
        """Beside the run: what only a simulation on one machine can know is no part of what a run hands over."""
        return self.root.absolute().with_name(self.root.absolute().name + ".simulation.json")

    @property
    def checkpoints(self) -> Path:
        return self.private / "checkpoints"

    @property
    def server_key(self) -> Path:
        return self.private / "server.key"

    @property
    def old_server_key(self) -> Path:
        """Where earlier versions left the key: in what was handed to auditors."""
        return self.root / "server.key"

    @property
    def authority(self) -> Path:
        """The public key of the rosters' authority, where clients have machines of their own."""
        return self.private / "authority.pub"

    @property
    def model(self) -> Path:
        """The digest of the base model, for invitations, so that it is loaded once."""
        return self.private / "model.digest"

    @property
    def drain(self) -> Path:
        """Whose presence ends the server after the open round."""
        return self.private / "drain"

    @property
    def status(self) -> Path:
        return self.private / "status.json"

    @property
    def pid(self) -> Path:
        return self.private / "daemon.pid"

    @property
    def asked(self) -> Path:
        return self.private / "asked"

    @property
    def workers(self) -> Path:
        """Whose presence says that workers conducted sessions: their database knows who was asked to pay."""
        return self.private / "workers"

    @property
    def failures(self) -> Path:
        return self.private / "failures.jsonl"

    @property
    def transcripts(self) -> Path:
        """Messages of sessions that somebody spoiled, for the authority and for their members: nobody else's to see."""
        return self.private / "transcripts"

    @property
    def sessions(self) -> Path:
        return self.private / "sessions"

    @property
    def opening(self) -> Path:
        return self.root / "opening.json"

    @property
    def roster(self) -> Path:
        return self.root / "roster.bin"

    @property
    def notes(self) -> Path:
        return self.root / "notes"

    @property
    def statement(self) -> Path:
        return self.root / "privacy_statement.json"

    @property
    def registry(self) -> Path:
        return self.root / "deployment_registry.yaml"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def audits(self) -> Path:
        return self.root / "audit.json"

    @property
    def attacks(self) -> Path:
        return self.root / "attacks.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    def past_roster(self, version: int) -> Path:
        """Where a roster is kept that a newer one replaced: what clients signed under it stays verifiable."""
        return self.root / "rosters" / f"{version:08d}.bin"

    @property
    def next_roster(self) -> Path:
        """Where a newer signed roster is put while the run goes on."""
        return self.root / "roster.next"

    @property
    def refused_roster(self) -> Path:
        return self.root / "roster.refused"

    @property
    def owners(self) -> Path:
        return self.shared_owners or self.root.with_name(self.root.name + ".owners")

    def create(self, config_text: str, authority: bytes | None = None) -> None:
        """Make the directory for a new run; refuses one that holds a run already, so that nothing is lost.

        `authority` is the public key of the rosters' authority where clients have machines of their own.
        """
        if self.config.exists():
            go_on = f"--resume {self.root}" if authority is None else f"fgrpo server start {self.root}"
            raise RunDirectoryError(
                f"{self.root} holds a run already; continue it with {go_on} or choose another --out"
            )
        if self.shared_owners is None and self.owners.exists() and any(self.owners.iterdir()):
            raise RunDirectoryError(
                f"{self.owners} holds the clients of an earlier run; move it away or choose another --out"
            )
        if self.server_key.exists():  # a key that signed for one run must not sign for another
            raise RunDirectoryError(
                f"{self.private} holds the server of an earlier run; move it away or choose another --out"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.private.mkdir(exist_ok=True, mode=0o700)
            self.check_private()
            if authority is None:
                self.owners.mkdir(parents=True, exist_ok=True, mode=0o700)
            else:
                write_durably(self.authority, f"{authority.hex()}\n".encode())
            with self.claimed():
                write_durably(self.config, config_text.encode())
        except OSError as problem:
            raise RunDirectoryError(
                f"{self.root} cannot hold a run: {problem.strerror}; choose another --out"
            ) from None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Nobody else conducts this run, or another one with the same owners, meanwhile; RunDirectoryError if so.

        The locks are the operating system's, on the folders themselves: they leave no file, and end with the
        process, however that ends.
        """
        taken = f"another process is conducting the run in {self.root}"
        if self.authority.exists():  # its owners are elsewhere
            with _locked(self.root, taken):
                yield
            return
        if not self.owners.is_dir():
            raise RunDirectoryError(f"{self.owners} does not hold the clients of this run: put the folder back")
        with (
            _locked(self.root, taken),
            _locked(self.owners, f"the data owners in {self.owners} are taking part in another run"),
        ):
            yield

    def drop_unfinished(self) -> None:
        """Remove what a killed process had begun to write: no part of a run, and its manifest lists every file.

        Only for whoever has claimed the run.
        """
        for path in self.root.rglob(f"{UNFINISHED}*"):
            path.unlink()

    def is_claimed(self) -> bool:
        """Whether somebody conducts this run now."""
        try:
            with _locked(self.root, ""):
                return False
        except RunDirectoryError:
            return True

    def check_private(self) -> None:
        """Refuse a server's private directory that is missing or that others can read."""
        if self.old_server_key.exists() or not self.private.is_dir():
            return  # said by whoever needs what is in it
        if self.private.stat().st_mode & 0o077:
            raise RunDirectoryError(
                f"{self.private} can be read by others; `chmod 700 {self.private}`, and begin anew if anybody did"
            )

    def require(self) -> None:
        """Refuse a directory that no run was started in."""
        if not self.config.is_file():
            raise RunDirectoryError(f"{self.root} holds no run: it has no config.toml")

    def append_metrics(self, record: RoundMetrics) -> None:
        """Add one round to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(metrics_form(asdict(record)))

    def append_missing(self, record: RoundMetrics | None) -> None:
        """Add a round to metrics.jsonl unless its line is there: a crash may have come between checkpoint and line."""
        known = {line["round"] for line in self.read_metrics()} if self.metrics.exists() else set()
        if record is not None and record.round not in known:
            self.append_metrics(record)

    def drop_metrics_after(self, rounds_done: int) -> None:
        """Forget rounds that a resumed run will repeat, and a last line cut short by a crash."""
        if not self.metrics.exists():
            return
        kept = [record for record in self.read_metrics() if record["round"] <= rounds_done]
        write_durably(self.metrics, "".join(map(metrics_form, kept)).encode())

    def read_metrics(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl, oldest first."""
        records = []
        for line in self.metrics.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json whole or not at all."""
        write_durably(self.summary, summary_form(summary))


def summary_form(summary: Mapping[str, Any]) -> bytes:
    """The one byte form of summary.json."""
    return (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode()


def metrics_form(line: Mapping[str, Any]) -> str:
    """The one form of a line of metrics.jsonl."""
    return json.dumps(line, allow_nan=False) + "\n"


@contextmanager
def _locked(folder: Path, taken: str) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirectoryError(f"{taken}; wait until it ends") from None
        yield
    finally:
        os.close(descriptor)


def check_database(path: Path, table: str) -> None:
    """Returns if `path` is a whole database with that table; RunDirectoryError if it is missing or damaged.

    It is opened to be written: only so can the library take back what a killed process left half written.
    """
    if not path.is_file():
        raise RunDirectoryError(f"{path} is missing; put it back, it would be made anew and empty")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            database.execute(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608  # a name of our own
    except sqlite3.Error:
        found = "damaged"
    if found != "ok":
        raise RunDirectoryError(f"{path} is damaged; put back an undamaged copy")


def settle(path: Path) -> None:
    """What was written to a file, or made and removed in a folder, outlasts a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that a crash leaves the old or the new content, never a part."""
    aside = path.with_name(f"{UNFINISHED}{path.name}")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
