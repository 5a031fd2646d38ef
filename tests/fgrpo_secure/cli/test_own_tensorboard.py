"""`fgrpo client watch --tensorboard`: an owner's rounds as TensorBoard itself reads them, and nowhere else."""

import sys
from contextlib import closing

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app, client_watch
from fgrpo_secure.client import own_view
from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.storage.client_folder import ClientFolder

BEST = own_view.Completion("2+2=", "<b>4", 1.0, True)
FIRST = own_view.RoundView(1, 0.25, 0.0, 1.0, 4, 3, 5.5, 0.5, 1.25, 0.02, None, 0.5, 1.0, (BEST,))
NEXT = own_view.RoundView(1, 0.5, 0.5, 0.5, 4, 0, 6.0, 0.0, 1.0, None, 0.1, 0.0, 1.0)  # of another run: from 1 again


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path):
    """An owner's, with one round and one session that ended."""
    made = call("client", "new", tmp_path / "east", "--task", "add")
    assert made.exit_code == 0, made.output
    own = ClientFolder.open(tmp_path / "east")
    drafted = own.policy.read_text()
    own.policy.write_text(drafted.replace("[trust]", f'[trust]\nauthority = "{"0" * 64}"\nmodels = ["{"0" * 64}"]', 1))
    own_view.append(own.log, FIRST)
    budget = client_policy.read(own.policy).budget()
    with closing(Ledger.open(own.ledgers, 2, budget)) as ledger:
        ledger.intent(bytes(32), 0, budget)
        ledger.settle(bytes(32), 5, budget / 2)
    return own


def state(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def values(path):
    """(name -> [(step, value)], texts) as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(path))
    reader.Reload()
    tags = reader.Tags()
    numbers = {
        name: [(each.step, pytest.approx(each.value)) for each in reader.Scalars(name)] for name in tags["scalars"]
    }
    texts = [each.tensor_proto.string_val[0].decode() for name in tags["tensors"] for each in reader.Tensors(name)]
    return numbers, texts


def test_an_owner_has_its_rounds_for_tensorboard_where_it_asks(folder):
    before = state(folder.root.parent)
    assert call("client", "watch", folder.root, "--once").exit_code == 0
    assert state(folder.root.parent) == before, "only where it asks"
    done = call("client", "watch", folder.root, "--once", "--tensorboard")
    assert done.exit_code == 0, done.output
    numbers, texts = values(folder.tensorboard)
    policy = client_policy.read(folder.policy)
    halfway = policy.reading(policy.budget() / 2, policy.budget())
    kept = {"reward": 0.25, "reward_low": 0, "reward_high": 1, "prompts": 4, "differing": 3, "length": 5.5, "kl": 0.02}
    kept |= {"cut_off": 0.5, "entropy": 1.25, "norm": 0.5, "clip_norm": 1, "epsilon": halfway}
    assert numbers == {f"own/{name}": [(1, pytest.approx(value))] for name, value in kept.items()}
    assert texts == ["    2+2= -> <b>4 (cut off): 1"], "as it stands: no markup of a model's is shown as such"
    written = list(folder.tensorboard.iterdir())
    assert [path.stat().st_mode & 0o077 for path in (folder.tensorboard, *written)] == [0, 0]
    after = state(folder.root.parent)
    assert {path for path in after if before.get(path) != after[path]} == set(written), "nothing of it is elsewhere"


def test_rounds_reach_tensorboard_while_an_owner_watches_and_once_each(folder):
    with client_watch.events(folder) as write:
        write()
        own_view.append(folder.log, NEXT)
        write()
        write()
        numbers, _ = values(folder.tensorboard)
    assert (numbers["own/reward"], numbers["own/clip_ratio"]) == ([(1, 0.25), (2, 0.5)], [(2, 0.1)])
    call("client", "watch", folder.root, "--once", "--tensorboard")
    assert len(list(folder.tensorboard.iterdir())) == 1, "what was written before is written anew"
    assert values(folder.tensorboard)[0]["own/reward"] == [(1, 0.25), (2, 0.5)]


def test_without_tensorboard_one_sentence_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = call("client", "watch", folder.root, "--once", "--tensorboard")
    assert done.exit_code == 2
    assert done.stderr == "fgrpo: TensorBoard is not installed; install the extra 'tensorboard'\n"
    assert not folder.tensorboard.exists()


def test_a_round_of_an_owners_own_trainer_has_what_that_told(folder):
    told = own_view.RoundView(
        2,
        0.5,
        None,
        None,
        8,
        None,
        None,
        None,
        None,
        None,
        None,
        3.0,
        1.0,
        seconds=12.0,
        trainer="trl",
        reward_spread=0.25,
    )
    own_view.append(folder.log, told)
    assert call("client", "watch", folder.root, "--once", "--tensorboard").exit_code == 0
    numbers, _ = values(folder.tensorboard)
    second = {name: points[1:] for name, points in numbers.items() if name not in ("own/kl", "own/epsilon")}
    of_trainer = {"own/seconds": 12.0, "own/reward_spread": 0.25}
    assert {name: numbers[name] for name in of_trainer} == {name: [(2, value)] for name, value in of_trainer.items()}
    assert {name for name, points in second.items() if points} == {
        f"own/{n}" for n in ("reward", "prompts", "norm", "clip_norm")
    }
