"""What the hybrid option costs a client: seconds of processor time and bytes, per step, against a classical session.

    python benchmarks/post_quantum.py [--n 10 50 200] [--out benchmarks/results/post_quantum.json]

Runs whole sessions on the complete graph in one process, with vectors of one coordinate so that
keys are all that costs, and writes one object per size: means over clients, classical, hybrid, and their ratios.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fgrpo_secure.entropy import OsEntropy
from protocols import labels, params
from protocols.drive import ClientDriver, MemoryStore, conduct
from protocols.identity import Identity
from protocols.member import Limits, Member
from protocols.params import Adversary
from protocols.roster import Entry, Roster
from protocols.wire import HybridPlan, RoundPlan, Step

VALUES = {"update": np.zeros(1, np.int64)}


class Timed:
    """Calls every driver directly and counts the processor time of each step."""

    def __init__(self, drivers: Mapping[int, ClientDriver]) -> None:
        self.drivers = drivers
        self.seconds: Counter[Step] = Counter()

    def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """See Link."""
        for client in outgoing:
            message = outgoing[client]
            begun = time.process_time()
            answer = self.drivers[client].handle(step, message, lambda plan: VALUES)
            self.seconds[step] += time.process_time() - begun
            yield client, answer


def unverified(public: bytes, label: str, payload: bytes, signature: bytes) -> None:
    """Signatures cost the same in both kinds of session and would hide what differs."""


def session(n: int, kind: type[RoundPlan]) -> dict[str, float]:
    """Milliseconds and bytes of the mean client."""
    names = [hashlib.sha256(f"client {i}".encode()).digest() for i in range(n)]
    authority, server = Identity.from_seed(bytes(32)), Identity.from_seed(b"s" * 32)
    identities = [Identity.from_seed(name) for name in names]
    entries = tuple(Entry(i, f"client {i}", each.public) for i, each in enumerate(identities))
    roster = Roster(1, authority.public, entries)
    p = params.derive(Adversary.HONEST_BUT_CURIOUS, n, n, 0.05, 0.1)
    plan = kind(
        labels.VERSION, bytes(16), 1, roster.digest, 1, tuple(range(n)), (), b"{}", (("update", 1),), 20,
        p.adversary, p.colluders, p.quorum, p.threshold, p.floor, p.neighbours,
    )  # fmt: skip
    limits = Limits(p.adversary, 0.05, 0.1, n, p.floor, 0, 0, plan.run)
    drivers = {
        i: ClientDriver(
            Member(i, each, roster, server.public, limits, unverified), MemoryStore(), OsEntropy().bytes, dict
        )
        for i, each in enumerate(identities)
    }
    link = Timed(drivers)
    _, traffic = conduct(server, plan, roster, link, unverified)
    found = {f"{step.value}_ms": 1000 * link.seconds[step] / n for step in (Step.ANNOUNCE, Step.SHARE, Step.MASK)}
    up, down = sum(traffic.up.values()) / n, sum(traffic.down.values()) / n
    return {name: round(float(value), 2) for name, value in {**found, "up_bytes": up, "down_bytes": down}.items()}


def compare(n: int) -> dict[str, object]:
    """Both kinds of session, and the hybrid one's cost as a multiple of the classical one's."""
    classical, hybrid = session(n, RoundPlan), session(n, HybridPlan)
    ratios = {name: round(hybrid[name] / classical[name], 2) for name in classical}
    return {"n": n, "classical": classical, "hybrid": hybrid, "ratios": ratios}


def main() -> None:
    """Measures every size and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/post_quantum.json"))
    chosen = parser.parse_args()
    rows = []
    for n in chosen.n:
        rows.append(compare(n))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
    chosen.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
