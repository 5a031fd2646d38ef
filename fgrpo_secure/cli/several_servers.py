"""`fgrpo server start` as one process that does all, as worker I of N, or as the coordinator of N workers."""

import importlib.util
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fgrpo_secure.cli.progress import Progress
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.storage.run_directory import RunDirectory

if TYPE_CHECKING:  # they need the extra
    from fgrpo_secure.engines.workers.database import Database


@dataclass(frozen=True)
class Where:
    """Where a server listens, as its options say it."""

    listen: str
    pipe: str | None
    certificate: tuple[Path, Path] | None
    metrics: str | None
    client_ca: Path | None


def begin(directory: RunDirectory, where: Where, worker: str | None, database: Path | None, progress: Progress) -> None:
    """Listen, and conduct the run alone or as one of its workers."""
    from fgrpo_secure.engines.https import server_loop, unix_pipe

    at = server_loop.address(where.listen) if where.pipe is None else unix_pipe.path_of(where.pipe)
    shown = None if where.metrics is None else server_loop.address(where.metrics)
    if worker is not None:
        seat, found = seat_of(worker), _database(database, "--worker")
        from fgrpo_secure.engines.workers import working

        working.work(directory, found, seat, working.Place(at, where.certificate, shown, where.client_ca), progress.say)
        return
    if database is not None:
        raise ConfigError("--database is for several workers: give --worker I/N, or --workers N to coordinate them")
    from fgrpo_secure.run import training  # the model's libraries take seconds to import

    open_engine = server_loop.opener(at, where.certificate, progress.say, shown, where.client_ca)
    training.serve(directory, open_engine, progress)


def coordinate(directory: RunDirectory, workers: int, database: Path | None, progress: Progress) -> None:
    """Keep the books and the model of a run whose sessions workers conduct."""
    found = _database(database, "--workers")
    from fgrpo_secure.engines.workers.coordination import Coordination
    from fgrpo_secure.run import training

    with closing(Coordination(directory, found, workers, progress.say)) as coordination:
        training.serve(directory, coordination.open_engine, progress, coordination)


def refuse_place(worker: str | None, *options: object) -> None:
    """ConfigError for a coordinator that was told to listen."""
    if worker is not None:
        raise ConfigError("give --workers N to the one coordinator, or --worker I/N to each worker: not both")
    if any(option is not None for option in options):
        raise ConfigError(
            "--workers coordinates and listens nowhere: give --certificate, --key, --client-ca, --pipe and --metrics "
            "to the workers"
        )


def seat_of(text: str) -> tuple[int, int]:
    """I/N as (I, N); ConfigError for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text, re.ASCII)
    if found is None or int(found[1]) > int(found[2]):
        raise ConfigError(f"--worker {text!r} is no worker of so many; write I/N with I from 1 to N, like 1/2")
    return int(found[1]), int(found[2])


def _database(path: Path | None, option: str) -> "Database":
    if path is None:
        raise ConfigError(f"{option} needs --database FILE: a file with the connection string of PostgreSQL")
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError("several workers need the extra `postgres`: pip install 'fgrpo-secure[postgres]'")
    from fgrpo_secure.engines.workers.database import Address, Database

    return Database(Address.read(path))
