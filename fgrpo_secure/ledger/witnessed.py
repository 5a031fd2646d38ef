"""What a client says to what it was shown of a server's ledger. By itself: whoever only carries it needs no ledger."""

import msgspec


class Witnessed(msgspec.Struct, tag="witnessed", array_like=True, frozen=True):
    """One owner's signature line on the checkpoint; None if it does not sign. `seen`: the size that it signed last."""

    client: int
    line: str | None
    seen: int
