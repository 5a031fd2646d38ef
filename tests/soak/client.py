"""A client of the soak as it really is: `daemon RUN CLIENT COUNT URL CERTIFICATE LEFT [PROXY]`. It starts this module
once more as the process of its sessions, which notes, durably, every vector before it can leave: that is what the soak
observes.
"""

import json
import os
import sys
from pathlib import Path

from fgrpo_secure.engines.https import client_loop
from fgrpo_secure.engines.https.dialer import Place
from fgrpo_secure.engines.https.session_process import SessionProcess
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.client_folder import LARGEST_ADAPTER
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.identity import Identity


def daemon(root, client, count, url, certificate, left, proxy=None):
    import sqlite3

    directory = RunDirectory(Path(root))
    found = json.loads(directory.opening.read_text())
    with sqlite3.connect(owners_folder.store(directory.owners, int(client))) as store:
        (seed,) = store.execute("SELECT seed FROM identity WHERE owner = ?", (int(client),)).fetchone()
    store.close()
    server, run, ca = bytes.fromhex(found["server"]), bytes.fromhex(found["run"]), Path(certificate).read_text()
    place = Place(url, server, run, int(client), Identity.from_seed(seed), ca, proxy)
    session = SessionProcess("tests.soak.client", ["session", left, root, client, count])
    folder = directory.owners / f"daemon-{client}"
    with client_loop.stoppable():
        client_loop.serve(place, session, folder, client_loop.print_line, LARGEST_ADAPTER)
    return 0


def session(left, root, client, count):
    import numpy as np

    from fgrpo_secure.client.participant import Participant
    from fgrpo_secure.engines import worker

    original = Participant._vectors

    def noted(participant, plan):
        vectors = original(participant, plan)
        with open(Path(left) / f"{plan.session_number}-{client}.npz", "wb") as file:
            np.savez(file, **vectors)
            file.flush()
            os.fsync(file.fileno())
        return vectors

    Participant._vectors = noted
    return worker.main([root, client, count])


if __name__ == "__main__":
    sys.exit({"daemon": daemon, "session": session}[sys.argv[1]](*sys.argv[2:]))
