"""NVIDIA FLARE on this machine in its POC mode: a server and three sites, each a service with mutual TLS.

Used by `../trial.py`. FLARE starts a process for the job at the server and at each site; those are the pipe.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ADMIN = "admin@nvidia.com"
SUBMITTING, TRIES = 120, 20  # seconds a try may take, and tries while the server starts


@contextmanager
def carry(carrier: Any, doors: dict[str, list[Path]], server: Path) -> Iterator[None]:
    """Start all of it, between the owners' sockets and the server's; `carrier` ends it."""
    folder = carrier.folder("flare")
    workspace = folder / "poc"

    def nvflare(*command: str | Path, **more: str) -> Any:
        return carrier.start(folder, "nvflare", *command, NVFLARE_POC_WORKSPACE=str(workspace), **more)

    _done(nvflare("poc", "prepare", "-c", *doors), folder)
    _done(nvflare("poc", "start", "-p", "server", "--no-wait", FGRPO_SERVER=str(server)), folder)
    for site, owners in doors.items():
        own = ":".join(str(path) for path in owners)
        _done(nvflare("poc", "start", "-p", site, "--no-wait", FGRPO_OWNERS=own), folder)
    (kit,) = workspace.glob(f"*/prod_00/{ADMIN}")
    for _ in range(TRIES):
        if nvflare("job", "submit", "-j", _job(folder), "--startup-kit", kit).wait(SUBMITTING) == 0:
            break
        time.sleep(3)
    yield


def _job(folder: Path) -> Path:
    """The job with its code, which FLARE sends to the sites."""
    job = folder / "job"
    if not job.exists():
        shutil.copytree(HERE / "job", job)
        (job / "app" / "custom").mkdir()
        for file in (HERE / "forwarder.py", HERE.parent / "http_messages.py"):
            shutil.copy(file, job / "app" / "custom")
    return job


def _done(process: Any, folder: Path) -> None:
    if process.wait(SUBMITTING):
        raise SystemExit(f"nvflare: {(folder / 'output.log').read_text()[-1500:]}")
