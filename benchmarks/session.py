"""One session of this protocol in memory: real clients, real server, real bytes, no network and no training.

    python benchmarks/session.py --n 50 --d 1000000 --neighbours 49 --threshold 25 --bits 28 --drop 0.2

Prints one JSON object with the fields of `peers/flower.py`, where both have them, and

    client_masking_s      of client_mask_s: from integers to packed masked bytes, with key agreements and derivations
    limit_s               what no client can beat on one core: the raw AES-256-CTR keystream of as many masks, into a
                          buffer that stays in the cache, plus adding it to lanes that stay there too
    client_agree_s, server_agree_s   signing one list of survivors, which the peer does not do
    counts                per client: signature checks, key agreements, masks, sealed leaves

Thresholds are the caller's: a graph that our own rule would refuse for so few clients can be measured (`--neighbours`),
because clients then do not compare the offer with their own bounds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from protocols import client, keys, labels, masks, member, params, ring
from protocols.drive import ClientDriver, MemoryStore, Traffic, conduct
from protocols.identity import Identity, Verify, verify_signature
from protocols.member import Limits, Member
from protocols.params import Adversary, Parameters
from protocols.roster import Entry, Roster
from protocols.server import Recovered
from protocols.wire import RoundPlan, Step

MIB = 2**20
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
PEERS_NAMES = {Step.ANNOUNCE: "setup", Step.SHARE: "share_keys", Step.MASK: "collect_masked_vectors"}
SHORT = {Step.ANNOUNCE: "setup"}
QUANTUM = 2**21  # the peer rounds to integers of this size and sign


class LeanStore(MemoryStore):
    """Keeps states but no replies: on one machine, those of all clients would hide what the server needs."""

    def put(
        self, identity: bytes, session: bytes, step: Step, request_digest: bytes, state: bytes, reply: bytes
    ) -> None:
        """See Store."""
        super().put(identity, session, step, request_digest, state, reply[:0])


@dataclass
class Federation:
    """Enrolled clients, a server and a plan, all made from `seed`: for measurements, not private."""

    parameters: Parameters
    length: int
    bits: int
    verify: Verify = verify_signature
    seed: int = 0

    @cached_property
    def identities(self) -> list[Identity]:
        """One per client; client i has id 3 i + 1."""
        return [Identity.from_seed(self.bytes("client", i)) for i in range(self.parameters.cohort)]

    @cached_property
    def server(self) -> Identity:
        """The server's."""
        return Identity.from_seed(self.bytes("server"))

    @cached_property
    def roster(self) -> Roster:
        """Everybody, under an authority of their own."""
        entries = [Entry(3 * i + 1, f"client {i}", own.public) for i, own in enumerate(self.identities)]
        return Roster(1, Identity.from_seed(self.bytes("authority")).public, tuple(entries))

    @cached_property
    def plan(self) -> RoundPlan:
        """One vector for everybody."""
        p = self.parameters
        return RoundPlan(
            version=labels.VERSION,
            run=bytes(16),
            session_number=1,
            roster_digest=self.roster.digest,
            roster_version=1,
            cohort=tuple(entry.id for entry in self.roster.members),
            context=(),
            settings=b"",
            vectors=(("update", self.length),),
            ring_bits=self.bits,
            adversary=p.adversary,
            colluders=p.colluders,
            quorum=p.quorum,
            threshold=p.threshold,
            floor=p.floor,
            neighbours=p.neighbours,
        )

    def bytes(self, *names: object) -> bytes:
        """32 bytes that these names give."""
        return hashlib.sha256(repr((self.seed, *names)).encode()).digest()

    def member(self, index: int) -> Member:
        """Client `index`, which accepts these parameters."""
        p = self.parameters
        limits = Limits(
            p.adversary, 0.0, 1 - p.floor / p.cohort + 1e-9, 3, 2, last_session=0, today=0, run=self.plan.run
        )
        id_ = self.roster.members[index].id
        return Member(id_, self.identities[index], self.roster, self.server.public, limits, self.verify)

    def driver(self, index: int) -> ClientDriver:
        """Client `index` as its machine runs it."""
        draws = iter(range(10))
        entropy = lambda count: self.bytes("entropy", index, next(draws))[:count]  # noqa: E731
        return ClientDriver(self.member(index), LeanStore(), entropy, dict)

    def values(self, index: int) -> NDArray[np.int64]:
        """What client `index` contributes: integers as the peer quantises them."""
        return np.random.default_rng(index).integers(-QUANTUM, QUANTUM + 1, self.length)


