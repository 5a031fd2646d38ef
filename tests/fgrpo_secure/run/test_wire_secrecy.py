"""Nothing that leaves a client shows it: every message and file is searched for what one client did.

What is searched for is long: eight coordinates in a row, or a number with all its digits. A single small integer
stands in any message by chance and says nothing about where it comes from. Each pattern has at least eight bytes, of
which random bytes hold one with probability 2^-64 per place. The searches run again over uploads whose masks were
left out, where they must find every client: a search that finds nothing there would prove nothing here.
"""

import json
import logging
import re
import struct

import msgspec
import numpy as np
import pytest
from rich.pretty import pretty_repr

from fgrpo_secure import gain
from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.owner import Owner, Trained
from fgrpo_secure.client.round import Learned
from fgrpo_secure.privacy import clip
from protocols import client as steps
from protocols import envelope, masks, ring, wire

pytestmark = pytest.mark.slow  # whole runs: seconds each

RUN = 8  # coordinates in a row
INTEGERS = [order + kind for kind in ("i1", "i2", "i4", "i8") for order in "<>"]
FLOATS = [order + kind for kind in ("f2", "f4", "f8") for order in "<>"]
SEPARATORS = (", ", ",", " ", "\n")
RICH = ("privacy.clip_norm=0.05", "grpo.optimizer=sgd", "grpo.learning_rate=20.0")  # updates of all sizes, and clipped


class Haystack:
    """Bytes in which many patterns of at least eight bytes are looked up at once, by their first eight."""

    def __init__(self, parts):
        self.data = b"\0".join(parts)
        windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(self.data, np.uint8), 8)
        self._windows = np.unique(np.ascontiguousarray(windows).view("<u8"))

    def found(self, patterns):
        """Those patterns that stand in the bytes."""
        patterns = list(patterns)
        assert patterns, "a search for nothing finds nothing"
        assert min(map(len, patterns)) >= 8
        heads = np.frombuffer(b"".join(pattern[:8] for pattern in patterns), "<u8")
        places = np.minimum(np.searchsorted(self._windows, heads), len(self._windows) - 1)
        candidates = np.flatnonzero(self._windows[places] == heads)
        return [patterns[place] for place in candidates if patterns[place] in self.data]


def runs(values):
    """Stretches of eight coordinates that differ enough to be told from padding."""
    for start in range(0, len(values) - RUN + 1, RUN):
        part = values[start : start + RUN]
        if len(set(part.tolist())) >= RUN // 2:
            yield start, part


def telling(vectors):
    """Those of the vectors that say something: a client whose completions were all paid alike learned nothing."""
    return {client: values for client, values in vectors.items() if np.count_nonzero(values) > len(values) / 2}


def as_text(part):
    numbers = [[str(value) for value in part.tolist()], [f"{value:.6g}" for value in part.tolist()]]
    return {separator.join(number).encode() for number in numbers for separator in SEPARATORS}


def integer_patterns(values, ring_bits):
    """Every stretch of an integer vector in each width and order, packed, as MessagePack and as text.

    Packed stretches start at multiples of eight coordinates, where they fall on whole bytes.
    """
    for _, part in runs(values):
        for kind in INTEGERS:
            cast = part.astype(kind)
            if (cast == part).all():
                yield cast.tobytes()
        yield ring.pack(ring.to_ring(part, ring_bits), ring_bits)
        yield msgspec.msgpack.encode(part.tolist())[1:]
        yield from (text for text in as_text(part) if len(text) >= 8)
        yield from float_patterns(part.astype(np.float64))


def float_patterns(values):
    for _, part in runs(values):
        yield from (part.astype(kind).tobytes() for kind in FLOATS)
        yield msgspec.msgpack.encode(part.tolist())[1:]
        yield from as_text(part)


def number_patterns(value):
    """One telling number: whole, and in the decimals in which somebody might print it."""
    yield from (np.array(value, kind).tobytes() for kind in ("<f8", ">f8"))
    yield from (text.encode() for text in {repr(value), f"{value:.8f}", f"{value:.8e}"})


def pair_patterns(one, other):
    """Two numbers side by side, such as a weight and a gain, in floats too short to be told alone."""
    for pair in ((one, other), (other, one)):
        yield from (np.array(pair, kind).tobytes() for kind in ("<f4", ">f4"))


