"""Whole runs, in this process: what a federation leaves behind, refuses, survives, and never shows."""

import json
import re

import numpy as np
import pytest
from safetensors.torch import load_file

from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.config import files as config_file
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.run import training
from fgrpo_secure.server.federation import Federation
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError
from protocols import masks, ring

pytestmark = pytest.mark.slow  # whole runs: seconds each

TASKS = ("add", "sub", "mul", "sort", "rev", "cnt", "mod", "minmax")
SMALL = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\n' for task in TASKS) + (
    '[run]\nentropy = "seeded"\n[federation]\nrounds = 2\n[evaluation]\nprompts = 2\nsamples = 1\nevery = 0\n'
    '[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.25\n[privacy]\nepsilon = 60.0\nreserved_sessions = 0\n'
    "[adapter]\nrank = 1\n[grpo]\nnum_generations = 2\nprompts_per_step = 2\n"
)


class Silent(training.Observer):
    """An observer that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def run(tmp_path):
    """Runs the small federation with overrides; gives (directory, observer)."""

    def start(*overrides, name="run", text=SMALL):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        directory, observer = RunDirectory(tmp_path / name), Silent()
        training.start(config_file.load(str(path), overrides), directory, observer)
        return directory, observer

    return start


def summary_of(directory):
    return json.loads(directory.summary.read_text())


@pytest.fixture
def contributions(monkeypatch):
    """Every noised vector that an owner made, in order."""
    made = []
    original = Participant._contribution

    def recorded(participant, plan):
        contribution = original(participant, plan)
        made.append((participant._owner.id, contribution.vector.values.copy()))
        return contribution

    monkeypatch.setattr(Participant, "_contribution", recorded)
    return made


@pytest.fixture
def wire(monkeypatch):
    """Every byte between server and clients, both ways."""
    seen = []
    original = Embedded.exchange

    def recorded(self, step, outgoing, seconds):
        seen.extend(outgoing[client] for client in outgoing)
        for client, payload in original(self, step, outgoing, seconds):
            seen.append(payload)
            yield client, payload

    monkeypatch.setattr(Embedded, "exchange", recorded)
    return seen


@pytest.fixture
def recovered(monkeypatch):
    """What the server recovered in each session."""
    results = []
    original = Federation.conduct

    def recorded(self, *arguments):
        result = original(self, *arguments)
        results.append(result)
        return result

    monkeypatch.setattr(Federation, "conduct", recorded)
    return results


@pytest.mark.parametrize(
    "faults", ["{}", *(f"{{{step} = 0.12}}" for step in ("announce", "share", "mask", "agree", "unmask"))]
)
def test_the_recovered_sum_is_the_exact_sum_of_the_survivors_vectors(run, contributions, recovered, faults):
    run("federation.rounds=1", f"engine.faults={faults}", "run.seed=5")
    (result,) = recovered
    latest = dict(contributions)  # of a session that was repeated, the last one counts
    survivors = result.recovered.survivors
    total = np.concatenate([result.recovered.totals["update"], result.recovered.totals["scores"]])
    assert len(survivors) >= 6
    np.testing.assert_array_equal(total, sum(latest[client] for client in survivors))


def encodings(values):
    """Runs of sixteen coordinates as integers and floats of every width and byte order, and packed at each ring width.

    Sixteen with at least eight different values: so many do not meet by chance, and zeros do not look like a find.
    """
    for start in range(0, len(values) - 16, 16):
        part = values[start : start + 16]
        if len(set(part.tolist())) < 8:
            continue
        for kind in ("i1", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8", "<f2", "<f4", ">f4", "<f8", ">f8"):
            yield part.astype(kind).tobytes()
        for bits in range(8, 20):
            yield ring.pack(ring.to_ring(part, bits), bits)


def found(values, messages):
    haystack = b"\0".join(messages)
    return any(code in haystack for code in encodings(values))


def test_no_clients_vector_is_on_the_wire_in_any_encoding(run, contributions, wire):
    run("federation.rounds=1")
    assert len(contributions) == len(TASKS)
    for _, values in contributions:
        assert sum(1 for _ in encodings(values)) > 100
        assert not found(values, wire)


def test_the_search_finds_every_vector_where_masks_are_off(run, contributions, wire, monkeypatch):
    monkeypatch.setattr(masks.Keystreams, "add_to", lambda *_: None)
    run("federation.rounds=1")
    assert all(found(values, wire) for _, values in contributions)


def test_scores_and_rewards_are_not_on_the_wire_or_in_the_run_directory(run, wire, monkeypatch):
    secrets = []
    original = client_round._weigh

    def recorded(*given):
        weighed, hidden = original(*given)
        secrets.extend([weighed.gain, weighed.weight, weighed.baseline.mean])
        return weighed, hidden

    monkeypatch.setattr(client_round, "_weigh", recorded)
    directory, _ = run("federation.rounds=4", "weighting.rule=softmax")
    telling = {value for value in secrets if len(repr(value)) > 12}
    assert len(telling) > 8
    kept = [path.read_bytes() for path in directory.root.rglob("*") if path.is_file()]
    haystack = b"\0".join([*wire, *kept])
    for value in telling:
        codes = [np.array([value]).astype(kind).tobytes() for kind in ("<f8", ">f8", "<f4", ">f4")]
        assert not any(code in haystack for code in (*codes, repr(value).encode(), f"{value:.10f}".encode()))


REWARDS = """
import math

