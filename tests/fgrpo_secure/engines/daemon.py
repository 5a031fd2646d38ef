"""A client's daemon for an owner of a trial: `daemon.py RUN_DIR CLIENT URL CERTIFICATE`. Light, as the real one is."""

import sqlite3
import sys
from pathlib import Path

from fgrpo_secure.engines.https import client_loop
from fgrpo_secure.engines.https.dialer import Place
from fgrpo_secure.engines.https.session_process import SessionProcess
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.identity import Identity


def main(root: str, client: str, url: str, certificate: str) -> int:
    import json

    directory = RunDirectory(Path(root))
    found = json.loads(directory.opening.read_text())
    store = sqlite3.connect(owners_folder.store(directory.owners, int(client)))
    (seed,) = store.execute("SELECT seed FROM identity WHERE owner = ?", (int(client),)).fetchone()
    store.close()
    place = Place(
        url,
        bytes.fromhex(found["server"]),
        bytes.fromhex(found["run"]),
        int(client),
        Identity.from_seed(seed),
        Path(certificate).read_text(),
    )
    session = SessionProcess("fgrpo_secure.engines.worker", [root, client, "5"])
    with client_loop.stoppable():
        client_loop.serve(place, session, directory.owners / f"daemon-{client}", client_loop.print_line, 1 << 30)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