@pytest.fixture(scope="module")
def seen(tmp_path_factory, make_trial):
    """A run of four rounds with differential privacy, all of it written down."""
    with pytest.MonkeyPatch.context() as patch:
        trial = make_trial(tmp_path_factory.mktemp("masked"), patch)
        trial.directory = trial.run(*RICH, "federation.rounds=4", "privacy.epsilon=80.0")
    return trial


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory, make_trial):
    """The same without masks: the control. Without noise too, so that what is uploaded is what was learned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks.Keystreams, "add_to", lambda *_: None)
        trial = make_trial(tmp_path_factory.mktemp("unmasked"), patch)
        trial.directory = trial.run(*RICH, "federation.rounds=4", "privacy.unit=none")
    return trial


def files_of(directory):
    """What the server keeps, the ledger's open journal included."""
    return [path.read_bytes() for path in sorted(directory.root.rglob("*")) if path.is_file()]


def haystack_of(trial):
    messages = [message for session in trial.sessions for message in session.messages]
    return Haystack([*messages, *files_of(trial.directory), "\n".join(trial.lines).encode()])


def plan_of(session):
    """The round plan as the clients got it."""
    return wire.decode(wire.SignedPlan, session.down["announce", 0], wire.MAX_PLAN).plan


def uploaded(session, client):
    """The ring elements of one client's upload, update and scores in one vector."""
    plan = plan_of(session)
    upload = envelope.unverified(wire.Upload, session.up["mask", client])
    return np.concatenate(
        [
            ring.unpack(data, length, plan.ring_bits)
            for (_, length), data in zip(plan.vectors, upload.vectors, strict=True)
        ]
    )


# ------------------------------------------------------------------------------------------------------------- vectors


def test_no_stretch_of_any_clients_vector_is_in_a_message_or_a_file_in_any_integer_form(seen):
    haystack = haystack_of(seen)
    for session in seen.sessions:
        bits = plan_of(session).ring_bits
        noised = {client: vector.values for client, vector in session.noised.items()}
        encoded = telling({client: vector.values for client, vector in session.encoded.items()})
        assert len(noised) == 8
        assert len(encoded) >= 4
        for secrets in (noised, encoded, {client: noised[client] - values for client, values in encoded.items()}):
            for values in secrets.values():
                assert haystack.found(integer_patterns(values, bits)) == []


def test_no_stretch_of_any_clients_update_is_in_a_message_or_a_file_in_any_float_form(seen):
    haystack = haystack_of(seen)
    for session in seen.sessions:
        raw = telling({client: learned.update.values for client, learned in session.learned.items()})
        assert len(raw) >= 4
        for client, update in raw.items():
            weight, clipped = session.learned[client].weight, update / max(1.0, np.linalg.norm(update) / 0.05)
            for secret in (update, clipped, weight * update, weight * clipped):
                assert haystack.found(float_patterns(secret)) == []


def test_without_masks_the_same_search_finds_every_clients_vector(unmasked):
    haystack = haystack_of(unmasked)
    for session in unmasked.sessions:
        bits = plan_of(session).ring_bits
        uploads = telling({client: vector.values for client, vector in session.noised.items()})
        assert len(uploads) >= 4
        for values in uploads.values():
            assert haystack.found(integer_patterns(values, bits))


@pytest.mark.parametrize("kind", [*INTEGERS, *FLOATS])
def test_the_search_finds_a_vector_that_is_hidden_in_a_message_in_any_width_and_order(seen, kind):
    session = seen.sessions[0]
    values = session.noised[0].values.astype(kind)
    message = session.up["mask", 0]
    planted = Haystack([*session.messages, message[:50] + values.tobytes() + message[50:]])
    assert planted.found(integer_patterns(values.astype(np.int64), plan_of(session).ring_bits))


def test_the_search_finds_a_vector_that_is_hidden_as_text(seen):
    session = seen.sessions[0]
    update = next(learned.update.values for learned in session.learned.values() if learned.update.values.any())
    for text in (
        json.dumps(update.tolist()),
        repr(update.tolist()),
        str([f"{v:.6g}" for v in update]).replace("'", ""),
    ):
        assert Haystack([text.encode()]).found(float_patterns(update))


