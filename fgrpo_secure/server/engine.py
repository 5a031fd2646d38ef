"""The port through which the server reaches its clients: something that moves bytes between them, and nothing else.

    invite      here is the model and the roster of the session that begins
    exchange    one step: a message to each client, and the answers that came in time
    witness     here is the server's ledger: who signs it?
    recover     after a crash: who may have sent a masked vector in these sessions?

Ids, bytes and deadlines. No costs and no times of clients: an engine between organisations has no way to know them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from fgrpo_secure.ledger.witnessed import Witnessed


class Engine(Protocol):
    """See the module. `refusals` are the clients that said no to the plan of this session; a reason is for whoever may
    see it, and the server looks at none."""

    @property
    def refusals(self) -> dict[int, str]: ...

    def invite(self, number: int, adapter: bytes, roster: bytes) -> None:
        """Session `number` begins, from this model and under this roster, for all clients that are asked next."""
        ...

    def exchange(self, step: str, outgoing: Mapping[int, bytes], seconds: float) -> Iterator[tuple[int, bytes]]:
        """Deliver one step's messages and yield the answers as they come, for at most `seconds`.

        Who is silent is simply missing. An engine whose clients answer in the call itself needs no deadline.
        """
        ...

    def witness(
        self, session: bytes, exhibits: Mapping[int, bytes], seconds: float, holds: Callable[[Witnessed], bool]
    ) -> list[Witnessed]:
        """What the clients say to what they are shown of the server's ledger, by ascending client.

        An engine that kept what was said before a crash asks again whose line does not hold, or not any more.
        """
        ...

    def recover(self, sessions: list[bytes]) -> int:
        """After a crash, end `sessions`; how many clients may have sent a masked vector in one of them.

        A client that says nothing may have: silence counts as one that did.
        """
        ...

    def close(self) -> None:
        """No more is asked. Clients keep what they must."""
        ...
