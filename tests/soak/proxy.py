"""A proxy as organisations have them: CONNECT alone, and it cuts what is silent for too long. In a thread."""

import asyncio
import threading
from contextlib import suppress

CHUNK = 1 << 16


class Proxy:
    """Listens on `port` of this machine. `cut` counts the connections that were silent for `idle` seconds; the next
    `ending` ones end as soon as they are there, in the middle of TLS."""

    def __init__(self, idle):
        self._idle = idle
        self.opened = self.cut = self.ending = 0
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._welcome, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()

    async def _welcome(self, reader, writer):
        with suppress(OSError, asyncio.IncompleteReadError, ValueError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, where, _ = head.split(b" ", 2)
            host, _, port = where.decode().rpartition(":")
            if method == b"CONNECT":
                there, back = await asyncio.open_connection(host, int(port))
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                self.opened += 1
                if self.ending:
                    self.ending -= 1
                    back.transport.abort()
                    await reader.read(1)  # the first words of TLS
                    writer.close()
                    return
                await self._carry([(reader, back), (there, writer)])
        writer.transport.abort()

    async def _carry(self, ways):
        heard = [self._loop.time()]
        pipes = [asyncio.ensure_future(_pipe(reader, writer, heard, self._loop)) for reader, writer in ways]
        while not any(pipe.done() for pipe in pipes):
            left = heard[0] + self._idle - self._loop.time()
            if left <= 0:
                self.cut += 1
                break
            await asyncio.wait(pipes, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for pipe in pipes:
            pipe.cancel()
        for _, writer in ways:
            writer.transport.abort()


async def _pipe(reader, writer, heard, loop):
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            heard[0] = loop.time()
            writer.write(data)
            await writer.drain()
