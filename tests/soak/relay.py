"""A TCP relay between clients and server whose line can be cut: what a network does, in a thread."""

import asyncio
import threading
from contextlib import suppress

CHUNK = 1 << 16


class Relay:
    """Listens on `port`, and connects on to `onward`. While it is cut nothing passes and nobody gets in."""

    def __init__(self, onward):
        self._onward = onward
        self._loop = asyncio.new_event_loop()
        self._open = set()
        self._passes = True
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    def cut(self):
        """End all connections, and let nobody in."""
        self._loop.call_soon_threadsafe(self._cut)

    def mend(self):
        """Let everybody in again."""
        self._loop.call_soon_threadsafe(self._mend)

    def _mend(self):
        self._passes = True

    def _cut(self):
        self._passes = False
        for writer in list(self._open):
            writer.transport.abort()

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._welcome, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()

    async def _welcome(self, reader, writer):
        try:
            if not self._passes:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self._onward)
            self._open |= {writer, back}
            try:
                await asyncio.gather(_pipe(reader, back), _pipe(there, writer))
            finally:
                self._open -= {writer, back}
                back.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()


async def _pipe(reader, writer):
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
