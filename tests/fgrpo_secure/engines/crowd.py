"""Many owners of a trial as client processes that cost little: each process dials and answers, as the real one does.

    crowd.py host RUN_DIR INDEX COUNT SOCKET           the books, the model and the answers of every COUNTth owner
    crowd.py client RUN_DIR CLIENT URL CERTIFICATE SOCKET LOG

A client keeps no model of its own: its session is asked of the host's process. What leaves it is written to LOG, as an
observer of its bytes would: a line for each answer before it leaves, with what it was an answer to. What is learned
is a constant: tests with these are about who pays for what.
"""

import json
import selectors
import socket
import sys
import time
from pathlib import Path

from fgrpo_secure.engines import messages as frames


class AskedThere:
    """A session's process that is somebody else's: see `SessionProcess`."""

    running = True

    def __init__(self, path):
        self._path, self._stream = path, None

    def ask(self, request):
        from fgrpo_secure.engines.https.session_process import SessionEnded

        if self._stream is None:
            line = socket.socket(socket.AF_UNIX)
            line.connect(self._path)
            self._stream = line.makefile("rwb")
            line.close()
        frames.write(self._stream, request)
        replies = []
        while True:
            reply = frames.read_reply(self._stream)
            if reply is None:
                raise SessionEnded("the host is gone")
            if isinstance(reply, frames.Done):
                return replies
            replies.append(reply)

    def end(self):
        if self._stream is not None:
            self._stream.close()


def client(root, number, url, certificate, path, log):
    from fgrpo_secure.engines.https import client_loop
    from fgrpo_secure.engines.https.dialer import Dialer, Place
    from fgrpo_secure.storage.run_directory import RunDirectory
    from protocols.identity import Identity

    directory = RunDirectory(Path(root))
    found = json.loads(directory.opening.read_text())
    own = Identity.from_seed(bytes.fromhex(Path(f"{log}.seed").read_text()))
    place = Place(
        url,
        bytes.fromhex(found["server"]),
        bytes.fromhex(found["run"]),
        int(number),
        own,
        Path(certificate).read_text(),
    )
    asked, put = {}, Dialer.put

    def noted(dialer, id, answer, again=False):
        question = asked[id]
        if question.step == "mask":
            time.sleep(0.4 * (int(number) % 8))  # one after the other, so that something can happen in between
        line = {"kind": question.kind.value, "step": question.step, "asked": question.payload.hex(), "last": answer[-1]}
        with Path(log).open("a") as file:
            file.write(json.dumps(line) + "\n")  # before it leaves: what the network lost has left all the same
        put(dialer, id, answer, again)

    made = client_loop.Serving._made

    def remembered(serving, question):
        asked[question.id] = question
        return made(serving, question)

    Dialer.put, client_loop.Serving._made = noted, remembered
    folder = Path(f"{log}.folder")
    with client_loop.stoppable():
        client_loop.serve(place, AskedThere(path), folder, client_loop.print_line, 1 << 30)


def host(root, index, count, path):
    import numpy as np
    import torch

    from fgrpo_secure.client import round as client_round
    from fgrpo_secure.config import files as config_file
    from fgrpo_secure.engines.host import Host
    from fgrpo_secure.gain import Observation
    from fgrpo_secure.privacy.clip import Update
    from fgrpo_secure.storage.run_directory import RunDirectory

    def learn(adapted, owner, settings):
        return client_round.Learned(Update(np.ones(adapted.dimension(settings.training_round))), Observation(0.5, 0.1))

    client_round.learn = learn
    torch.set_num_threads(1)
    directory = RunDirectory(Path(root))
    opened = Host.open(directory, config_file.load(str(directory.config)), int(index), int(count))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(128)
    waiting = selectors.DefaultSelector()  # one thread: books are for the one that opened them
    waiting.register(listening, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listening:
                connection, _ = listening.accept()
                waiting.register(connection, selectors.EVENT_READ, connection.makefile("rwb"))
                continue
            request = frames.read_request(key.data)
            if request is None:
                waiting.unregister(key.fileobj)
                key.data.close()
                key.fileobj.close()
                continue
            replies = [] if isinstance(request, frames.Over) else opened.handle(request)
            for reply in (*replies, frames.Done()):
                frames.write(key.data, reply)


if __name__ == "__main__":
    {"host": host, "client": client}[sys.argv[1]](*sys.argv[2:])
