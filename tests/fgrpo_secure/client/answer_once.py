"""One process of test_answers_once.py beside it: answers requests out of a durable store, perhaps dies then.

python answer_once.py STORE REQUESTS ANSWERS WORD [die]   waits until the file STORE.go exists.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from fgrpo_secure.client.store import ClientStore
from protocols.drive import ClientDriver
from protocols.errors import ProtocolError
from protocols.wire import Step
from threat_model.world import build


def driver(made, client, store, word):
    """A driver over a durable store; `word` stands for this process's own randomness."""
    entropy = lambda size: hashlib.sha256(f"{word} {client}".encode()).digest()[:size]  # noqa: E731  # a callable is asked for
    return ClientDriver(made.member(client), store.sessions, entropy, lambda: made.context)


def answer(made, store, client, step, request, word):
    """What would be sent, in hex, or the name of the error that keeps it back."""
    try:
        reply = driver(made, client, store, word).handle(Step(step), request, lambda plan: made.values[client])
    except (ProtocolError, ValueError) as error:
        return type(error).__name__
    return reply.hex()


def main(path, requests, answers, word, *more):
    made, store = build(), ClientStore(Path(path))
    asked = json.loads(Path(requests).read_text())
    Path(f"{path}.{word}.ready").touch()
    while not Path(f"{path}.go").exists():
        time.sleep(0.001)
    got = {}
    for client, (step, request) in asked.items():
        got[client] = answer(made, store, int(client), step, bytes.fromhex(request), word)
        if more:
            os._exit(9)  # stored, and never sent
    Path(answers).write_text(json.dumps(got))


if __name__ == "__main__":
    main(*sys.argv[1:])