def test_an_upload_agrees_with_its_clients_vector_no_more_often_than_by_chance(seen):
    """A masked coordinate is uniform: it equals the true one with probability 2^-bits, here a few in all."""
    for session in seen.sessions:
        bits = plan_of(session).ring_bits
        for client, noised in session.noised.items():
            for secret in (noised.values, session.encoded[client].values):
                same = uploaded(session, client) == ring.to_ring(secret, bits)
                assert same.sum() <= 6, f"{same.size} coordinates of {bits} bits"


def test_without_masks_an_upload_is_its_clients_vector(unmasked):
    for session in unmasked.sessions:
        bits = plan_of(session).ring_bits
        for client, noised in session.noised.items():
            np.testing.assert_array_equal(uploaded(session, client), ring.to_ring(noised.values, bits))


def test_masked_coordinates_are_spread_evenly_over_the_ring_and_unmasked_ones_are_not(seen, unmasked):
    """Chi-squared over 16 equal parts of the ring, about 8,000 coordinates: mean 15, deviation 5.5 if uniform."""
    statistics = []
    for trial in (seen, unmasked):
        session = trial.sessions[-1]
        bits = plan_of(session).ring_bits
        elements = np.concatenate([uploaded(session, client) for client in session.noised])
        counts = np.bincount(elements.astype(np.int64) >> (bits - 4), minlength=16)
        expected = elements.size / 16
        statistics.append(float(((counts - expected) ** 2 / expected).sum()))
    assert statistics[0] < 50 < 1000 < statistics[1]


# ------------------------------------------------------------------------------------------------------------- numbers

ROWS = 10_007  # a client's example count, found in four bytes or five digits by chance once in a thousand runs
PROMPT = "90817+26354="
REWARDS = """
def planted(prompts, completions, completion_ids, **_):
    return [0.7312905817 + 0.0371928465 * (sum(ids) % 7) for ids in completion_ids]

def broken(prompts, completions, completion_ids, **_):
    return [float("nan")] * len(completions)
"""


