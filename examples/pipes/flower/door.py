"""A site's door: it listens for the owners' clients all the time, and hands their requests to whoever Flower sends.

    python door.py DOOR OWNERS_SOCKET...

A request that nobody fetches, or whose reply nobody brings, ends its connection after a while; the client tries again.
A reply that comes later is thrown away: each request has a name that is used once.
"""

import itertools
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from queue import Empty, SimpleQueue

import http_messages

GATHERS = 0.5  # seconds after the first request in which others may come along


class Door:
    """Requests that wait for a visitor, and owners' connections that wait for replies."""

    def __init__(self) -> None:
        self._names = itertools.count()
        self._requests: SimpleQueue[tuple[bytes, bytes]] = SimpleQueue()
        self._waiting: dict[bytes, SimpleQueue[bytes]] = {}

    def carry(self, request: bytes) -> bytes:
        """The reply to a request; empty if nobody brings one."""
        name, box = str(next(self._names)).encode(), SimpleQueue()
        self._waiting[name] = box
        self._requests.put((name, request))
        try:
            return box.get(timeout=http_messages.SILENCE)
        except Empty:
            return b""
        finally:
            del self._waiting[name]

    def attend(self, visitor: Connection, doors: int) -> None:
        """Take the replies that somebody brings, and give the requests that wait."""
        with suppress(OSError, EOFError, ValueError), visitor:
            stays = float(visitor.recv_bytes())
            while said := visitor.recv_bytes():
                name, _, reply = said.partition(b" ")
                if (box := self._waiting.get(name)) is not None:
                    box.put(reply)
            visitor.send_bytes(b"doors %d" % doors)
            for name, request in self._gathered(stays):
                visitor.send_bytes(name + b" " + request)
            visitor.send_bytes(b"")

    def _gathered(self, stays: float) -> list[tuple[bytes, bytes]]:
        found, until = [], time.monotonic() + stays
        with suppress(Empty):
            while (left := until - time.monotonic()) > 0:
                found.append(self._requests.get(timeout=left))
                until = min(until, time.monotonic() + GATHERS)
        return [(name, request) for name, request in found if name in self._waiting]


def main(own: str, *owners: str) -> None:
    """Serve for ever."""
    door = Door()
    for path in owners:
        threading.Thread(target=partial(http_messages.serve, path, door.carry), daemon=True).start()
    Path(own).unlink(missing_ok=True)
    with Listener(own, family="AF_UNIX") as listener:
        Path(own).chmod(0o600)  # for Flower's processes of this user alone
        while True:
            threading.Thread(target=door.attend, args=(listener.accept(), len(owners)), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
