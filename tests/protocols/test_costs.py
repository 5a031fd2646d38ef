"""What a session costs, counted: nothing here measures time."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from protocols import keys, masks, ring
from protocols.params import Adversary
from protocols.wire import Step


class Counts:
    """Counts calls of the protocol's dear operations while it watches."""

    def __init__(self, monkeypatch):
        self.calls = Counter()
        for owner, name in ((keys, "agree"), (keys.Seal, "close"), (keys.Seal, "open")):
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name), name))
        streams = masks.Keystreams.__init__

        def counted(this, signed_keys):
            signed_keys = list(signed_keys)
            self.calls["masks"] += len(signed_keys)
            streams(this, signed_keys)

        monkeypatch.setattr(masks.Keystreams, "__init__", counted)

    def counted(self, inner, name):
        def call(*args):
            self.calls[name] += 1
            return inner(*args)

        return call


class OneClient:
    """A link that lets `counts` see one client's work alone."""

    def __init__(self, link, watched, counts):
        self._link, self._counts, self.seen = link, counts, Counter()
        inner = link.world.ask

        def answer(client, step, message):
            before = counts.calls.copy()
            reply = inner(client, step, message)
            if client == watched:
                self.seen.update(counts.calls - before)
            return reply

        link.world.ask = answer

    def exchange(self, step, outgoing):
        return self._link.exchange(step, outgoing)


@pytest.mark.parametrize(
    ("n", "adversary", "neighbours"),
    [(7, Adversary.LYING_SERVER, 6), pytest.param(210, Adversary.HONEST_BUT_CURIOUS, None, marks=pytest.mark.slow)],
)
def test_a_clients_keys_leaves_and_masks_grow_with_its_neighbours_and_its_checks_with_the_cohort(
    make_world, make_link, monkeypatch, n, adversary, neighbours
):
    world = make_world(n, adversary, max_corrupt=0.01, max_dropout=0.05)
    k = world.plan.neighbours
    assert k == neighbours or (neighbours is None and k < n // 4)
    counts = Counts(monkeypatch)
    watched, checks = world.ids[0], []
    driver = world.drivers[watched]
    verify = driver.member.verify
    object.__setattr__(driver.member, "verify", lambda *args: (checks.append(args), verify(*args)))
    link = OneClient(make_link(world), watched, counts)
    world.run(link)
    # Sealing keys with each holder, itself too; mask keys with each neighbour.
    assert link.seen == {"agree": 2 * k + 1, "close": 2 * (k + 1), "open": 2 * (k + 1), "masks": 2 * (k + 1)}
    # The plan, the keys and deals of each neighbour, everybody else's upload, and one quorum.
    assert len(checks) == 1 + 2 * k + (n - 1) + world.plan.quorum


@pytest.mark.parametrize(("length", "rest"), [(100_000, 1 << 19), (400_000, 3 << 18)])
def test_masking_holds_its_message_and_little_else_beside_the_values(make_world, length, rest):
    bits = 29
    world = make_world(vectors=(("update", length),), ring_bits=bits)
    peaks = {}

    class Tracing:
        def exchange(self, step, outgoing):
            for client in outgoing:
                message = outgoing[client]
                tracemalloc.start()
                answer = world.ask(client, step, message)
                peaks.setdefault(step, tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
                yield client, answer

    world.run(Tracing())
    assert peaks[Step.MASK] < ring.packed_size(length, bits) + rest


def test_the_server_holds_one_upload_and_one_sum_whatever_the_cohort(make_world):
    length = 200_000
    peaks = {}
    for n in (5, 10):
        world = make_world(n, vectors=(("update", length),), max_dropout=0.1)
        messages = {}

        class Replay:
            def exchange(self, step, outgoing, world=world, messages=messages):
                answers = [(client, world.ask(client, step, outgoing[client])) for client in outgoing]
                if step is Step.MASK:
                    messages["base"] = tracemalloc.get_traced_memory()[0]
                    tracemalloc.reset_peak()
                yield from answers
                if step is Step.MASK:
                    messages["peak"] = tracemalloc.get_traced_memory()[1] - messages["base"]

        tracemalloc.start()
        world.run(Replay())
        tracemalloc.stop()
        peaks[n] = messages["peak"]
    assert peaks[5] < 3 * ring.packed_size(length, 20) + (1 << 19)
    assert abs(peaks[10] - peaks[5]) < 1 << 17


def test_masks_of_more_keys_than_are_open_at_once_need_no_more_memory(monkeypatch):
    monkeypatch.setattr(masks, "_AT_ONCE", 4)
    opened = []
    streams = masks.Keystreams.__init__
    monkeypatch.setattr(
        masks.Keystreams, "__init__", lambda this, keys_: (opened.append(len(keys_)), streams(this, keys_))[1]
    )
    masks.add_masks(np.zeros(10, "<u4"), ((bytes([i]) * 32, 1) for i in range(10)))
    assert opened == [4, 4, 2]
