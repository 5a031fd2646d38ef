"""A run of five organisations, each by its own folder alone, whose participants are what the embedded engine runs."""

import contextlib
import json
import os
import shutil
import sqlite3
import threading

import pytest
from msgspec.structs import replace
from safetensors.torch import save
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.engines.host import Host
from fgrpo_secure.engines.messages import Begin, Recover, Step, Witness
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.run import training
from fgrpo_secure.storage import rosters
from fgrpo_secure.storage.client_folder import ClientFolder
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError

NAMES = ("north", "south", "east", "west", "centre")
RUN = (
    '[run]\nname = "five"\n[federation]\nclients = 5\nrounds = 2\n[engine]\nkind = "https"\n[adapter]\nrank = 1\n'
    '[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.2\n'
    "[grpo]\nnum_generations = 2\nprompts_per_step = 1\nmax_completion_length = 4\n"
    '[evaluation]\ntasks = ["add"]\nprompts = 2\nsamples = 1\nevery = 0\n'
)


def said(*arguments):
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout.strip()


class Lines(list):
    """An observer that keeps what a terminal would show; `drain_at` ends the run before that round."""

    def __init__(self, directory, drain_at=None):
        super().__init__()
        self.directory, self.drain_at = directory, drain_at

    def say(self, line):
        self.append(line)

    def started(self, *_):
        pass

    def step(self, *_):
        pass

    def finished_round(self, metrics):
        if metrics.round == self.drain_at:
            self.directory.drain.touch()


class Apart:
    """Hosts of one owner each in this process, asked one after the other: each sees its own messages alone."""

    def __init__(self, hosts):
        self.hosts = dict(enumerate(hosts))

    def handle(self, request):
        for client, host in self.hosts.items():
            if isinstance(request, Step) and client in request.messages:
                yield from host.handle(replace(request, messages={client: request.messages[client]}))
            elif isinstance(request, Witness) and client in request.exhibits:
                yield from host.handle(replace(request, exhibits={client: request.exhibits[client]}))
            elif not isinstance(request, Step | Witness):
                yield from host.handle(request)

    def close(self):
        for host in self.hosts.values():
            host.close()


def invited(root, run=RUN, data=None, edited=lambda policy: policy):
    """The run's directory in `root`, with five organisations that have joined; `data` says who trains on what, `edited`
    what owners make of their policies before."""
    (root / "run.toml").write_text(run)
    key = said("authority", "new", root / "authority")
    lines = [said("client", "new", root / name, *(data or {}).get(name, ("--task", "add"))) for name in NAMES]
    said("authority", "sign", root / "authority", *lines)
    said("server", "new", root / "run.toml", "--authority", key, "--out", root / "five")
    roster = ("--roster", root / "authority" / "roster.bin")
    said("server", "invite", root / "five", "--url", "https://server.example", *roster)
    for name in NAMES:
        policy = root / name / "client-policy.toml"
        policy.write_text(edited(policy.read_text()))
        said("client", "join", root / name, root / "five.invitation.json", "--yes")
    return RunDirectory(root / "five")


