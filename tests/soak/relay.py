"""A TCP relay between clients and server whose line can be cut, far or narrow: what a network does, in a thread.

As a process of its own, on a host of its own: `python -m tests.soak.relay FOLDER`. It reads a JSON object with the
arguments of `Relay`, then words ("cut", "mend", "far", ...), one a line, and answers each with a line when it is done.
"""

import asyncio
import json
import sys
import threading
from contextlib import suppress

CHUNK = 1 << 14
ON_ITS_WAY = 64  # chunks that a line holds; then it takes no more


class Relay:
    """Listens on `port`, and connects on to `onward`. While it is cut nothing passes and nobody gets in.

    Bytes take `delay` seconds in each direction, and each connection carries `rate` bytes a second at most.
    """

    def __init__(self, onward, here="127.0.0.1", there="127.0.0.1", delay=0.0, rate=None):
        self._onward, self._here, self._there = onward, here, there
        self.delay, self.rate = delay, rate
        self._loop = asyncio.new_event_loop()
        self._open = set()
        self._passes = True
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    def cut(self):
        """End all connections, and let nobody in; returns how many there were, between both sides."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    def mend(self):
        """Let everybody in again."""
        self._loop.call_soon_threadsafe(self._mend)

    def _mend(self):
        self._passes = True

    async def _cut(self):
        self._passes = False
        were = len(self._open)
        for writer in list(self._open):
            writer.transport.abort()
        return were

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._welcome, self._here, 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()

    async def _welcome(self, reader, writer):
        try:
            if not self._passes:
                return
            there, back = await asyncio.open_connection(self._there, self._onward)
            self._open |= {writer, back}
            try:
                await asyncio.gather(self._pipe(reader, back), self._pipe(there, writer))
            finally:
                self._open -= {writer, back}
                back.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _pipe(self, reader, writer):
        """What comes, later: a line that is far away still holds much at a time."""
        line = asyncio.Queue(ON_ITS_WAY)
        arriving = asyncio.ensure_future(self._arrive(line, writer))
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await line.put((self._loop.time() + self.delay, data))
        await line.put(None)
        await arriving

    async def _arrive(self, line, writer):
        with suppress(OSError):
            while (sent := await line.get()) is not None:
                due, data = sent
                if (left := due - self._loop.time()) > 0:
                    await asyncio.sleep(left)
                writer.write(data)
                await writer.drain()
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
        writer.transport.abort()
        while line.full():  # whoever still puts into a line that ended
            line.get_nowait()


def main():
    """See the module."""
    relay = Relay(**json.loads(sys.stdin.readline()))
    said = relay.port
    while True:
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            return
        said = None
        match json.loads(line):
            case "cut":
                said = relay.cut()
            case "mend":
                relay.mend()
            case {"delay": delay, "rate": rate}:
                relay.delay, relay.rate = delay, rate


if __name__ == "__main__":
    main()
