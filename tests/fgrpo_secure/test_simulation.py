"""The simulator behind the sweeps does what a federation does: same tokens, updates, integers and model."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fgrpo_secure.learning.grpo import rollouts

TASKS = ("add", "sub", "mul", "sort", "rev", "cnt", "mod", "minmax")
ROUNDS = 3  # gains are zero before the third
SGD = ("grpo.optimizer=sgd", "grpo.learning_rate=100")
LIKE_QUICKSTART = (*SGD, f"federation.rounds={ROUNDS}")


@pytest.fixture
def simulate(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import simulate

    yield simulate
    for name in ("levers", "simulate", "batched"):
        sys.modules.pop(name, None)


class Watched:
    """A simulation whose stages are kept, round by round."""

    def __init__(self, simulation):
        self.simulation, self.trained, self.vectors = simulation, [], []
        for name, kept in (("train", self.trained), ("contributions", self.vectors)):
            setattr(simulation, name, self._keeping(getattr(simulation, name), kept))

    @staticmethod
    def _keeping(original, kept):
        def keep(*arguments):
            kept.append(original(*arguments))
            return kept[-1]

        return keep


def both(trial, simulate, monkeypatch, *overrides):
    """The same rounds by the federation and by the simulator: (sessions, sampled ids, federation), watched."""
    sampled = []
    original = rollouts.sample
    monkeypatch.setattr(rollouts, "sample", lambda *given: sampled.append(original(*given)) or sampled[-1])
    federation = trial.federation(*LIKE_QUICKSTART, *overrides)
    for number in range(ROUNDS):
        trial.conduct(federation, number)
    config, _ = trial.configure(*LIKE_QUICKSTART, *overrides)
    watched = Watched(simulate.Simulation.open(config, trial.folder / "owners"))
    for number in range(ROUNDS):
        watched.simulation.round(number)
    return federation, sampled, watched


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factors", "steps", "optimizer"),
    [
        ("ffa", 1, SGD),
        ("alternate", 1, SGD),
        ("full", 1, SGD),
        ("alternate", 2, ("grpo.optimizer=sgd", "grpo.learning_rate=1")),
        ("full", 3, ("grpo.optimizer=adam", "grpo.learning_rate=0.01")),
        ("ffa", 1, (*SGD, "privacy.adaptive_clip.quantile=0.5", "server.momentum=0.5")),
    ],
)
def test_a_simulated_run_samples_trains_encodes_and_applies_as_the_federation_does(
    trial, simulate, monkeypatch, factors, steps, optimizer
):
    settings = (f"adapter.factors={factors}", f"federation.local_steps={steps}", *optimizer)
    federation, sampled, watched = both(trial, simulate, monkeypatch, *settings)
    sampled = sampled[::steps]  # a client's steps follow each other
    clients = len(watched.simulation.owners)
    for number, session in enumerate(trial.sessions):
        trained, vectors = watched.trained[number], watched.vectors[number]
        rows = trained.ids.shape[0] // clients
        for client in range(clients):
            real, mine = sampled[number * clients + client], slice(client * rows, (client + 1) * rows)
            assert trained.ids[mine, : real.ids.shape[1]].tolist() == real.ids.tolist()
            assert trained.ends[mine].tolist() == real.mask.sum(dim=1).tolist()
            update = session.learned[client].update.values
            size = max(1.0, np.linalg.norm(update))
            # Sums over rows in another order: Adam's first steps divide what is nearly 0 by its own size.
            differs = np.abs(trained.updates[client] - update) / size
            assert differs.max() <= 1e-3
            assert np.count_nonzero(differs > 1e-5) <= 0.005 * differs.size
            off = vectors[client] - session.noised[client].values  # a rounding tie falls otherwise now and then
            assert np.abs(off).max() <= 1
            assert np.count_nonzero(off) <= 0.002 * off.size + 1
        drift = np.sum(vectors, axis=0) - session.total
        assert np.abs(drift).max() <= 1
    np.testing.assert_allclose(
        watched.simulation.adapted.get_vector(0), federation.adapted.get_vector(0), rtol=0, atol=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["prompt_group", "subject"])
def test_units_inside_clients_are_clipped_rounded_and_added_up_as_in_the_federation(trial, simulate, unit):
    subject = 'subject = "who"\nrows_per_subject = 2\n' if unit == "subject" else ""
    clients = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\nrows = 8\n{subject}' for task in TASKS)
    text = f"""{clients}[run]