class Tally:
    """Counts and times calls inside the protocol, while `on`: the meter turns it on for clients alone."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.on = False
        self._clock = clock
        self.watch(keys, "agree", "key agreements", lambda *_: 1)
        self.watch(keys.Seal, "close", "sealed shares", lambda *_: 1)
        self.watch(client, "_mask_into", "masking", lambda *_: 1)
        self.watch(masks.Keystreams, "__init__", "masks", lambda _, signed_keys: len(signed_keys))

    def watch(self, owner: Any, name: str, label: str, size: Callable[..., int]) -> None:
        """Replaces `owner.name` by itself plus a measurement; `size` says how many things one call does."""
        inner = getattr(owner, name)

        def timed(*args: Any) -> Any:
            if not self.on:
                return inner(*args)
            self.counts[label] += size(*args)
            started = self._clock()
            try:
                return inner(*args)
            finally:
                self.seconds[label].append(self._clock() - started)

        setattr(owner, name, timed)

    def counting(self, verify: Verify) -> Verify:
        """`verify`, with every signature check of a client counted."""

        def counted(public: bytes, label: str, payload: bytes, signature: bytes) -> None:
            self.counts["signature checks"] += self.on
            verify(public, label, payload, signature)

        return counted


@dataclass
class Meter:
    """A link to clients of this process that takes the time, and the memory, on both sides."""

    federation: Federation
    lost: frozenset[int]
    tally: Tally
    clock: Callable[[], float]
    trace: bool = False
    client: defaultdict[Step, list[float]] = field(default_factory=lambda: defaultdict(list))
    server: dict[Step, float] = field(default_factory=dict)
    mask_peak: int | None = None
    server_peak: int = 0

    def __post_init__(self) -> None:
        members = self.federation.roster.members
        self._drivers = {entry.id: self.federation.driver(i) for i, entry in enumerate(members)}
        self._places = {entry.id: i for i, entry in enumerate(members)}
        self._inside = 0.0
        self._since = self.clock()

    def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterable[tuple[int, bytes]]:
        """Asks one client after the other; lost ones do not answer from the mask step on."""
        for id_ in outgoing:
            if step is Step.MASK and self._places[id_] in self.lost:
                continue
            message = outgoing[id_]
            self._note_server_peak()
            yield id_, self._answer(id_, step, message)

    def step_ended(self, step: Step, _asked: int, _answered: int) -> None:
        """Books the server's time since the step before; closing a step counts with the next one."""
        now = self.clock()
        self.server[step] = self.server.get(step, 0.0) + now - self._since - self._inside
        self._since, self._inside = now, 0.0

    def _answer(self, id_: int, step: Step, message: bytes) -> bytes:
        watched = self.trace and step is Step.MASK and self.mask_peak is None
        before = tracemalloc.get_traced_memory()[0] if watched else 0
        if watched:
            tracemalloc.reset_peak()
        making = 0.0

        def contribute(_: RoundPlan) -> Mapping[str, NDArray[np.int64]]:
            nonlocal making
            begun = self.clock()
            made = {"update": self.federation.values(self._places[id_])}
            making = self.clock() - begun
            return made

        started = self.clock()
        self.tally.on = True
        reply = self._drivers[id_].handle(step, message, contribute)
        self.tally.on = False
        spent = self.clock() - started
        self.client[step].append(spent - making)
        self._inside += spent
        if watched:
            self.mask_peak = tracemalloc.get_traced_memory()[1] - before
        if self.trace:
            tracemalloc.reset_peak()
        return reply

    def _note_server_peak(self) -> None:
        if self.trace:
            self.server_peak = max(self.server_peak, tracemalloc.get_traced_memory()[1])

    def conduct(self) -> tuple[Recovered, Traffic]:
        """The whole session."""
        f = self.federation
        recovered, traffic = conduct(f.server, f.plan, f.roster, self, f.verify, self.step_ended)
        self.step_ended(Step.UNMASK, 0, 0)
        self._note_server_peak()
        return recovered, traffic


