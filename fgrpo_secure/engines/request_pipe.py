"""A worker's end of the pipe from its parent: requests as they come, and the end of the parent as soon as it comes."""

import os
import threading
from queue import SimpleQueue
from typing import IO

import msgspec

from fgrpo_secure.engines import messages as frames
from fgrpo_secure.engines.messages import Request


class Requests:
    """The parent's requests, read in a thread of their own: so the end of the parent is noticed while owners train.

    The pipe closes when the parent ends, killed or not. A worker that is answering then has nobody to answer to, and
    ends on the spot: it would keep its owners' stores locked for as long as it trains, and a resumed run out of them.
    Stores bear that as they bear any crash. A worker that has answered ends in order.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._arrived: SimpleQueue[Request | None] = SimpleQueue()
        self._answering = threading.Event()
        self._answering.set()  # it has yet to say that it is ready
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def next(self) -> Request | None:
        """The next request; None when the parent has closed the pipe."""
        return self._arrived.get()

    def answered(self) -> None:
        """Say so before the last word of an answer leaves: the parent may close the pipe as soon as it has that."""
        self._answering.clear()

    def _read(self, stream: IO[bytes]) -> None:
        try:
            while (request := frames.read_request(stream)) is not None:
                self._answering.set()
                self._arrived.put(request)
        except (ValueError, msgspec.MsgspecError):  # bytes that are no request: nothing more can be understood
            pass  # nor said aloud: a thread that is still writing when the process ends brings it down
        finally:
            if self._answering.is_set():
                os._exit(1)
            self._arrived.put(None)