def tried(prompts):  # as the start of a run does, which refuses a reward that never works
    return len(set(prompts)) == 1

def broken(prompts, completions, completion_ids, **_):
    if tried(prompts): return [1.0] * len(completions)
    return [math.nan] * len(completions)

def short(prompts, completions, completion_ids, **_):
    if tried(prompts): return [1.0] * len(completions)
    return [1.0]

def raising(prompts, completions, completion_ids, **_):
    if tried(prompts): return [1.0] * len(completions)
    raise RuntimeError("SECRET-PROMPT " + prompts[0])
"""


@pytest.mark.parametrize("function", ["broken", "short", "raising"])
def test_a_reward_that_fails_contributes_noise_alone_and_only_its_owner_learns_why(
    run, contributions, tmp_path, monkeypatch, capfd, function
):
    (tmp_path / "failing_rewards.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    encoded = []
    original = client_round._noised

    def recorded(vector, *rest):
        encoded.append(vector.values.copy())
        return original(vector, *rest)

    monkeypatch.setattr(client_round, "_noised", recorded)
    text = SMALL.replace('task = "add"\n', f'task = "add"\nreward = "failing_rewards:{function}"\n')
    directory, observer = run("federation.rounds=1", text=text)
    assert not encoded[0].any()
    assert np.abs(contributions[0][1]).max() > 0
    assert sum(values.any() for values in encoded) >= 5
    assert summary_of(directory)["failed_sessions"] == 0
    log = (directory.owners / "host-0" / "add.log").read_text()
    assert (directory.owners / "host-0" / "add.log").stat().st_mode & 0o077 == 0
    (reason,) = (line.removeprefix("round 0: ") for line in log.splitlines())
    assert re.search(f"{function}|mark", reason)
    places = directory.root.parent.rglob("*")  # the run's, the server's, and every owner's but its own log
    shown = b"".join(path.read_bytes() for path in places if path.is_file() and path.name != "add.log")
    said = "".join((*observer.lines, *capfd.readouterr())).encode()
    for secret in (reason, "a completion that no reward", "failing_rewards.py, line"):
        assert secret.encode() not in shown + said
    assert b"SECRET-PROMPT" not in log.encode() + said
    assert b"SECRET-PROMPT" not in b"".join(path.read_bytes() for path in directory.root.rglob("*") if path.is_file())


def test_a_client_that_breaks_its_clip_wastes_the_round_and_is_paid_for(run, monkeypatch):
    original, calls = Participant._contribution, []

    def lying(participant, plan):
        contribution = original(participant, plan)
        calls.append(participant._owner.id)
        if len(calls) <= len(TASKS) and participant._owner.id == 3:
            contribution.vector.values[:] = 3_000
        return contribution

    monkeypatch.setattr(Participant, "_contribution", lying)
    directory, observer = run("federation.rounds=1", "aggregation.max_dropout=0.25", "privacy.epsilon=90.0")
    failures = [line for line in observer.lines if "exceeds its norm bound" in line]
    summary = summary_of(directory)
    assert len(failures) == 1
    ledger = Ledgers(directory.ledger)
    kinds = [entry["kind"] for row in ledger.rows("server") for entry in [row.entry]]
    assert kinds.count("aborted") == 1
    if summary["rounds"] == 0:
        assert summary["stopped"] == "budget spent"
    ledger.close()


def test_a_run_stops_before_a_round_that_its_budget_does_not_cover(run, monkeypatch):
    original = Embedded.exchange

    def losing(engine, step, outgoing, seconds):
        reached = {client: outgoing[client] for client in outgoing if step in ("announce", "share") or client > 1}
        yield from original(engine, step, reached, seconds)

    monkeypatch.setattr(Embedded, "exchange", losing)
    directory, _ = run("federation.rounds=2")
    assert summary_of(directory)["rounds"] == 2  # charged at the floor, the plan's rounds fit exactly
    ledger = Ledgers(directory.ledger)
    server = ledger.open("server", ledger.last_row("server").filter.budget)
    assert server.remaining() < next(row.charge for row in ledger.rows("server") if row.entry["kind"] == "intent")
    server.verify()
    ledger.close()


def test_every_clients_ledger_verifies_and_equals_the_servers(run):
    directory, _ = run()
    ledgers = Ledgers(directory.owners / "host-0" / "ledgers.sqlite")
    server = Ledgers(directory.ledger)
    spent = server.last_row("server").filter.spent
    assert len(ledgers.owners()) == len(TASKS)
    for owner in ledgers.owners():
        ledger = ledgers.open(owner, ledgers.last_row(owner).filter.budget)
        ledger.verify()
        assert ledger.spent() == spent > 0
    ledgers.close()
    server.close()


def test_a_seeded_run_says_so_and_repeats_itself_in_one_process_or_two(run):
    one, _ = run(name="one")
    two, _ = run("engine.processes=2", name="two")
    assert summary_of(one)["reproducible_entropy"] is True
    first = load_file(one.adapter / "adapter_model.safetensors")
    second = load_file(two.adapter / "adapter_model.safetensors")
    assert all((first[name] == second[name]).all() for name in first)


def test_a_run_directory_is_never_overwritten(run):
    directory, _ = run("federation.rounds=1")
    before = directory.summary.read_bytes()
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        run("federation.rounds=1")
    assert directory.summary.read_bytes() == before


def test_what_a_run_without_privacy_decodes_differs_from_the_float_sum_by_rounding_alone(run, recovered, monkeypatch):
    updates = []
    original = client_round._weigh

    def recorded(learned, *rest):
        weighed, hidden = original(learned, *rest)
        updates.append(weighed.weight * learned.update.values)
        return weighed, hidden

    monkeypatch.setattr(client_round, "_weigh", recorded)
    directory, _ = run("federation.rounds=1", "privacy.unit=none", "privacy.clip_norm=50.0")
    (result,) = recovered
    dimension = len(updates[0])
    step = 50.0 / (5 * dimension**0.5)
    exact = np.sum(updates, axis=0) / result.conclusion.mean.mean_weight / len(TASKS)
    assert np.abs(result.conclusion.mean.update - exact).max() <= len(TASKS) * step / (0.5 * len(TASKS))
    assert summary_of(directory)["differential_privacy"] == "no differential privacy"


def test_a_seed_in_a_configuration_is_no_key_to_the_noise_of_an_owner_who_does_not_say_so(trial):
    """Whoever writes the configuration of others' runs would compute their keys, masks and noise."""
    noised = []
    for name in ("one", "other"):
        federation = trial.federation(name=name)
        place = federation.directory.owners / "policies" / "add" / "client-policy.toml"
        written = place.read_text()
        assert 'entropy = "seeded"' in written
        place.write_text(written.replace('entropy = "seeded"', 'entropy = "os"'))
        trial.restart(federation)
        noised.append(trial.conduct(federation).noised)
    same = {client: (noised[0][client].values == noised[1][client].values).all() for client in noised[0]}
    assert same == {client: client != 0 for client in range(8)}