def limit(masks_: int, length: int, bits: int, clock: Callable[[], float]) -> float:
    """Seconds of the raw keystream of so many masks plus its addition, nothing else: the median of some tries, with the
    best of some buffer sizes.
    """
    lane = ring.lanes(bits)
    total = masks_ * length * lane.itemsize
    best = []
    for size in (1 << 16, 1 << 17, 1 << 18):
        zeros, space = memoryview(bytes(size)), np.empty(size + 15, np.uint8)
        mask, lanes = space[:size].view(lane), np.zeros(size // lane.itemsize, lane)
        whole, rest = divmod(total, size)
        spent = []
        for _ in range(7):
            expand = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor().update_into
            started = clock()
            for _ in range(whole):
                expand(zeros, space.data)
                np.add(lanes, mask, out=lanes)
            expand(zeros[:rest], space.data)
            spent.append(clock() - started)
        best.append(float(np.median(spent)))
    return min(best)


def figures(meter: Meter, traffic: Traffic, tally: Tally) -> dict[str, Any]:
    """Seconds and bytes by step, under the peer's names where it has the step."""
    result: dict[str, Any] = {}
    for step in Step:
        result[f"client_{SHORT.get(step, step.value)}_s"] = float(np.mean(meter.client[step]))
    result["client_total_s"] = sum(result.values())
    answered = len(meter.client[Step.MASK])
    result["client_masking_s"] = float(np.median(tally.seconds["masking"]))
    for step in Step:
        name = PEERS_NAMES.get(step, step.value)
        result[f"up_bytes_{name}"] = traffic.up[step] // traffic.answered[step]
        result[f"down_bytes_{name}"] = traffic.down[step] // len(meter.client[step])
        result[f"server_{name}_s"] = meter.server[step]
    result["up_bytes_total"] = sum(v for k, v in result.items() if k.startswith("up_bytes_"))
    count = meter.federation.parameters.cohort
    result["counts"] = {name: tally.counts[name] / count for name in ("signature checks", "key agreements")}
    result["counts"] |= {
        "sealed leaves": tally.counts["sealed shares"] / 2 / count,
        "masks": tally.counts["masks"] / answered,
    }
    return result


def measure(federation: Federation, drop: float, clock_name: str, trace: bool) -> dict[str, Any]:
    """One session, and everything that it shows."""
    p, clock = federation.parameters, CLOCKS[clock_name]
    lost = frozenset(int(i) for i in np.random.default_rng(99).choice(p.cohort, round(drop * p.cohort), replace=False))
    tally = Tally(clock)
    federation.verify = tally.counting(federation.verify)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if trace:
        tracemalloc.start()
    started = time.perf_counter()
    meter = Meter(federation, lost, tally, clock, trace)
    recovered, traffic = meter.conduct()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result: dict[str, Any] = {
        "system": "fgrpo_secure",
        "n": p.cohort,
        "d": federation.length,
        "shares_incl_self": p.neighbours + 1,
        "threshold": p.threshold,
        "ring_bits": federation.bits,
        "drop": drop,
        "n_drop": len(lost),
        "clock": clock_name,
        "wall_s": time.perf_counter() - started,
        "rss_peak_mb": after / 1024,
        "rss_growth_mb": (after - before) / 1024,
    }
    result |= figures(meter, traffic, tally)
    if trace:
        result |= {"client_mask_peak_mb": (meter.mask_peak or 0) / MIB, "server_peak_mb": meter.server_peak / MIB}
        tracemalloc.stop()
    alive = [i for i in range(p.cohort) if i not in lost]
    exact = sum(federation.values(i) for i in alive)
    result["ok"] = bool(np.array_equal(recovered.totals["update"], exact)) and not recovered.blamed
    return result


def accept_any_graph() -> None:
    """Lets clients take part in graphs that their own rule refuses, so that both systems run the same one."""
    member.refuse_weaker = lambda *_: None  # type: ignore[attr-defined]


def main() -> None:
    """Measure one configuration and print it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10, help="clients")
    parser.add_argument("--d", type=int, default=100_000, help="coordinates")
    parser.add_argument("--neighbours", type=int, help="of each client; all others by default")
    parser.add_argument("--threshold", type=int, help="of the secret sharing; half of the holders by default")
    parser.add_argument("--bits", type=int, default=28, help="of the ring")
    parser.add_argument("--drop", type=float, default=0.0, help="share of the clients lost in the mask step")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="cpu", help="cpu is steadier on a busy machine")
    parser.add_argument("--trace", action="store_true", help="measure memory instead of time")
    options = parser.parse_args()
    n = options.n
    neighbours = n - 1 if options.neighbours is None else options.neighbours
    threshold = max(2, round((neighbours + 1) / 2)) if options.threshold is None else options.threshold
    floor = n - round(options.drop * n)
    given = Parameters(Adversary.HONEST_BUT_CURIOUS, n, 1, params.least_quorum(n, 1), threshold, neighbours, floor)
    accept_any_graph()
    result = measure(Federation(given, options.d, options.bits), options.drop, options.clock, options.trace)
    result["limit_s"] = limit(neighbours + 1, options.d, options.bits, CLOCKS[options.clock])
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
