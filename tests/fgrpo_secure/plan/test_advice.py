"""What the planner advises was planned again and is true: rounds that a budget buys, changes that let a run learn."""

import json
import math
from fractions import Fraction

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.plan import adapter_shape, advice, run_plan, schedule
from fgrpo_secure.plan.cost import CAN_LEARN, InfeasiblePlan
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.privacy.encode import Lattice


@pytest.fixture(scope="module")
def planned(small, tmp_path_factory):
    """(configuration, adapter shape) of the small trial with some overrides."""
    path = tmp_path_factory.mktemp("advice") / "small.toml"

    def make(*overrides, noise=None):
        text = small[0] if noise is None else small[0].replace("epsilon = 60.0", f"noise_multiplier = {noise}")
        path.write_text(text)
        config = config_file.load(str(path), overrides)
        return config, adapter_shape.read(config.model.path, config.adapter), path

    return make


# ----------------------------------------------------------------------------------------------- rounds for a budget


@pytest.mark.parametrize("budget", [3.0, 8.0, 20.0])
@pytest.mark.parametrize("noise", [2.0, 5.0])
def test_a_budget_buys_the_most_rounds_that_stay_within_it(planned, budget, noise):
    config, adapted, _ = planned(noise=noise)
    bought, found = advice.rounds_for_epsilon(config, adapted, budget)
    rounds = bought.federation.rounds
    assert found.claim.epsilon <= budget
    more = config.model_copy(update={"federation": config.federation.model_copy(update={"rounds": rounds + 1})})
    assert run_plan.plan(more, adapted).claim.epsilon > budget
    direct = max(t for t in range(1, 5000) if epsilon_of(math.sqrt(t * found.noise.charge), 1e-5) <= budget)
    assert rounds == direct


def test_a_run_that_states_epsilon_buys_its_own_rounds_with_it(planned):
    config, adapted, _ = planned("privacy.epsilon=8", "federation.rounds=6")
    bought, found = advice.rounds_for_epsilon(config, adapted, 8.0)
    assert bought.federation.rounds == 6
    assert found.claim.epsilon <= 8.0


def test_a_budget_below_one_round_names_what_one_costs_and_that_is_enough(planned):
    config, adapted, _ = planned(noise=2.0)
    with pytest.raises(InfeasiblePlan, match="one round at noise_multiplier = 2 costs more") as problem:
        advice.rounds_for_epsilon(config, adapted, 0.5)
    least = float(problem.value.nearest.removeprefix("epsilon = "))
    assert advice.rounds_for_epsilon(config, adapted, least)[0].federation.rounds == 1


@pytest.mark.parametrize("budget", [0.0, -1.0, math.inf, math.nan])
def test_a_budget_that_is_none_is_refused(planned, budget):
    config, adapted, _ = planned(noise=2.0)
    with pytest.raises(InfeasiblePlan, match="is no budget"):
        advice.rounds_for_epsilon(config, adapted, budget)


# ------------------------------------------------------------------------------------------------ what to change


@pytest.mark.parametrize(
    ("overrides", "noise", "ways"),
    [
        (("privacy.epsilon=8", "adapter.rank=2"), None, ("clients per round", "epsilon = ")),
        (("privacy.epsilon=45", "adapter.rank=4"), None, ("clients per round", "adapter.rank = ", "epsilon = ")),
        (("adapter.rank=1",), 1.0, ("clients per round", "rounds (epsilon = ")),
    ],
)
def test_following_any_one_advice_makes_the_plan_learn(planned, overrides, noise, ways):
    config, adapted, path = planned(*overrides, noise=noise)
    found = run_plan.plan(config, adapted)
    assert found.verdict != CAN_LEARN
    changes = advice.changes(config, adapted, found)
    for change in changes:
        changed = config_file.load(str(path), [*overrides, *change.overrides])
        again = adapter_shape.read(changed.model.path, changed.adapter)
        assert run_plan.plan(changed, again).verdict == CAN_LEARN, change
    assert any(ways[0] in change.says for change in changes)
    assert {way for way in ways for change in changes if way in change.says} <= set(ways)


@pytest.mark.parametrize("copies", [False, True])
def test_more_clients_are_advised_only_where_the_configuration_would_be_accepted(planned, tmp_path, copies):
    """Copies of a data file would give its units several budgets."""
    _, adapted, _ = planned()
    units = 'unit = "subject"\nepsilon = 1.0\nclip_norm = 0.01\nunits_per_client = 4\n'
    source = 'task = "add"\nrows = 4\nrows_per_subject = 1\n' if copies else 'data = "{}"\nreward = "exact"\n'
    clients = "".join(
        f'[[client]]\nname = "c{n}"\nsubject = "who"\n{source.format(tmp_path / str(n))}' for n in range(8)
    )
    (tmp_path / "units.toml").write_text(f"[privacy]\n{units}{clients}")
    config = config_file.load(str(tmp_path / "units.toml"), [])
    found = run_plan.plan(config, adapted)
    assert found.verdict != CAN_LEARN
    says = [change.says for change in advice.changes(config, adapted, found)]
    assert any("clients per round" in each for each in says) == copies
    assert any("epsilon = " in each for each in says)


