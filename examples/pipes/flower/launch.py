"""Flower on this machine, as it would be started on five: a SuperLink with TLS, three SuperNodes, a door at each.

Used by `../trial.py`. Telemetry, the look for updates and installations by apps are off.
"""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from federation import certificates

HERE = Path(__file__).resolve().parent
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",  # seconds
}


@contextmanager
def carry(carrier: Any, doors: dict[str, list[Path]], server: Path) -> Iterator[None]:
    """Start all of it, between the owners' sockets and the server's; `carrier` ends it."""
    link = carrier.folder("superlink")
    certificates(link)
    for file in link.iterdir():
        shutil.chown(file, *_owner(link))
    port, *runtimes = _free(1 + len(doors))
    ca = link / "ca.pem"
    _start(
        carrier, link, "flower-superlink", "--host", "127.0.0.1", "--port", port, "--ssl-ca-certfile", ca,
        "--ssl-certfile", link / "tls.pem", "--ssl-keyfile", link / "tls.key",
        "--disable-runtime-dependency-installation",
    )  # fmt: skip
    for (site, owners), runtime in zip(doors.items(), runtimes, strict=True):
        folder = owners[0].parent
        door = folder / "door.sock"
        keeper = carrier.folder(f"{site}-door")
        _start(carrier, keeper, "python3", HERE / "door.py", door, *owners, PYTHONPATH=str(HERE.parent))
        _start(
            carrier, folder, "flower-supernode", "--superlink", f"127.0.0.1:{port}", "--root-certificates", ca,
            "--port", runtime, "--node-config", f'door="{door}"',
        )  # fmt: skip
    _submit(carrier, port, ca, server)
    yield


def _submit(carrier: Any, port: str, ca: Path, server: Path) -> None:
    """What whoever runs a Flower federation does: hand the app to the SuperLink."""
    folder = carrier.folder("operator")
    (folder / "app").mkdir()
    for file in (HERE / "pyproject.toml", HERE / "forwarder.py", HERE.parent / "http_messages.py"):
        shutil.copy(file, folder / "app")
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "trial"\n[superlink.trial]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{ca}"\n'
    )
    shutil.chown(folder / "config.toml", *_owner(folder))  # Flower may write to it
    carrier.wait_until_open(int(port))
    done = _start(carrier, folder, "flwr", "run", "app", "--run-config", f'server="{server}"')
    if done.wait(120):
        raise SystemExit(f"flwr run: {(folder / 'output.log').read_text()[-1500:]}")


def _start(carrier: Any, folder: Path, *command: str | Path, **more: str) -> Any:
    return carrier.start(folder, *command, FLWR_HOME=str(folder), **QUIET, **more)


def _owner(folder: Path) -> tuple[int, int]:
    return folder.stat().st_uid, folder.stat().st_gid


def _free(number: int) -> list[str]:
    """Ports that nobody listens on now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [str(each.getsockname()[1]) for each in held]
    for each in held:
        each.close()
    return ports
