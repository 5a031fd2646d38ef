"""Neighbouring data, the same released sums: nothing else that leaves an owner or lies in the run may differ.

The first run is recorded. The second has other data in one client, and whatever sums it opens are replaced by those of
the first: from there on both runs know the same released facts. Then every byte on the wire, on the screen and in the
run directory must be the same, except in the fields of PAID, each with the entry that pays for it. Time is part of it:
a clock that stands still but for what data costs makes two runs differ wherever a client's time is measured.
"""

import dataclasses
import json
import shutil
import sqlite3

import msgspec
import pytest

from fgrpo_secure import entropy
from fgrpo_secure.client.owner import Owner
from fgrpo_secure.config import files as config_file
from fgrpo_secure.run import training
from fgrpo_secure.server import round as server_round
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols import wire

pytestmark = pytest.mark.slow  # whole runs: seconds each

SESSION = "the intent entry of its session, charged before masks were asked for"
PAID = {
    "upload.vectors": SESSION,
    "upload.signature": SESSION,  # over a digest of the vectors, like the three that follow
    "agreement.signature": SESSION,
    "opening.signature": SESSION,
    "signed.signature": SESSION,
}
REWARD = """
import os, sys, time
def pay(completions, mode, **columns):
    if mode[0] == "fails": raise ValueError(mode[0])
    if mode[0] == "ends": sys.exit(7)
    if mode[0] == "shouts": print("PLANTED", file=sys.stderr); os.write(2, b"PLANTED")
    if mode[0] == "slow": time.sleep(0.4)
    if mode[0] == "malformed": return "PLANTED"
    if mode[0] == "huge": return [1e300 * len(text) for text in completions]
    if mode[0] == "none": return [None] * len(completions)
    if mode[0] == "generates": return (1 / 0 for _ in completions)
    return [float(sum(map(ord, text)) % 7) for text in completions]
"""
PLAIN = [{"prompt": f"1{number}+3=", "mode": "plain"} for number in range(2)]
NEIGHBOURS = {
    "other prompts": [{"prompt": f"7{number}*22=", "mode": "plain"} for number in range(2)],
    "more rows": [*PLAIN, *({"prompt": "9-9=", "mode": "plain", "extra": [1]} for _ in range(30))],
    "a lone surrogate": [{**row, "prompt": "\ud800"} for row in PLAIN],
    "a column that cannot be printed": [{**row, "mode": "fails", "\ud800\nround 9: forged": 1} for row in PLAIN],
    "too long": [{**row, "prompt": "1" * 3000} for row in PLAIN],
    **{
        mode: [{**row, "mode": mode} for row in PLAIN]
        for mode in ("fails", "ends", "shouts", "slow", "malformed", "huge", "none", "generates")
    },
}
ANN = [{**row, "person": "ann"} for row in PLAIN]
BOB = [{"prompt": f"2{number}+5=", "mode": "plain", "person": "bob"} for number in range(3)]
SUBJECTS = {  # ann's rows stay as they are
    "nobody": [],
    "other prompts, other order": [{"prompt": "9*9=", "mode": "plain", "person": "bob"}, *BOB[::-1]],
    "columns of all kinds": [{**row, "\ud800\nforged": [1], "mode": "fails"} for row in BOB],
    "a thousand rows": BOB * 300,
    **{mode: [{**row, "mode": mode} for row in BOB] for mode in ("ends", "slow", "huge")},
}
CONFIG = """
[run]
entropy = "seeded"
[adapter]
rank = 1
[federation]
rounds = 2
[grpo]
num_generations = 4
prompts_per_step = 2
max_completion_length = 3
temperature = 3.0
[[client]]
name = "own"
data = {data}
reward = "pays:pay"
[[client]]
name = "others"
task = "add"
count = 7
{others}
[evaluation]
prompts = 2
samples = 1
every = 0
[privacy]
epsilon = 60.0
{unit}
[aggregation]
max_dropout = 0.25
"""


class Clock:
    """Stands still, but for what happens inside a client: that takes as long as its data says."""

    def __init__(self):
        self.now = 0.0

    def read(self):
        return self.now


