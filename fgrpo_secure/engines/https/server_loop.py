"""How a server's run gets its engine: from its directory, where it listens, and its certificate."""

import json
from collections.abc import Callable
from pathlib import Path

from fgrpo_secure import entropy
from fgrpo_secure.config.schema import Config
from fgrpo_secure.engines.https.engine import HttpsEngine
from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.storage import opening, rosters
from fgrpo_secure.storage.run_directory import RunDirectory, write_durably


def opener(
    listen: tuple[str, int] | Path,
    certificate: tuple[Path, Path] | None,
    log: Callable[[str], None],
    metrics: tuple[str, int] | None = None,
    client_ca: Path | None = None,
) -> Callable[[RunDirectory, Config], HttpsEngine]:
    """What opens the engine of a run that a server conducts; `log` is told where it listens, and of refusals.

    `certificate` is (certificate, key); None with a pipe, whose socket's path `listen` is. `metrics` is where
    Prometheus may ask; None: nowhere. `client_ca` signed the certificates of all who may connect; None: nobody needs
    one.
    """

    def open_engine(directory: RunDirectory, config: Config) -> HttpsEngine:
        engine = HttpsEngine.open(
            directory.private / "https",
            rosters.server_identity(directory),
            bytes.fromhex(opening.read(directory).run),
            (rosters.pins(directory).authority, rosters.roster(directory)),
            listen,
            certificate,
            (config.training_deadline, config.federation.step_seconds),
            log,
            client_ca,
        )
        if metrics is not None:
            try:
                engine.show_metrics(metrics)
            except UnusableInput:
                engine.close()
                raise
        log(f"listens on {engine.place}")
        status = {"since": entropy.utc_now(), "listens": engine.place}
        write_durably(directory.status, json.dumps(status).encode(), mode=0o600)
        return engine

    return open_engine


def address(text: str) -> tuple[str, int]:
    """HOST:PORT as (host, port); UnusableInput for anything else."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UnusableInput(f"{text!r} is no place to listen; write HOST:PORT, like 0.0.0.0:443")
    return host.strip("[]"), int(port)
