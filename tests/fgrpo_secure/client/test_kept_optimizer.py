"""An owner whose optimiser goes on between rounds: what it remembers moves when a session settles, and never leaves."""

import base64
import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

from fgrpo_secure.client import trained
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.client.round import Contribution, Learned
from fgrpo_secure.client.store import ClientStore, read_baseline, write_baseline
from fgrpo_secure.config import own_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.config.files import load as configured
from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.gain import Baseline
from fgrpo_secure.learning.grpo import local_update, moments, rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.local_update import PromptGroups
from fgrpo_secure.learning.grpo.moments import Moments
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.run import training
from fgrpo_secure.server.stages import SessionFailed

RUN = b"run" + bytes(13)
SETTINGS = Grpo(num_generations=3, max_completion_length=6, learning_rate=0.01)
KEEPS = ("privacy.unit=none", "adapter.factors=alternate", "federation.rounds=4")
EVERYBODY = set(range(8))


def learn(adapted, steps, kept=None, round_number=0):
    def groups(step):
        made = rollouts.sample(adapted, ["12+3=", "4-b"], SETTINGS, Streams(3))
        return PromptGroups(made, np.random.default_rng(2).normal(size=(2, 3)))

    return local_update.run(adapted, groups, SETTINGS, round_number, steps, moments=kept)


def test_two_rounds_of_one_step_are_one_round_of_two_where_the_optimizer_is_kept(make_adapted):
    adapted, kept = make_adapted(), Moments()
    start, whole = adapted.get_vector(0), learn(adapted, 2)
    adapted.set_vector(0, start + learn(adapted, 1, kept))
    kept = Moments(kept.kept)  # from its bytes alone
    after, second = adapted.get_vector(0), learn(adapted, 1, kept)
    np.testing.assert_allclose(after + second - start, whole, atol=1e-9)
    afresh = learn(adapted, 1)
    assert np.linalg.norm(second - afresh) > 0.1 * np.linalg.norm(afresh)


def test_moments_of_each_factor_wait_for_its_next_round(make_adapted):
    adapted, kept = make_adapted(factors="alternate"), Moments()
    learn(adapted, 1, kept, round_number=0)
    of_b = load(kept.kept)
    learn(adapted, 1, kept, round_number=1)
    both = load(kept.kept)
    assert {name.split("/")[0] for name in both} == {"A", "B"}
    assert all(torch.equal(both[name], each) for name, each in of_b.items())


def test_moments_that_are_not_finite_or_too_large_are_not_kept(make_adapted, monkeypatch):
    adapted, kept = make_adapted(), Moments()
    learn(adapted, 1, kept)
    before = kept.kept
    parameters = adapted.trainable(0)
    broken = torch.optim.Adam(parameters)
    parameters[0].grad = torch.full_like(parameters[0], float("inf"))
    received = adapted.get_vector(0)
    broken.step()
    adapted.set_vector(0, received)
    kept.keep("AB", broken)
    assert kept.kept == before
    monkeypatch.setattr(moments, "LARGEST", 10)
    learn(adapted, 1, kept)
    assert kept.kept == before
    assert repr(kept) == "Moments()"


def test_a_store_moves_moments_once_a_round_and_leaves_them_where_a_round_had_none(tmp_path):
    store = ClientStore(tmp_path / "state.sqlite")
    for each in (b"of a session that failed", b"first"):
        store.put_moments(0, RUN, each)
    store.put_baseline(0, RUN, 0, Contribution(None, Baseline(1.0, 0.0, 1), 1.0, b"first").history())
    store.put_moments(0, RUN, b"again")
    store.put_baseline(0, RUN, 0, write_baseline(Baseline(), b"again"))
    store.put_baseline(0, RUN, 1, write_baseline(Baseline(2.0, 0.0, 2)))  # nothing was trained
    store.close()
    store = ClientStore(tmp_path / "state.sqlite")
    assert [store.moments_before(0, RUN, number) for number in range(3)] == [b"", b"first", b"first"]
    assert store.baseline_before(0, RUN, 2) == Baseline(2.0, 0.0, 2)
    assert store.moments_before(1, RUN, 3) == b""
    store.close()
    assert read_baseline(write_baseline(Baseline(1.0, 0.0, 1), b"first")) == Baseline(1.0, 0.0, 1)


def test_what_a_session_writes_once_it_was_announced_is_as_short_with_moments_as_without(tmp_path):
    """Megabytes take time, and the server waits for each answer: moments are on disk before the announcement."""
    store = ClientStore(tmp_path / "state.sqlite")
    store.put_moments(0, RUN, bytes(1 << 20))
    written = [Contribution(None, Baseline(), 1.0, moments).history() for moments in (b"", bytes(1 << 20))]
    assert max(map(len, written)) - min(map(len, written)) == 64  # the name of what lies elsewhere
    before = store._db.total_changes, (tmp_path / "state.sqlite").stat().st_size
    store.put_baseline(0, RUN, 0, written[1])
    store.put_baseline(0, RUN, 1, written[0])
    assert (tmp_path / "state.sqlite").stat().st_size - before[1] < 1 << 16
    assert store.moments_before(0, RUN, 2) == bytes(1 << 20)
    store.forget_baselines(RUN)
    assert store._db.execute("SELECT count(*) FROM moments").fetchone() == (0,)
    store.close()


