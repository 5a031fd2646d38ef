"""How cost and memory grow with the cohort, and what ten thousand clients' control messages weigh.

    python benchmarks/scale.py                    # everything, one process after the other
    python benchmarks/scale.py --only control     # one part: sparse, memory, lying, control

* sparse: 250, 500 and 1,000 real clients against an honest-but-curious server, 100,000 coordinates, 10 % of them lost
  in the mask step, 5 % of the roster colluding. All in one process, which checks each distinct signature once;
  `client alone` adds to a client's seconds what its own checks cost on a machine of its own.
* memory: the same with a single coordinate. The difference in peak memory is what vectors cost.
* lying: 100 and 200 real clients against a lying server (complete graph).
* control: 10,000 clients, one coordinate. The server is real: it decodes, checks and answers every message. A few
  clients are real. The others send messages of real form and size under valid signatures, with real shares and
  commitments, but read nothing; what they seal for each other is zeros, and their one coordinate is not masked, so
  the sum means nothing and is not looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import session
from aggregation import machine

from protocols import envelope, keys, labels, merkle, params, ring, shares, wire
from protocols.drive import conduct
from protocols.graph import Graph
from protocols.identity import verify_signature
from protocols.params import Adversary
from protocols.wire import Step

HERE = Path(__file__).parent
CORRUPT, DROP, BITS = 0.05, 0.1, 32
PARTS: dict[str, list[tuple[str, int, int]]] = {
    "sparse": [("honest_but_curious", n, 100_000) for n in (250, 500, 1000)],
    "memory": [("honest_but_curious", n, 1) for n in (250, 500, 1000)],
    "lying": [("lying_server", n, 100_000) for n in (100, 200)],
    "control": [("control", 10_000, 1)],
}
SHARE_BOX, PACKED = bytes(49), ring.packed_size(1, BITS)


def seconds_per_check() -> float:
    """One signature check on this machine, the median of many."""
    own = session.Identity.from_seed(bytes(32))
    signature, spent = own.sign(labels.SIGN_PLAN, bytes(100)), []
    for _ in range(300):
        started = time.process_time()
        verify_signature(own.public, labels.SIGN_PLAN, bytes(100), signature)
        spent.append(time.process_time() - started)
    return float(np.median(spent))


def remembering() -> session.Verify:
    """A check that is made once per distinct signature of this process."""
    good: set[tuple[bytes, str, bytes, bytes]] = set()

    def verify(public: bytes, label: str, payload: bytes, signature: bytes) -> None:
        known = (public, label, payload, signature)
        if known not in good:
            verify_signature(*known)
            good.add(known)

    return verify


def whole_session(adversary: str, n: int, d: int) -> dict[str, Any]:
    """A session of n real clients, its figures, and what a client costs alone."""
    given = params.derive(Adversary(adversary), n, n, CORRUPT, DROP)
    result = session.measure(session.Federation(given, d, BITS, remembering()), DROP, "cpu", False)
    check = seconds_per_check()
    checks = result["counts"]["signature checks"]
    result["seconds_per_signature_check"] = check
    result["client_alone_s"] = result["client_total_s"] + checks * check
    return result | {"adversary": adversary, "quorum": given.quorum, "floor": given.floor}


@dataclass
class Sender:
    """A client that sends and does not read: its messages have the real form, size, shares and signatures."""

    federation: session.Federation
    index: int
    dealt: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = self.federation.roster.members[self.index].id
        self._identity = self.federation.identities[self.index]
        self._mask_secret = self.federation.bytes("mask", self.index)
        self.seal_secret = self.federation.bytes("seal", self.index)
        self._seed = self.federation.bytes("seed", self.index)

    def announce(self, sess: bytes) -> bytes:
        """Two keys."""
        public = (keys.public_key(self._mask_secret), keys.public_key(self.seal_secret))
        blank = wire.Announcement(self.id, *public, bytes(64))
        signature = self._identity.sign(labels.SIGN_ANNOUNCEMENT, wire.announcement_payload(sess, blank))
        return self._signed(Step.ANNOUNCE, msgspec.structs.replace(blank, signature=signature))

    def share(self, s1: bytes, graph: Graph, readers: Mapping[int, bytes]) -> bytes:
        """A leaf for every holder; only `readers` (id -> sealing key) could open theirs."""
        holders, plan = graph.holders(self.id), self.federation.plan
        points = [graph.point(holder) for holder in holders]
        of = [
            shares.split(secret, points, plan.threshold, self.federation.bytes("coefficients", self.index, kind))
            for kind, secret in ((keys.SEED, self._seed), (keys.MASK_KEY, self._mask_secret))
        ]
        leaves = []
        for holder, seed_share, key_share in zip(holders, *of, strict=True):
            self.dealt[holder] = (seed_share, key_share)
            seed_hash = keys.share_commitment(s1, self.id, holder, keys.SEED, seed_share)
            key_hash = keys.share_commitment(s1, self.id, holder, keys.MASK_KEY, key_share)
            boxes = (SHARE_BOX, SHARE_BOX)
            if holder in readers:
                secret = keys.agree(self.seal_secret, readers[holder])
                seal = keys.Seal.between(secret, s1, self.id, holder, (seed_hash, key_hash))
                boxes = (seal.close(keys.SEED, seed_share), seal.close(keys.MASK_KEY, key_share))
            leaves.append(wire.encode(wire.Leaf(holder, seed_hash, boxes[0], key_hash, boxes[1])))
        root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
        blank = wire.SignedRoot(self.id, root, keys.seed_commitment(s1, self.id, self._seed), bytes(64))
        signature = self._identity.sign(labels.SIGN_DEAL, wire.root_payload(s1, blank))
        return self._signed(Step.SHARE, wire.Deal(self.id, blank.seed_commitment, tuple(leaves), signature))

    def upload(self, s2: bytes) -> bytes:
        """One coordinate that is not masked."""
        vectors = (self.federation.bytes("vector", self.index)[:PACKED],)
        blank = wire.UploadDigest(self.id, wire.upload_digest(vectors), bytes(64))
        signature = self._identity.sign(labels.SIGN_UPLOAD, wire.upload_payload(s2, blank))
        return self._signed(Step.MASK, wire.Upload(self.id, vectors, signature))

    def agree(self, outcome: bytes) -> bytes:
        """A signature on the outcome."""
        signature = self._identity.sign(labels.SIGN_AGREEMENT, wire.agreement_payload(outcome, self.id))
        return self._signed(Step.AGREE, wire.Agreement(self.id, signature))

    def open(self, outcome: bytes, opened: tuple[wire.OpenedShare, ...]) -> bytes:
        """The shares that the outcome calls for."""
        payload = wire.opening_payload(outcome, self.id, opened)
        signature = self._identity.sign(labels.SIGN_OPENING, payload)
        return self._signed(Step.UNMASK, wire.Opening(self.id, opened, signature))

    def _signed(self, step: Step, message: wire.Answer) -> bytes:
        return envelope.sign(self._identity, wire.session_of(self.federation.plan), self.id, step, message)


class Crowd:
    """A link to a few real clients and many senders; the senders' secrets and what they were dealt are in one place."""

    def __init__(self, federation: session.Federation, real: int) -> None:
        n = federation.parameters.cohort
        self._federation = federation
        self._real = {federation.roster.members[i].id: federation.driver(i) for i in range(0, n, -(-n // real))}
        self._senders = {entry.id: Sender(federation, i) for i, entry in enumerate(federation.roster.members)}
        lost = np.random.default_rng(99).choice(n, round(DROP * n), replace=False)
        self._lost = {federation.roster.members[i].id for i in lost} - set(self._real)
        self._session = wire.session_of(federation.plan)
        self._deals: dict[int, wire.Deal] = {}
        self.client: dict[Step, list[float]] = {step: [] for step in Step}
        self.server: dict[Step, float] = {}
        self.sizes: dict[Step, tuple[int, int]] = {}
        self._outside = 0.0
        self._since = time.process_time()

    def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterable[tuple[int, bytes]]:
        """Every client's answer; the time that is not the server's is set aside."""
        first = True
        for id_ in outgoing:
            if step is Step.MASK and id_ in self._lost:
                continue
            message = outgoing[id_]
            started = time.process_time()
            if first:
                self._read(step, message)
                first = False
            if id_ in self._real:
                begun = time.process_time()
                answer = self._real[id_].handle(step, message, lambda plan: {"update": np.zeros(1, np.int64)})
                self.client[step].append(time.process_time() - begun)
                self.sizes[step] = (len(message), len(answer))
                self._remember(step, id_, answer)
            else:
                answer = self._sent(step, id_)
            self._outside += time.process_time() - started
            yield id_, answer

    def step_ended(self, step: Step, _asked: int, _answered: int) -> None:
        """Books the server's time since the step before."""
        now = time.process_time()
        self.server[step] = self.server.get(step, 0.0) + now - self._since - self._outside
        self._since, self._outside = now, 0.0

    def _read(self, step: Step, message: bytes) -> None:
        """What all senders know of a step, read once."""
        plan = self._federation.plan
        if step is Step.SHARE:
            entries = wire.decode(wire.Announcements, message, wire.limit(wire.Announcements, plan)).entries
            self._s1 = labels.digest(labels.HASH_ANNOUNCED, message)
            self._graph = Graph(plan, self._s1, [entry.client for entry in entries])
            self._readers = {entry.client: entry.seal_key for entry in entries if entry.client in self._real}
        elif step is Step.MASK:
            roots = wire.decode(wire.Deliveries, message, wire.limit(wire.Deliveries, plan)).roots
            self._s2 = labels.digest(labels.HASH_DEALT, self._s1, roots)
        elif step is Step.AGREE:
            entries = wire.decode(wire.Uploads, message, wire.limit(wire.Uploads, plan)).entries
            self._survivors = {entry.client for entry in entries}
            dropped = [client for client in plan.cohort if client not in self._survivors]
            self._outcome = wire.list_digest(self._s2, entries, dropped)

    def _sent(self, step: Step, id_: int) -> bytes:
        sender = self._senders[id_]
        if step is Step.ANNOUNCE:
            return sender.announce(self._session)
        if step is Step.SHARE:
            return sender.share(self._s1, self._graph, self._readers)
        if step is Step.MASK:
            return sender.upload(self._s2)
        if step is Step.AGREE:
            return sender.agree(self._outcome)
        return sender.open(self._outcome, self._opened(id_))

    def _remember(self, step: Step, dealer: int, answer: bytes) -> None:
        """What a real client dealt to senders, opened with their keys: they will be asked for it."""
        if step is not Step.SHARE:
            return
        for data in envelope.unverified(wire.Deal, answer).leaves:
            leaf = wire.decode(wire.Leaf, data, len(data))
            if leaf.holder in self._real:
                continue
            secret = keys.agree(self._senders[leaf.holder].seal_secret, self._readers[dealer])
            hashes = (leaf.seed_commitment, leaf.key_commitment)
            seal = keys.Seal.between(secret, self._s1, dealer, leaf.holder, hashes)
            opened = (seal.open(keys.SEED, leaf.seed_box, hashes[0]), seal.open(keys.MASK_KEY, leaf.key_box, hashes[1]))
            self._senders[dealer].dealt[leaf.holder] = opened

    def _opened(self, holder: int) -> tuple[wire.OpenedShare, ...]:
        """Of a survivor its seed's share, of a lost client its mask key's."""
        dealers = self._graph.holders(holder)
        places = (0 if dealer in self._survivors else 1 for dealer in dealers)
        return tuple(
            wire.OpenedShare(dealer, self._senders[dealer].dealt[holder][place])
            for dealer, place in zip(dealers, places, strict=True)
        )


def control(n: int, real: int) -> dict[str, Any]:
    """One session of a few real clients among many senders: bytes and seconds of a client, and of the server."""
    given = params.derive(Adversary.HONEST_BUT_CURIOUS, n, n, CORRUPT, DROP)
    federation = session.Federation(given, 1, BITS)
    tally = session.Tally(time.process_time)
    federation.verify = tally.counting(verify_signature)
    crowd, started = Crowd(federation, real), time.perf_counter()
    recovered, traffic = conduct(
        federation.server, federation.plan, federation.roster, crowd, verify_signature, crowd.step_ended
    )
    crowd.step_ended(Step.UNMASK, 0, 0)
    steps = {
        step.value: {
            "client_s": float(np.mean(crowd.client[step])),
            "server_s": crowd.server[step],
            "down_bytes": crowd.sizes[step][0],
            "up_bytes": crowd.sizes[step][1],
            "server_down_bytes": traffic.down[step],  # without what lost clients were not sent
            "server_up_bytes": traffic.up[step],
        }
        for step in Step
    }
    return {
        "n": n,
        "real_clients": len(crowd.client[Step.ANNOUNCE]),
        "survivors": len(recovered.survivors),
        "neighbours": given.neighbours,
        "threshold": given.threshold,
        "quorum": given.quorum,
        "floor": given.floor,
        "blamed": len(recovered.blamed),
        "steps": steps,
        "client_s": sum(step["client_s"] for step in steps.values()),
        "client_down_bytes": sum(step["down_bytes"] for step in steps.values()),
        "client_up_bytes": sum(step["up_bytes"] for step in steps.values()),
        "server_s": sum(step["server_s"] for step in steps.values()),
        "wall_s": time.perf_counter() - started,
        "rss_peak_mb": session.resource.getrusage(session.resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measured(kind: str, n: int, d: int, work: Path) -> dict[str, Any]:
    """One measurement in a process of its own, or the one that is there already."""
    done = work / f"scale-{kind}-{n}-{d}.json"
    if not done.exists():
        started = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
        command = [sys.executable, __file__, "--measure", kind, str(n), str(d)]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout
        done.write_text(output)
        sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S}  {kind} n={n} d={d}  {time.monotonic() - started:.0f} s\n")
    result: dict[str, Any] = json.loads(done.read_text())
    return result


def main() -> None:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--real", type=int, default=3, help="real clients of the control messages' simulation")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark/scale"))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scale.json")
    parser.add_argument("--measure", nargs=3, metavar=("KIND", "N", "D"), help="one measurement, printed")
    options = parser.parse_args()
    if options.measure:
        kind, n, d = options.measure[0], int(options.measure[1]), int(options.measure[2])
        result = control(n, options.real) if kind == "control" else whole_session(kind, n, d)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    options.work.mkdir(parents=True, exist_ok=True)
    parts = {part: [measured(*setting, options.work) for setting in PARTS[part]] for part in options.only}
    facts = {"benchmark": "scale", "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    options.out.write_text(json.dumps(facts | parts, indent=1) + "\n")
    sys.stdout.write(json.dumps(parts, indent=1) + "\n")


if __name__ == "__main__":
    main()
