"""A pipe that does everything a network may: it drops, repeats, holds back, reorders, changes and invents, by a seed.

Standard library only: it runs as another user, who may not be able to read the project.
"""

import random
import threading
import time
from contextlib import suppress
from typing import ClassVar

import http_messages

SENTENCES = (b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 401 Unauthorized", b"HTTP/1.1 404 Not Found")
INVENTED = (*SENTENCES, b"HTTP/1.1 426 Upgrade Required", b"HTTP/1.1 425 Too Early", b"HTTP/1.1 999 ?", b"\x00garbage")
ACTIONS = ("drop", "lose", "repeat", "replay", "old", "invent", "change", "alter", "truncate", "hold")
FAULTS = 6  # then it only carries, so that a run under its hands ends


def attend(line, carry):
    """One request and one reply, and the connection is over: whoever waits for the rest of a reply hears that."""
    with suppress(OSError), line:
        if request := http_messages.read(line):
            line.sendall(carry(request))


class Hostile:
    """What it does with one client's requests; all clients' are in its memory."""

    heard: ClassVar[list[bytes]] = []  # requests of anybody
    said: ClassVar[list[bytes]] = []  # replies to anybody

    def __init__(self, server, seed, rate=0.5, faults=FAULTS):
        self._server, self._draw, self._rate, self._left = server, random.Random(seed), rate, faults
        self.did = []

    def __call__(self, request):
        self.heard.append(request)
        if self._left and self._draw.random() < self._rate:
            self._left -= 1
            self.did.append(self._draw.choice(ACTIONS))
            return getattr(self, f"_{self.did[-1]}")(request)
        return self._honest(request)

    def _honest(self, request):
        reply = http_messages.ask(self._server, request)
        self.said.append(reply)
        return reply

    def _in_the_background(self, request):
        threading.Thread(target=self._honest, args=(request,), daemon=True).start()

    def _drop(self, _):
        return b""

    def _lose(self, request):
        """The server heard it; its reply is lost."""
        self._in_the_background(request)
        return b""

    def _repeat(self, request):
        self._in_the_background(request)
        return self._honest(request)

    def _replay(self, request):
        """An old request of anybody again, before this one."""
        self._in_the_background(self._draw.choice(self.heard))
        return self._honest(request)

    def _old(self, _):
        """An old reply, to another request or to another client."""
        return self._draw.choice(self.said) if self.said else b""

    def _invent(self, _):
        body = self._draw.randbytes(self._draw.randrange(200))
        head = b"\r\ncontent-length: %d\r\nx-fgrpo-reply: 1.%s\r\n\r\n" % (len(body), b"00" * 64)
        return self._draw.choice(INVENTED) + head + body

    def _change(self, request):
        """The server hears something else."""
        reply = http_messages.ask(self._server, self._altered(request), 2.0)  # a longer body would never come
        self.said.append(reply)
        return reply

    def _alter(self, request):
        """The client hears something else."""
        return self._altered(self._honest(request))

    def _truncate(self, request):
        reply = self._honest(request)
        return reply[: self._draw.randrange(len(reply) + 1)]

    def _hold(self, request):
        time.sleep(self._draw.random())
        return self._honest(request)

    def _altered(self, message):
        if not message:
            return b""
        place = self._draw.randrange(len(message))
        return message[:place] + self._draw.randbytes(1) + message[place + 1 :]
