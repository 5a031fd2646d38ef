"""What one client's share and mask steps spend their time on, part by part.

    python benchmarks/client_parts.py                        # the settings below
    python benchmarks/client_parts.py --n 50 --d 100000 --neighbours 12

Runs session.py's sessions and times the functions inside the two steps; each part's time is its own, without what it
calls of the other parts. Figures are medians over the clients of one session, in microseconds of the processor; the
clock itself costs about half a microsecond a call, which `rest` mostly bears. Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import ceil, log2
from typing import Any

import session

from protocols import client, drive, keys, labels, masks, merkle, params, ring, shares, upload, wire
from protocols.identity import Identity, verify_signature
from protocols.params import Adversary, Parameters
from protocols.wire import Step

SETTINGS = [
    (10, 100_000, 4), (10, 100_000, 9), (10, 1_000_000, 9), (50, 100_000, 12), (50, 100_000, 49),
    (100, 100_000, 14), (100, 100_000, 99), (100, 1_000_000, 14),
]  # fmt: skip
REST = "rest"
QUANTISED_BITS = 22


class Parts:
    """A stack of running parts: the clock is booked to the innermost."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._running: list[str] = []
        self._since = 0.0

    def inside(self, part: str, action: Callable[[], Any]) -> Any:
        """Runs `action` as a part."""
        self._book()
        self._running.append(part)
        self.calls[part] += 1
        try:
            return action()
        finally:
            self._book()
            self._running.pop()

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Replaces `owner.name` by itself plus the clock, wherever a client's step is running."""
        inner = owner.__dict__[name]
        if isinstance(inner, classmethod):
            setattr(owner, name, classmethod(self.timed(part, inner.__func__)))
        else:
            setattr(owner, name, self.timed(part, inner))

    def timed(self, part: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        """`inner`, booked as a part wherever a client's step is running."""

        def call(*args: Any) -> Any:
            return self.inside(part, lambda: inner(*args)) if self._running else inner(*args)

        return call

    def clear(self) -> None:
        """Forgets what was booked."""
        self.spent.clear()
        self.calls.clear()

    def _book(self) -> None:
        now = time.process_time()
        if self._running:
            self.spent[self._running[-1]] += now - self._since
        self._since = now


def watch_all(parts: Parts) -> None:
    """The parts of the two steps."""
    for owner, name, part in (
        (keys, "agree", "key agreement"),
        (shares, "split", "sharing secrets"),
        (keys.Seal, "between", "sealing and opening boxes"),
        (keys.Seal, "close", "sealing and opening boxes"),
        (keys.Seal, "open", "sealing and opening boxes"),
        (keys, "share_commitment", "sealing and opening boxes"),
        (labels, "derive", "deriving keys"),
        (merkle, "leaf_hash", "Merkle trees"),
        (merkle, "root", "Merkle trees"),
        (merkle, "root_from_path", "Merkle trees"),
        (masks.Keystreams, "__init__", "opening keystreams"),
        (masks.Keystreams, "add_to", "keystreams and adding"),
        (ring, "_pack_piece", "packing"),
        (ring, "pack_into", "reading values, fresh memory"),
        (upload.Outgoing, "__init__", "laying out the message"),
        (wire, "upload_digest", "hashing the upload"),
        (Identity, "sign", "signing"),
        (wire, "encode", "encoding"),
        (wire, "decode", "decoding"),
        (drive, "encode_state", "storing the state"),
        (drive, "decode_state", "storing the state"),
        (client, "Graph", "the graph"),
    ):
        parts.watch(owner, name, part)


class Link:
    """Hands the server's messages to clients of this process, and books the parts of two of their steps."""

    def __init__(self, federation: session.Federation, parts: Parts) -> None:
        self._parts = parts
        self._clients = {
            entry.id: (federation.driver(i), {"update": federation.values(i)})
            for i, entry in enumerate(federation.roster.members)
        }
        self.spent: defaultdict[str, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
        self.calls: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))

    def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterable[tuple[int, bytes]]:
        """See drive.Link."""
        for id_ in outgoing:
            yield id_, self._answer(id_, step, outgoing[id_])

    def _answer(self, id_: int, step: Step, message: bytes) -> bytes:
        driver, values = self._clients[id_]
        if step not in (Step.SHARE, Step.MASK):
            return driver.handle(step, message, lambda _: values)
        self._parts.clear()
        reply: bytes = self._parts.inside(REST, lambda: driver.handle(step, message, lambda _: values))
        for part, seconds in self._parts.spent.items():
            self.spent[part][id_] += 1e6 * seconds
            self.calls[part][id_] += self._parts.calls[part]
        return reply


def measure(parts: Parts, n: int, d: int, neighbours: int) -> dict[str, dict[str, float]]:
    """Median microseconds and calls of each part, over the clients of one session."""
    threshold = max(2, round((neighbours + 1) / 2))
    least = params.least_quorum(n, 1)
    given = Parameters(Adversary.HONEST_BUT_CURIOUS, n, 1, least, threshold, neighbours, n)
    verify = parts.timed("signature checks", verify_signature)
    federation = session.Federation(given, d, QUANTISED_BITS + ceil(log2(n)), verify)
    link = Link(federation, parts)
    drive.conduct(federation.server, federation.plan, federation.roster, link)
    ids = [entry.id for entry in federation.roster.members]
    return {
        part: {
            "us": statistics.median(link.spent[part][id_] for id_ in ids),
            "calls": statistics.median(link.calls[part][id_] for id_ in ids),
        }
        for part in tuple(link.spent)
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int)
    parser.add_argument("--d", type=int, default=100_000)
    parser.add_argument("--neighbours", type=int)
    options = parser.parse_args()
    settings = SETTINGS
    if options.n is not None:
        settings = [(options.n, options.d, options.n - 1 if options.neighbours is None else options.neighbours)]
    session.accept_any_graph()
    parts = Parts()
    watch_all(parts)
    results = {}
    for n, d, neighbours in settings:
        found = measure(parts, n, d, neighbours)
        results[f"n={n} d={d} k={neighbours}"] = found
        total = sum(part["us"] for part in found.values())
        sys.stdout.write(f"n={n} d={d} k={neighbours}: {total / 1000:.2f} ms\n")
        for name, part in sorted(found.items(), key=lambda item: -item[1]["us"]):
            sys.stdout.write(f"  {name:28} {part['us']:9.0f} us  {part['calls']:5.0f} calls\n")
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