def test_moments_are_written_before_the_announcement_and_by_no_step_after_it(trial, monkeypatch):
    written, asked = [], []
    put, handle, train = ClientStore.put_moments, Participant.handle, Participant.train

    def prepared(participant, plan, adapted):  # as a client on its own machine does when its training has ended
        train(participant, plan, adapted)
        participant.prepare(plan)

    def noted(participant, step, message):
        asked.append(step)
        return handle(participant, step, message)

    monkeypatch.setattr(Participant, "train", prepared)
    monkeypatch.setattr(Participant, "handle", noted)
    monkeypatch.setattr(ClientStore, "put_moments", lambda *given: (written.append(len(asked)), put(*given))[1])
    trial.conduct(trial.federation(*KEEPS, text=of_everybody(trial)), 0)
    assert written == [0] * len(EVERYBODY)
    assert len(asked) == 4 * len(EVERYBODY)


def test_moments_pass_the_pipe_between_a_clients_processes():
    learned = Learned(Update(np.ones(3)), None, 1.5, b"what it remembers")
    assert trained.read(trained.write(learned)).moments == learned.moments
    assert "remembers" not in repr(learned) + repr(Contribution(None, Baseline(), 1.0, b"remembers"))


def of_everybody(trial):
    """A small federation's text whose clients all keep their optimiser."""
    return trial.text.replace("task =", "keep_optimizer = true\ntask =")


def held(federation, training_round):
    store = federation.engine.hosts[0]._book.store
    return {client: store.moments_before(client, federation.run, training_round) for client in EVERYBODY}


def test_only_a_session_that_settles_moves_the_moments_on(trial):
    federation = trial.federation(*KEEPS, text=of_everybody(trial))
    with pytest.raises(SessionFailed):
        trial.conduct(federation, 0, lost={"agree": EVERYBODY - {0}})
    assert set(held(federation, 1).values()) == {b""}
    trial.conduct(federation, 0)
    first = held(federation, 1)
    assert all(first.values())
    assert held(federation, 0) != first
    with pytest.raises(SessionFailed):
        trial.conduct(federation, 1, lost={"agree": EVERYBODY - {0}})
    assert held(federation, 2) == first


class Stops(training.Observer):
    def finished_round(self, metrics):
        if metrics.round == 3:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_adapter_of_one_that_never_stopped_and_shows_no_moments(trial):
    """From the third round on the optimiser's memory of B matters: without it the adapter is another."""
    text = of_everybody(trial)
    straight = trial.run(*KEEPS, text=text, name="straight")
    forgets = trial.run(*KEEPS, name="forgets")
    config, stopped = trial.configure(*KEEPS, text=text, name="stopped")
    with pytest.raises(KeyboardInterrupt):
        training.start(config, stopped, Stops())
    training.resume(stopped, trial)
    one, other, third = (load_file(each.adapter / "adapter_model.safetensors") for each in (straight, stopped, forgets))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], third[name]) for name in one)
    (store,) = map(ClientStore, straight.owners.rglob("state.sqlite"))
    remembered = store.moments_before(0, store._db.execute("SELECT run FROM baseline").fetchone()[0], 4)
    store.close()
    secrets = [remembered[-60:], base64.b64encode(remembered[-60:]), hashlib.sha256(remembered).hexdigest().encode()]
    assert any(secrets[2] in path.read_bytes() for path in straight.owners.rglob("*") if path.is_file())
    shown = [path.read_bytes() for path in straight.root.rglob("*") if path.is_file()]
    assert len(shown) > 10
    assert not any(secret in each for secret in secrets for each in shown)


UNITS = ("privacy.unit=prompt_group", "privacy.units_per_client=4", "privacy.epsilon=8")


def test_below_whole_clients_and_beside_another_trainer_it_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "run.toml").write_text('[[client]]\nname = "mine"\ntask = "add"\nrows = 4\nkeep_optimizer = true\n')
    with pytest.raises(ConfigError, match=r"'mine' has keep_optimizer: .* protect whole clients"):
        configured(str(tmp_path / "run.toml"), UNITS)
    configured(str(tmp_path / "run.toml"), ["privacy.unit=none"])
    path = tmp_path / "client.toml"
    path.write_text('name = "mine"\n[data]\ntask = "add"\nkeep_optimizer = true\n')
    own = own_file.load(path)
    own_file.check_unit(own, "client", str(path))
    with pytest.raises(ConfigError, match=r"client\.toml: client 'mine' has keep_optimizer"):
        own_file.check_unit(own, "subject", str(path))
    path.write_text('name = "mine"\n[data]\ntask = "add"\nkeep_optimizer = true\ntrainer = "trl"\n')
    with pytest.raises(ConfigError, match="whose optimiser is its own"):
        own_file.load(path)
