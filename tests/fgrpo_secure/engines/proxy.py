"""The least that a reverse proxy does: it carries each connection to one of several places that is there."""

import asyncio
import threading
from contextlib import suppress
from itertools import count


class Proxy:
    """Listens on this machine in a thread of its own; TLS passes through it. `address` is where."""

    def __init__(self, places):
        self._places, self._turns = places, count()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._carry, "127.0.0.1", 0, backlog=256))
        self.address = self._server.sockets[0].getsockname()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.1))
        self._server.close()
        self._loop.close()

    async def _carry(self, reader, writer):
        turn = next(self._turns)
        for place in range(len(self._places)):
            with suppress(OSError):
                there = await asyncio.open_connection(*self._places[(turn + place) % len(self._places)])
                break
        else:
            writer.close()
            return
        await asyncio.gather(self._one_way(reader, there[1]), self._one_way(there[0], writer))

    async def _one_way(self, reader, writer):
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()