def apart(root):
    folders = [ClientFolder.open(root / name) for name in NAMES]
    return Embedded([Apart([Host.of_owner(folder, folder.choose(None)) for folder in folders])])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder of everything, authority's key, server's key, run directory) of a run that was drained in between."""
    root = tmp_path_factory.mktemp("five")
    directory = invited(root)
    key, server = (rosters.pins(directory).authority.hex(), rosters.pins(directory).server.hex())
    first = Lines(directory, drain_at=1)
    training.serve(directory, lambda *_: apart(root), first)
    assert "drained after round 1" in first[-1]
    assert not directory.statement.exists()
    directory.drain.unlink()
    training.serve(directory, lambda *_: apart(root), Lines(directory))
    return root, key, server, directory


def test_the_run_verifies_for_somebody_who_has_its_directory_and_two_public_keys(finished, tmp_path):
    root, key, server, directory = finished
    shutil.copytree(directory.root, tmp_path / "handed")
    assert "verifies" in said("verify", tmp_path / "handed", "--authority", key, "--server", server)
    wrong = CliRunner().invoke(app, ["verify", str(tmp_path / "handed"), "--authority", server])
    assert wrong.exit_code == 1
    summary = json.loads((tmp_path / "handed" / "summary.json").read_text())
    assert (summary["rounds"], summary["clients"]) == (2, 5)
    assert not (root / "five.owners").exists()
    assert not directory.simulation.exists()


def test_every_owner_kept_a_receipt_and_a_ledger_that_show_what_the_server_charged(finished, tmp_path):
    root, key, server, directory = finished
    with_receipts = ["verify", directory.root, "--authority", key, "--server", server]
    for name in NAMES:
        file = said("client", "receipt", root / name, "--out", tmp_path)
        with_receipts += ["--receipt", file]
    assert "verifies" in said(*with_receipts)
    for name in NAMES:
        assert "in 2 sessions" in said("client", "status", root / name)
        assert "2 sessions" not in said("ledger", "show", root / name / "books" / "ledgers.sqlite").splitlines()[-2]
        assert "verify, root" in said("ledger", "verify", root / name)
    with pytest.raises(RunDirectoryError, match="holds no run"):
        RunDirectory(root / "north").require()


def secrets_of(folder):
    """What only this owner may hold: its identity seed, and whatever its books keep of secrets."""
    enrolled = folder.enrolled()
    assert enrolled is not None
    return {enrolled[1]}


def found_in(folder, secrets):
    hits = set()
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        hits |= {secret for secret in secrets if secret in data or secret.hex().encode() in data}
    return hits


def test_no_folder_holds_a_secret_of_another(finished, tmp_path):
    root, _, _, directory = finished
    folders = {name: ClientFolder.open(root / name) for name in NAMES}
    authority = bytes.fromhex((root / "authority" / "authority.identity").read_text().split('seed = "')[1][:64])
    secrets = {name: secrets_of(folder) for name, folder in folders.items()}
    secrets |= {"server": {directory.server_key.read_bytes()}, "authority": {authority}}
    places = {name: folder.root for name, folder in folders.items()}
    places |= {"server": directory.private, "authority": root / "authority", "handed over": directory.root}
    for place, where in places.items():
        for owner, held in secrets.items():
            assert found_in(where, held) == (held if place == owner else set()), (place, owner)
    shutil.copytree(places["north"], tmp_path / "north")
    with sqlite3.connect(tmp_path / "north" / "books" / "state.sqlite") as database:
        database.execute("INSERT INTO identity VALUES (9, ?)", tuple(secrets["south"]))
    assert found_in(tmp_path / "north", secrets["south"]) == secrets["south"], "the search finds one that is there"


def test_an_owners_log_and_ledger_are_its_own_and_the_same_charge_stands_in_all(finished):
    root = finished[0]
    charges = []
    for number, name in enumerate(NAMES):
        store = Ledgers.read(ClientFolder.open(root / name).ledgers)
        assert store.owners() == (str(number),)
        charges.append(store.existing(str(number)).spent())
        store.close()
    assert len(set(charges)) == 1
    assert charges[0] > 0


def test_a_reward_that_cannot_be_loaded_any_more_is_noise_and_nobody_but_its_owner_sees_it(tmp_path):
    """A module that reads its owner's data when it is loaded would say by the client's silence what it found."""
    reward, rows = tmp_path / "own.py", tmp_path / "rows.jsonl"
    reward.write_text("def pay(completions, **columns): return [float(len(text)) for text in completions]\n")
    rows.write_text('{"prompt": "1+2="}\n{"prompt": "3+4="}\n')
    root, data = tmp_path / "five", {"north": ("--data", rows, "--reward", f"{reward}:pay")}
    root.mkdir()
    directory = invited(root, RUN.replace("rounds = 2", "rounds = 1"), data)
    reward.write_text("raise ValueError('PLANTED')\n")
    training.serve(directory, lambda *_: apart(root), Lines(directory))
    summary = json.loads(directory.summary.read_text())
    assert (summary["rounds"], summary["dropouts"], summary["failed_sessions"]) == (1, 0, 0)
    log = ClientFolder.open(root / "north").log.read_text()
    assert "own.py" in log
    assert "raised ValueError in own.py, line 1; this client contributes nothing but noise" in log
    assert "PLANTED" not in log
    assert "north" in said("client", "status", root / "north")


class Pipes:
    """An owner's file as a pipe with a writer: who opens it is seen, however and wherever it is read."""

    def __init__(self, path, content):
        os.mkfifo(path)
        self.path, self.opened, self._content = path, threading.Event(), content
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with self.path.open("wb", buffering=0) as pipe:  # returns when a reader comes
            self.opened.set()
            with contextlib.suppress(BrokenPipeError):
                pipe.write(self._content)


KINDS = {  # name of the file, the unit of the run, what `fgrpo client new` is told beside the file
    "lines": ("rows.jsonl", "client", ()),
    "people": ("rows.jsonl", "subject", ("--subject", "person")),
    "prompts": ("rows.jsonl", "prompt_group", ()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_owner_brings_is_opened_by_its_training_and_by_nothing_that_answers(tmp_path, kind):
    """How long that takes would show in when the process answers, and in when it begins to count its time."""
    name, unit, told = KINDS[kind]
    reward, loaded = tmp_path / "own.py", tmp_path / "loaded"
    reward.write_text(
        f"open({str(loaded)!r}, 'w').close()\ndef pay(completions, **columns): return [0.0] * len(completions)\n"
    )
    root, rows = tmp_path / "five", tmp_path / name
    root.mkdir()
    data = {"north": ("--data", rows, "--reward", f"{reward}:pay", *told)}
    small = "" if unit == "client" else f'[privacy]\nunit = "{unit}"\nepsilon = 8.0\nunits_per_client = 4\n'
    text = RUN.replace("[evaluation]", f"{small}[evaluation]")
    for each in NAMES[1:] if small else ():
        data[each] = ("--data", tmp_path / "none.jsonl", "--reward", f"{reward}:pay", *told)
    directory = invited(root, text, data, (lambda text: text.replace('unit = "client"', f'unit = "{unit}"')))
    pipe = Pipes(rows, b'{"prompt": "1+2=", "person": "ann"}\n')
    folder = ClientFolder.open(root / "north")
    with contextlib.closing(Host.of_owner(folder, folder.choose(None))) as host:
        (owner,) = [each._owner for each in host._participants.values()]
        list(host.handle(Begin(save(dict(host._adapted.full_state())), 0, directory.roster.read_bytes())))
        list(host.handle(Recover([bytes(32)])))
        assert not pipe.opened.is_set()
        assert not loaded.exists()
        owner.opened()
        assert pipe.opened.wait(60)
        assert loaded.exists()
