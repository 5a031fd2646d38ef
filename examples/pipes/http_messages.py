"""What every pipe of these examples does at its two ends: whole HTTP messages, off a socket and onto one.

    owner's client --connects--> serve()  ...whatever carries bytes...  ask() --connects--> the server's socket

Nothing in a message is read but where it ends: it is signed, and whoever changes it makes a client wait. Nothing but
the standard library is needed, so that a framework can be handed this file alone.
"""

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LARGEST_HEAD = 64 << 10  # bytes; a body has at most 4 MiB
LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)
SILENCE = 170.0  # seconds; the owner's client waits 180 in all


def read(line: socket.socket) -> bytes:
    """The next message, head and body; empty if there is none, or not one that ends."""
    message = bytearray()
    while (end := message.find(b"\r\n\r\n")) < 0:
        more = line.recv(65_536)
        if not more or len(message) > LARGEST_HEAD:
            return b""
        message += more
    length = LENGTH.search(message, 0, end + 2)
    whole = end + 4 + (int(length[1]) if length else 0)
    while len(message) < whole:
        if not (more := line.recv(1 << 20)):
            return b""
        message += more
    return bytes(message)


def ask(server: str, request: bytes, seconds: float = SILENCE) -> bytes:
    """The reply of the server at this path to one request; empty if there is none."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(seconds)
        line.connect(server)
        line.sendall(request)
        return read(line)
    return b""


def serve(path: str, carry: Callable[[bytes], bytes], mode: int = 0o666) -> None:
    """Listen for the owner's client at `path`, for ever. What `carry` gives for a request is its reply; an empty one
    ends the connection, and the client tries again."""
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(path)
        Path(path).chmod(mode)
        listens.listen()  # from here on the kernel tells whoever connects that this process's user is at the other end
        while True:
            line, _ = listens.accept()
            threading.Thread(target=_attend, args=(line, carry), daemon=True).start()


def _attend(line: socket.socket, carry: Callable[[bytes], bytes]) -> None:
    with suppress(OSError), line:
        while (request := read(line)) and (reply := carry(request)):
            line.sendall(reply)
