"""Whom a failed step blames. Errors carry fields; no message holds a secret value.

Misuse of this package by its own caller is ValueError or TypeError, as everywhere in Python.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """A session, or one client's part in it, cannot go on."""


class FaultyClient(ProtocolError):
    """A client broke the protocol: its own signature, or its own link, shows it."""

    def __init__(self, client: int, reason: str) -> None:
        super().__init__(f"client {client} {reason}")
        self.client = client
        self.reason = reason


class FaultyServer(ProtocolError):
    """The server broke the protocol: an honest one never sends this."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the server {reason}")
        self.reason = reason


class FaultyClientOrServer(ProtocolError):
    """Either a client signed something else or the server shows something else: nobody is blamed."""

    def __init__(self, client: int, reason: str) -> None:
        super().__init__(f"client {client} or the server {reason}")
        self.client = client
        self.reason = reason


class Ignored(ProtocolError):
    """Bytes that came under a client's name count for nothing: it did not sign them for this step, or was not asked.

    Anybody on the way can send such bytes. Nobody is blamed, and a right answer of the client still counts.
    """

    def __init__(self, client: int, reason: str) -> None:
        super().__init__(f"ignored what came as client {client}'s: {reason}")
        self.client = client
        self.reason = reason


class TooFewClients(ProtocolError):
    """Not enough clients remain for `step`; the session ends and nothing was opened beyond it.

    `disputes` are (dealer, holder) of what did not open: one of the two is lying.
    """

    def __init__(
        self,
        step: str,
        have: int,
        need: int,
        blamed: dict[int, str] | None = None,
        disputes: tuple[tuple[int, int], ...] = (),
    ) -> None:
        super().__init__(f"step {step}: {have} clients remain, {need} are needed")
        self.step = step
        self.have = have
        self.need = need
        self.blamed = dict(blamed or {})
        self.disputes = disputes


class Refused(ProtocolError):
    """The plan or the roster is well-formed but the client's own policy does not allow it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadSignature(ProtocolError):
    """A signature does not verify under the given key, label and payload."""


class Malformed(ValueError):
    """Bytes that are not the one canonical form of the expected message. Callers turn it into blame."""