@pytest.fixture
def planted(tmp_path, monkeypatch, small):
    """Makes the configuration in which client 0 has a file of `rows` prompts and a reward of the module above."""
    (tmp_path / "planted_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(rows=20, reward="planted"):
        path = tmp_path / f"prompts-{'many' if rows == ROWS else 'few'}.jsonl"
        path.write_text(f'{{"prompt": "{PROMPT}"}}\n' * rows)
        table = f'data = "{path}"\nreward = "planted_rewards:{reward}"\n'
        return small[0].replace('task = "add"\n', table, 1)

    return make


def telling_numbers(trial):
    """Gains, weights and reward averages of all clients in all sessions that have digits enough to be recognised."""
    numbers = set()
    for session in trial.sessions:
        for learned in session.learned.values():
            numbers |= {learned.gain, learned.weight, learned.baseline.mean, learned.baseline.variance}
    return {number for number in numbers if len(repr(number)) > 12}


def test_no_gain_weight_or_reward_average_is_in_a_message_or_a_file(seen):
    haystack = haystack_of(seen)
    numbers = telling_numbers(seen)
    assert len(numbers) >= 20
    for number in numbers:
        assert haystack.found(number_patterns(number)) == []
    for session in seen.sessions:
        for learned in session.learned.values():
            if {learned.gain, learned.weight} <= numbers:
                assert haystack.found(pair_patterns(learned.gain, learned.weight)) == []


def test_the_search_finds_a_number_in_any_form_in_which_it_is_planted(seen):
    number = min(telling_numbers(seen))
    for form in (struct.pack("<d", number), struct.pack(">d", number), json.dumps({"gain": number}).encode()):
        assert Haystack([b"some message", form]).found(number_patterns(number))
    pair = struct.pack(">ff", 0.25, number)
    assert Haystack([b"some message", pair]).found(pair_patterns(number, 0.25))


def test_neither_rewards_nor_prompts_nor_their_number_are_in_a_message_or_a_file(trial, planted, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    trial.directory = trial.run("federation.rounds=1", text=planted(rows=ROWS))
    streams = capfd.readouterr()
    shown = "\n".join([caplog.text, streams.out, streams.err]).encode()
    data = haystack_of(trial).data + shown
    rewards = [0.7312905817 + 0.0371928465 * step for step in range(7)]
    for reward in rewards:
        forms = [*number_patterns(reward), *(np.array(reward, kind).tobytes() for kind in ("<f4", ">f4"))]
        assert not any(form in data for form in forms)
    counts = [ROWS.to_bytes(width, order) for width in (4, 8) for order in ("little", "big")]
    assert not any(form in data for form in (*counts, str(ROWS).encode(), PROMPT.encode()))


@pytest.mark.parametrize("other", [{"rows": 3}, {"reward": "broken"}])
def test_who_is_asked_and_how_long_every_message_is_does_not_depend_on_data(trial, planted, other):
    """Not on how many examples a client has, and not on whether its reward works."""
    shapes = []
    for name, difference in (("one", {}), ("other", other)):
        federation = trial.federation(text=planted(**difference), name=name)
        session = trial.conduct(federation)
        shapes.append([[(key, len(message)) for key, message in way.items()] for way in (session.down, session.up)])
        assert session.refusals == {}
        assert session.result.recovered.blamed == {}
    assert shapes[0] == shapes[1]


# ----------------------------------------------------------------------------------------------------------- text forms

OURS = ("fgrpo_secure", "protocols")
MUST_BE_SEEN = {
    "Baseline", "Book", "ClippedUpdate", "Contribution", "Embedded", "EncodedVector", "Federation", "Host", "Identity",
    "Learned", "Member", "NoisedVector", "Observation", "Owner", "ClientStore", "Participant", "PromptGroups",
    "Recovered", "Rollouts", "RoundResult", "Score", "SeededEntropy", "SessionRecords", "Trained", "Update",
}  # fmt: skip

RELEASED = {"Conclusion", "Recovered", "RoundResult", "WeightedMean"}  # sums over the cohort, noise included


def printed(part):
    return "\n".join([repr(part), str(part), pretty_repr(part)])


def parts_of(thing, seen):
    """`thing` and everything of our packages that hangs on it."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    if isinstance(thing, dict):
        inner = list(thing.values())
    elif isinstance(thing, list | tuple | set):
        inner = list(thing)
    elif type(thing).__module__.split(".")[0] in OURS:
        yield thing
        names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
        inner = [getattr(thing, name) for name in names]
    else:
        return
    for part in inner:
        yield from parts_of(part, seen)


@pytest.fixture
def passing_by(monkeypatch):
    """Everything secret that exists for a moment only: what these functions return."""
    kept = []

    def keep(original):
        def kept_result(*arguments):
            kept.append(original(*arguments))
            return kept[-1]

        return kept_result

    for place, name in (
        (client_round, "privatise"), (client_round, "learn"), (client_round, "scores"), (clip, "to_norm"),
        (gain, "observe"),
        (Owner, "train"), (Owner, "_groups"), (steps, "share"), (steps, "mask"), (steps, "agree"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, keep(getattr(place, name)))
    return kept


def test_nothing_that_a_round_makes_shows_a_secret_when_it_is_printed(trial, planted, passing_by):
    federation = trial.federation("federation.rounds=4", "privacy.epsilon=80.0", text=planted())
    for training_round in range(3):
        trial.conduct(federation, training_round)
    parts = list(parts_of([federation, [vars(session) for session in trial.sessions], passing_by], {}))
    assert {type(part).__name__ for part in parts} >= MUST_BE_SEEN
    text = "\n".join(printed(part) for part in parts)
    assert PROMPT not in text
    assert "0.73129" not in text
    vectors = [part for part in parts if re.search(r"array\(|tensor\(", printed(part))]
    assert {type(part).__name__ for part in vectors} <= RELEASED
    seconds = {part.seconds_rollouts for part in parts if isinstance(part, Trained | Learned)}
    numbers = telling_numbers(trial) | seconds
    assert len(numbers) >= 10
    assert not [number for number in numbers if repr(number) in text or f"{number:.6f}" in text]
    stores = [each._book.store for host in federation.engine.hosts for each in host._participants.values()]
    for number, store in enumerate(stores):
        seed = store.identity_seed(number)
        assert seed.hex() not in text
        assert repr(seed)[2:-1] not in text