entropy = "seeded"
[adapter]
rank = 1
[federation]
rounds = 2
[grpo]
num_generations = 4
prompts_per_step = {2 if unit == "subject" else 1}
[privacy]
unit = "{unit}"
epsilon = 60.0
clip_norm = 0.05
max_rounds_per_unit = 1
[aggregation]
adversary = "lying_server"
max_dropout = 0.25
"""
    federation = trial.federation(text=text)
    config, _ = trial.configure(text=text)
    watched = Watched(simulate.Simulation.open(config, trial.folder / "owners"))
    for number in range(2):
        session = trial.conduct(federation, number)
        watched.simulation.round(number)
        drift = np.sum(watched.vectors[number], axis=0) - session.total
        assert np.abs(drift).max() <= 1  # a rounding tie falls otherwise now and then
        assert np.count_nonzero(drift) <= 0.01 * drift.size + 1
        assert np.abs(watched.trained[number].updates).max() > 0
    np.testing.assert_allclose(
        watched.simulation.adapted.get_vector(0), federation.adapted.get_vector(0), rtol=0, atol=1e-3
    )


def test_the_noise_of_a_simulated_client_is_the_one_the_federation_draws(trial, simulate):
    session = trial.conduct(trial.federation(*LIKE_QUICKSTART))
    config, _ = trial.configure(*LIKE_QUICKSTART)
    watched = Watched(simulate.Simulation.open(config, trial.folder / "owners"))
    watched.simulation.round(0)
    for client, noised in session.noised.items():
        added = noised.values - session.encoded[client].values
        simulated = watched.vectors[0][client] - session.encoded[client].values
        assert np.abs(simulated - added).max() <= 1


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("grpo.num_iterations=2", "num_iterations"),
        ("grpo.beta=0.1", "beta"),
        ("grpo.loss_type=bnpo", "loss_type"),
        ("grpo.top_p=0.9", "top_p"),
    ],
)
def test_a_simulation_refuses_what_its_arithmetic_does_not_cover(trial, simulate, setting, named):
    config, _ = trial.configure(setting)
    with pytest.raises(ValueError, match=named):
        simulate.Simulation.open(config, trial.folder / "owners")


def test_a_proximal_term_draws_every_step_after_the_first_back_to_where_the_round_began(trial, simulate):
    config, _ = trial.configure("grpo.optimizer=sgd", "grpo.learning_rate=0.5")
    grpo = config.grpo.model_copy(update={"max_grad_norm": None})
    steps = simulate.LocalSteps((1, 2), grpo, proximal=0.4)
    steps.step(np.array([[1.0, -2.0]]))
    np.testing.assert_allclose(steps.moved, [[-0.5, 1.0]])
    steps.step(np.array([[1.0, 0.0]]))  # 1 + 0.4 * -0.5 and 0 + 0.4 * 1
    np.testing.assert_allclose(steps.moved, [[-0.9, 0.8]], rtol=1e-6)


def test_noise_at_each_client_alone_is_as_much_as_the_whole_sum_needs(trial, simulate):
    trial.conduct(trial.federation(*LIKE_QUICKSTART))  # whose folders the simulations read
    config, _ = trial.configure(*LIKE_QUICKSTART)
    import levers

    silently = Watched(simulate.Simulation.open(config, trial.folder / "owners", plain=True))
    alone = Watched(levers.LocalNoise.open(config, trial.folder / "owners"))
    for watched in (silently, alone):
        watched.simulation.round(0)  # and the sum of so much noise is within the bound that goes with it
    multiplier = alone.simulation.privacy.claim.noise_multiplier
    settings = simulate.run_plan.settings_of_round(
        config, alone.simulation.privacy, 0, alone.simulation.dimension(0), ()
    )
    deviation = multiplier * settings.unit_lattice(alone.simulation.dimension(0)).integer_bound
    for silent, local in zip(silently.vectors[0], alone.vectors[0], strict=True):
        noise = (local - silent).astype(float)
        assert noise.std() == pytest.approx(deviation, rel=5 / (2 * noise.size) ** 0.5 + 1e-3)
