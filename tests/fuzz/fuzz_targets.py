"""Everything there is to fuzz."""

import fuzz_decoders
import fuzz_steps
from fuzz_world import Target


def targets() -> list[Target]:
    """Every decoder, every step of a client, every step of the server, and whole sessions."""
    steps = (*fuzz_steps.clients(), *fuzz_steps.servers(), *fuzz_steps.sessions())
    return [*fuzz_decoders.decoders(), *steps]
