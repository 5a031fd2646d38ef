"""A few seconds of what `make fuzz` does for minutes: changed messages into every decoder and every state."""

import tracemalloc
from random import Random

import fuzz_messages
import fuzz_run
import fuzz_steps
import fuzz_world
import msgspec
import pytest
from fuzz_targets import targets
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import wire
from protocols.errors import FaultyServer, Malformed
from protocols.wire import Step

TARGETS = {target.name: target for target in targets()}
STEPS = [name for name in TARGETS if not name.startswith("session (")]


@pytest.mark.parametrize("name", STEPS)
def test_changed_messages_bring_out_typed_errors_only(name):
    counted = fuzz_run.fuzz(TARGETS[name], 60, seed=2, findings=None)
    assert counted["broken"] == 0


@settings(max_examples=100)
@given(name=st.sampled_from(STEPS), rng=st.randoms(use_true_random=False))
def test_structural_changes_found_by_hypothesis_bring_out_typed_errors_only(name, rng):
    target = TARGETS[name]
    target.feed(target.mutated(rng))


@settings(max_examples=30)
@given(name=st.sampled_from(STEPS), data=st.binary(max_size=200))
def test_arbitrary_bytes_bring_out_typed_errors_only(name, data):
    TARGETS[name].feed(data)


@pytest.mark.parametrize("name", fuzz_world.WORLDS)
def test_whole_sessions_with_changed_messages_end_in_the_exact_sum_or_nothing(name):
    ends = [fuzz_steps.run_session(name, Random(f"{name} {number}"))[1] for number in range(6)]
    assert "sum" in ends, "some sessions survive what happens to them, else this shows nothing"


def test_every_kind_of_message_is_fuzzed_with_a_right_one_to_start_from():
    """A new kind needs no entry here; without a recorded message it starts from its least one."""
    kinds = fuzz_messages.kinds()
    assert len(kinds) >= 19
    for tag, kind in kinds.items():
        assert all(wire.decode(kind, data, 1 << 20) for data in TARGETS[f"decode {tag}"].corpus)
        assert wire.decode(kind, fuzz_messages.example(kind), 1 << 20)


def test_every_step_of_every_party_is_fuzzed_with_and_without_signature_checks():
    for party in ("client", "server"):
        for step in Step:
            for world in fuzz_world.WORLDS:
                assert f"{party} {step.value} ({world})" in TARGETS
                assert f"{party} {step.value} ({world}, all keys)" in TARGETS


def test_changed_messages_are_mostly_other_messages():
    """The changes reach behind the decoder: a part of them is a message of the same kind that says something else."""
    rng = Random(0)
    for tag in ("announcements", "upload", "opening"):
        target = TARGETS[f"decode {tag}"]
        changed = [data for data in (target.mutated(rng) for _ in range(300)) if data not in target.corpus]
        assert len(changed) > 250
        assert sum(target.feed(data) == "taken" for data in changed) > 30


class TestTheOracle:
    """Each rule that a target enforces, shown to catch what it names."""

    def test_an_error_that_is_not_typed_is_a_finding(self, monkeypatch):
        monkeypatch.setattr(wire, "decode", lambda kind, data, limit: [][0])
        assert self.broken("client share (lying)") > 10

    def test_a_message_that_takes_too_long_is_a_finding(self, monkeypatch):
        def endless(kind, data, limit):
            while True:
                pass

        monkeypatch.setattr(fuzz_run, "HANG_SECONDS", 0.01)
        monkeypatch.setattr(wire, "decode", endless)
        assert self.broken("decode upload", 2) == 2

    def test_a_message_that_takes_too_much_memory_is_a_finding(self, monkeypatch):
        def greedy(kind, data, limit):
            bytearray(1 << 20)
            raise Malformed("no")

        monkeypatch.setattr(fuzz_run, "MEASURED_EVERY", 1)
        monkeypatch.setattr(wire, "decode", greedy)
        assert self.broken("decode upload", 2) == 2

    def test_a_trace_of_a_refused_request_is_a_finding(self, monkeypatch):
        def leave_a_trace(driver, step, session, incoming, contribute):
            driver._store._states[driver.member.identity.public, session] = b"another"
            raise FaultyServer("lies")

        monkeypatch.setattr("protocols.drive.ClientDriver._answer", leave_a_trace)
        assert self.broken("client share (lying)") > 10

    def test_a_reason_in_a_peers_words_is_a_finding(self):
        for text in ("x" * 1000, "\x1b[2J"):
            with pytest.raises(fuzz_world.Broken, match="a peer chose"):
                fuzz_world.check_reason(FaultyServer(text))

    def test_a_wrong_sum_is_a_finding(self, monkeypatch):
        monkeypatch.setattr("protocols.recovery.remove_masks", lambda *arguments: None)
        monkeypatch.setattr(fuzz_steps, "EPISODE", 5)
        assert self.broken("server unmask (lying)", 5) == 1

    @staticmethod
    def broken(name, messages=20):
        target = {target.name: target for target in targets()}[name]
        return fuzz_run.fuzz(target, messages, seed=1, findings=None)["broken"]


def crafted(count):
    """The messages that make most of few bytes: many small things in every list that has room for them."""
    plan = ["plan", 1, bytes(16), 1, bytes(32), 1, [2], [], b"", [], 20, "lying_server", 1, 4, 4, 4, 5]
    yield wire.RoundPlan, [*plan[:9], [["ab", 300]] * count, *plan[10:]]
    yield wire.RoundPlan, [*plan[:9], [["a", 1]] * count, *plan[10:]]
    yield wire.RoundPlan, [*plan[:6], [300] * count, *plan[7:]]
    yield wire.Deal, ["deal", 1, bytes(32), [b"ab"] * count, bytes(64)]
    yield wire.Upload, ["upload", 1, [b""] * count, bytes(64)]
    yield wire.Opening, ["opening", 1, [["opened", 300, b""]] * count, bytes(64)]
    yield wire.Deliveries, ["deliveries", bytes(32), b"", [["delivery", 300, b"", []]] * count]


def decoding(kind, data):
    """Peak bytes of memory that decoding takes, the message included."""
    tracemalloc.start()
    try:
        wire.decode(kind, data, 1 << 26)
    except Malformed:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_decoding_takes_at_most_24_bytes_of_memory_per_byte_of_a_message():
    for kind, message in crafted(20_000):
        data = msgspec.msgpack.encode(message)
        assert wire.decode(kind, data, 1 << 26)
        assert decoding(kind, data) <= fuzz_world.DENSEST * len(data)


@pytest.mark.parametrize("head", ["dd", "c6", "db", "df", "c9"])
def test_a_length_that_is_only_claimed_takes_no_memory(head):
    """Four gigabytes of array, bytes, text, map or extension in a message of fifty bytes."""
    claimed = bytes.fromhex(head) + b"\xff\xff\xff\xff"
    for before in (b"", b"\x94\xa6upload\x01", b"\x93\xa6quorum\xc4\x20" + bytes(32)):
        for kind in (wire.Upload, wire.Quorum):
            assert decoding(kind, before + claimed + bytes(20)) < 1 << 16
