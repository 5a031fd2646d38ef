"""What a run leaves behind, and where: configuration, metrics, summary, adapter, ledger, checkpoints.

Everything in it is public or charged: aggregates over a cohort, figures on the public evaluation set, public facts
about time and bytes. Private state of data owners lives beside it, in `<run>.owners/`, readable by its owner only.
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


class RunDirectoryError(UnusableInput):
    """The run directory cannot be used for what was asked."""


@dataclass(frozen=True)
class RoundMetrics:
    """One line of metrics.jsonl. None: not measured in this round.

    `share_within` is that of clients which an adaptive clip norm did not cut; it, `mean_weight` and `mean_gain` come
    from the noisy sums that the ledger was charged for; `reward`, `pass_rate` and `pass_rate_greedy` from the public
    evaluation set.
    """

    round: int
    session: int
    survivors: int
    dropped: int
    failed_sessions: int
    mean_weight: float
    mean_gain: float
    clip_norm: float
    share_within: float | None
    update_norm: float
    epsilon_spent: float | None
    bytes_up_per_client: int
    bytes_down_per_client: int
    seconds: float
    seconds_training: float
    seconds_aggregation: float
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
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def server_key(self) -> Path:
        return self.root / "server.key"

    @property
    def sessions(self) -> Path:
        return self.root / "sessions"

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

    def create(self, config_text: str) -> None:
        """Make the directory for a new run; refuses one that holds a run already, so that nothing is lost."""
        if self.config.exists():
            raise RunDirectoryError(
                f"{self.root} holds a run already; continue it with --resume {self.root} or choose another --out"
            )
        if self.shared_owners is None and self.owners.exists():
            raise RunDirectoryError(
                f"{self.owners} holds the clients of an earlier run; move it away or choose another --out"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.owners.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        if not self.owners.is_dir():
            raise RunDirectoryError(f"{self.owners} does not hold the clients of this run: put the folder back")
        with (
            _locked(self.root, f"another process is conducting the run in {self.root}"),
            _locked(self.owners, f"the data owners in {self.owners} are taking part in another run"),
        ):
            yield

    def require(self) -> None:
        """Refuse a directory that no run was started in."""
        if not self.config.is_file():
            raise RunDirectoryError(f"{self.root} holds no run: it has no config.toml")

    def append_metrics(self, record: RoundMetrics) -> None:
        """Add one round to metrics.jsonl."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(asdict(record), allow_nan=False) + "\n")

    def drop_metrics_after(self, rounds_done: int) -> None:
        """Forget rounds that a resumed run will repeat, and a last line cut short by a crash."""
        if not self.metrics.exists():
            return
        kept = [record for record in self.read_metrics() if record["round"] <= rounds_done]
        write_durably(self.metrics, "".join(json.dumps(record) + "\n" for record in kept).encode())

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
        write_durably(self.summary, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())


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
    """Returns if `path` is a whole database with that table; RunDirectoryError if it is missing or damaged."""
    if not path.is_file():
        raise RunDirectoryError(f"{path} is missing; put it back, it would be made anew and empty")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            database.execute(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608  # a name of our own
    except sqlite3.Error:
        found = "damaged"
    if found != "ok":
        raise RunDirectoryError(f"{path} is damaged; put back an undamaged copy")


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that a crash leaves the old or the new content, never a part."""
    aside = path.with_name(f".writing-{path.name}")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