def test_the_advised_number_of_clients_is_the_least_multiple(planned):
    config, adapted, path = planned("privacy.epsilon=8", "adapter.rank=2")
    changes = advice.changes(config, adapted, run_plan.plan(config, adapted))
    (clients,) = [change for change in changes if "clients per round" in change.says]
    times = int(clients.says.split()[0].replace(",", "")) // 8
    assert times > 1
    fewer = [override.rpartition("=")[0] + f"={times - 1}" for override in clients.overrides]
    config = config_file.load(str(path), ["privacy.epsilon=8", "adapter.rank=2", *fewer])
    assert run_plan.plan(config, adapted).verdict != CAN_LEARN


def test_a_plan_that_can_learn_gets_no_advice(planned):
    config, adapted, _ = planned("client.add.count=400", "privacy.epsilon=60")
    found = run_plan.plan(config, adapted)
    assert found.verdict == CAN_LEARN
    assert advice.changes(config, adapted, found) == ()


# ---------------------------------------------------------------------------------------------- rounds of two kinds


@pytest.mark.parametrize("more", [(), ("federation.schedule=blocks", "federation.clients_per_round=7")])
def test_alternate_rounds_are_charged_for_what_each_kind_costs(planned, more):
    config, adapted, _ = planned("adapter.factors=alternate", "federation.rounds=7", "adapter.rank=2", *more)
    found = run_plan.plan(config, adapted)
    honest, charges = found.noise.floor - found.noise.colluders, []
    for kind in (0, 1):
        lattice = Lattice.build(adapted.dimension(kind), config.privacy.clip_norm)
        shares = honest * run_plan.share_variance(found, lattice)
        charges.append(Fraction(lattice.integer_bound**2, shares - 4))
    assert charges[0] != charges[1]
    spent = {}
    for training_round in range(7):
        for client in schedule.cohort(config, training_round):
            spent[client] = spent.get(client, Fraction(0)) + charges[training_round % 2]
    assert found.claim.mu == pytest.approx(math.sqrt(max(spent.values())), rel=1e-15)
    assert found.claim.mu**2 <= found.claim.rounds * max(charges) * (1 + Fraction(1, 10**12))
    assert max(spent.values()) <= found.claim.budget
    assert found.claim.epsilon <= 60.0


def test_participation_by_parity_repeats_with_the_schedule(planned):
    overrides = ("federation.schedule=blocks", "federation.clients_per_round=6")
    for rounds in (1, 7, 16, 33, 40):
        config, _, _ = planned(*overrides, f"federation.rounds={rounds}")
        direct = {}
        for training_round in range(rounds):
            for client in schedule.cohort(config, training_round):
                direct.setdefault(client, [0, 0])[training_round % 2] += 1
        assert schedule.parities(config) >= {tuple(pair) for pair in direct.values()}
        assert max(sum(pair) for pair in schedule.parities(config)) == schedule.rounds_per_client(config)


def test_the_command_line_prints_rounds_and_advice_as_one_object(planned, capsys):
    from typer.testing import CliRunner

    from fgrpo_secure.cli import app

    _, _, path = planned(noise=2.0)
    outcome = CliRunner().invoke(app, ["plan", str(path), "--rounds-for-epsilon", "20", "--json"])
    facts = json.loads(outcome.stdout)
    assert outcome.exit_code == 0
    assert facts["privacy.epsilon_server"] <= 20 < facts["federation.rounds"] * 20
    assert all(set(change) == {"change", "set"} for change in facts["advice"])
    assert CliRunner().invoke(app, ["plan", str(path), "--rounds-for-epsilon", "0.01"]).exit_code == 2


# ------------------------------------------------------------------------------------------------------ sampled units


def sampled(rate, epsilon):
    config = config_file.load("hospitals", (f"privacy.sampling_rate={rate}", f"privacy.epsilon={epsilon}"))
    adapter = adapter_shape.read(config.model.path, config.adapter)
    return config, adapter, run_plan.plan(config, adapter)


def test_the_budget_advised_where_units_are_sampled_lets_the_run_learn_and_a_tenth_less_does_not():
    config, adapter, found = sampled(0.05, 8)
    assert found.verdict != CAN_LEARN
    assert "epsilon" not in found.verdict, "what one would have to be is no multiple of mu where units are sampled"
    (change,) = [each for each in advice.changes(config, adapter, found) if "epsilon" in each.says]
    advised = float(change.overrides[0].removeprefix("privacy.epsilon="))
    assert sampled(0.05, advised)[2].verdict == CAN_LEARN
    assert sampled(0.05, 0.9 * advised)[2].verdict != CAN_LEARN


def test_no_budget_is_advised_where_sampling_is_so_rare_that_none_that_protects_would_do():
    advised = advice.changes(*sampled(0.01, 8))
    assert advised
    assert not any("epsilon" in change.says for change in advised)