class Watched:
    """A run of which everything that could be seen is kept."""

    def __init__(self, root, monkeypatch, trial, capfd):
        self.directory, self.trial, self.capfd = RunDirectory(root / "run"), trial, capfd
        self.clock, self.sums, self.unreplayed, self.replayed = Clock(), [], [], None
        monkeypatch.setattr(entropy, "processor_time", self.clock.read)
        monkeypatch.setattr(entropy, "stopwatch", self.clock.read)
        train, collect = Owner.train, server_round.collect

        def slowly(owner, adapted, settings):
            self.clock.now += 1.0 + (sum(map(len, map(str, owner.source.rows))) if owner.name == "own" else 0)
            return train(owner, adapted, settings)

        def collected(*arguments):
            recovered, traffic = collect(*arguments)
            self.unreplayed.append(recovered)
            if self.replayed is not None:
                recovered = dataclasses.replace(recovered, totals=self.replayed[len(self.sums)].totals)
            self.sums.append(recovered)
            return recovered, traffic

        def slow_units(owner, adapted, settings, step, unit):
            self.clock.now += 1.0 + (sum(map(len, map(str, owner.units.rows[unit]))) if owner.name == "own" else 0)
            return unit_groups(owner, adapted, settings, step, unit)

        unit_groups = Owner.unit_groups
        monkeypatch.setattr(Owner, "train", slowly)
        monkeypatch.setattr(Owner, "unit_groups", slow_units)
        monkeypatch.setattr(server_round, "collect", collected)

    def run(self, path, rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.clock.now, self.sums, self.unreplayed = 0.0, [], []
        self.trial.sessions.clear()
        self.trial.lines.clear()
        self.capfd.readouterr()
        training.start(config_file.load(str(path.with_name("run.toml"))), self.directory, self.trial)
        files = {
            each.relative_to(self.directory.root).as_posix(): content(each)
            for each in sorted(self.directory.root.rglob("*"))
            if each.is_file() and not each.name.endswith(("-wal", "-shm"))
        }
        up = {
            (number, *key): fields(payload)
            for number, session in enumerate(self.trial.sessions)
            for key, payload in session.up.items()
        }
        self.log = "".join(each.read_text() for each in self.directory.owners.rglob("own.log"))
        simulated = self.directory.simulation.read_text()
        seen = (files, up, list(self.trial.lines), self.capfd.readouterr())
        for leftover in (self.directory.root, self.directory.owners, self.directory.private):
            shutil.rmtree(leftover)
        return seen, simulated


def content(path):
    if path.suffix != ".sqlite":
        return path.read_bytes()
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        return "\n".join(database.iterdump())


TAGS = {
    each.__struct_config__.tag: each.__struct_fields__
    for each in vars(wire).values()
    if isinstance(each, type) and issubclass(each, msgspec.Struct) and each is not msgspec.Struct
}


def fields(payload):
    """Every field of a message and of the messages in it, by tag and name, but for those that are paid for."""
    parts = msgspec.msgpack.decode(payload)
    found = {}
    for name, value in zip(TAGS[parts[0]], parts[1:], strict=True):
        key = f"{parts[0]}.{name}"
        if parts[0] == "signed" and name == "body":
            found |= fields(value)
        elif key not in PAID:
            found[key] = value
    return found


@pytest.fixture
def watched(tmp_path, monkeypatch, trial, capfd):
    (tmp_path / "pays.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    for check in ("preflight", "inputs"):  # data may also change after the start
        monkeypatch.setattr(f"fgrpo_secure.run.{check}.check", lambda *_: None)
    monkeypatch.setattr("fgrpo_secure.engines.enrolment.utc_now", lambda: "2026-01-01T00:00:00+00:00")
    monkeypatch.setattr(entropy, "utc_now", lambda: "2026-01-01T00:00:00+00:00")  # the server's own dates
    return Watched(tmp_path, monkeypatch, trial, capfd)


UNITS = {  # the unit -> its lines of the configuration, data, that data with one unit's changed
    "client": ("", "", "", PLAIN, NEIGHBOURS),
    "subject": (
        'unit = "subject"\nunits_per_client = 4\nclip_norm = 0.01',
        'subject = "person"\nrows = 2\n',
        'subject = "person"',
        ANN + BOB,
        {name: ANN + rows for name, rows in SUBJECTS.items()},
    ),
}


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_neighbouring_data_changes_nothing_that_is_not_paid_for(watched, tmp_path, unit):
    privacy, others, own, plain, neighbours = UNITS[unit]
    path = tmp_path / "rows.jsonl"
    data = json.dumps(str(path)) + "\n" + own
    (tmp_path / "run.toml").write_text(CONFIG.format(data=data, others=others, unit=privacy))
    (files, up, lines, screen), simulated = watched.run(path, plain)
    assert screen == ("", "")
    sums = watched.sums
    for name, rows in neighbours.items():
        watched.replayed = sums
        (other_files, other_up, other_lines, other_screen), other_simulated = watched.run(path, rows)
        pairs = zip(sums, watched.unreplayed, strict=True)
        moved = any((one.totals[key] != other.totals[key]).any() for one, other in pairs for key in one.totals)
        assert moved or name in ("shouts", "slow"), (
            f"{name}: the neighbour's sums are the same, so the test tests nothing; {watched.log}"
        )
        if name in ("more rows", "a thousand rows"):
            assert other_simulated != simulated, "times differ, and have a place to differ in"
        assert {key for key in files if files[key] != other_files.get(key)} == set(), name
        assert files.keys() == other_files.keys(), name
        assert {key for key in up if up[key] != other_up.get(key)} == set(), name
        assert up.keys() == other_up.keys(), name
        assert (lines, screen) == (other_lines, other_screen), name
