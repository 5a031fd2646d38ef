"""Rounds of clients whose units are people or prompts: neighbours, budgets by block, and data that fails quietly."""

import json
import tracemalloc

import numpy as np
import pytest

from fgrpo_secure.client import own_view, unit_round
from fgrpo_secure.client.owner import make_owners
from fgrpo_secure.config.files import parse
from fgrpo_secure.entropy import SeededEntropy
from fgrpo_secure.gain import Baseline
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.learning.tasks import UnusableData, open_units
from fgrpo_secure.learning.tasks.units import UnitTable
from fgrpo_secure.plan import adapter_shape, round_settings, run_plan
from fgrpo_secure.privacy import noise

PEOPLE = ("ann", "bob", "cas", "dee")


def configuration(path, **changes):
    table = {
        "adapter": {"rank": 1},
        "grpo": {"num_generations": 4, "prompts_per_step": 2},
        "privacy": {
            "unit": "subject",
            "epsilon": 60.0,
            "clip_norm": 0.01,
            "units_per_client": 6,
            "reserved_sessions": 0,
        },
        "aggregation": {"max_dropout": 0.25},
        "client": [
            {"name": "a", "data": str(path), "reward": "partial", "subject": "person"},
            *({"name": f"x{n}", "task": "add", "rows": 2, "subject": "person"} for n in range(7)),
        ],
    }
    for section, values in changes.items():
        table[section] = table.get(section, {}) | values
    return parse(table, "test")


def write(path, people=PEOPLE, rows=3, **special):
    lines = [
        {"prompt": f"{10 + 7 * number}+{1 + row % 9}=", "answer": f"{11 + 7 * number + row % 9}", "person": person}
        for number, person in enumerate(PEOPLE)
        for row in range(rows)
    ]
    kept = [line | special.get(line["person"], {}) for line in lines if line["person"] in people]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    return path


@pytest.fixture
def adapted():
    config = configuration("none")
    return adapters.attach(models.load(config.model), config.adapter, 0)


@pytest.fixture
def clear(monkeypatch):
    """The vector before noise: what the proof is about."""
    monkeypatch.setattr(
        noise, "add_share", lambda summed, variance, _: noise.NoisedVector(summed.values, summed.bound, variance)
    )


def contribute(adapted, config, folder, seed=0, max_weight=1.0):
    (owner,) = make_owners(
        config.client, config.run.seed, {0}, folder, config.privacy.unit, config.units_per_client
    ).values()
    settings = round_settings.for_round(config, 0, 400)
    lattice = settings.upload_lattice(adapted.dimension(0))
    made = unit_round.contribute(
        adapted, owner, settings, lattice, Baseline(), max_weight, SeededEntropy(bytes([seed]))
    )
    return made.vector, lattice


@pytest.mark.parametrize("unit", ["subject", "prompt_group"])
def test_one_unit_more_or_less_moves_nothing_but_its_own_integers(adapted, clear, tmp_path, unit):
    """Changing bob in any way leaves the others' sum bit for bit, and bob's part within B."""
    one = {
        "privacy": {"unit": unit, "units_per_client": 20},
        "grpo": {"num_generations": 32, "prompts_per_step": 2 if unit == "subject" else 1},
    }
    rows = 3 if unit == "subject" else 1

    def total(name, **data):
        config = configuration(write(tmp_path / f"{name}.jsonl", rows=rows, **data), **one)
        vector, lattice = contribute(adapted, config, tmp_path)
        return vector.values, lattice.integer_bound

    without, bound = total("without", people=("ann", "cas", "dee"))
    everybody, _ = total("all")
    longer, _ = total("longer", bob={"prompt": "11111+2222=", "answer": "13333"})
    for moved in (everybody - without, longer - without):
        assert sum(int(value) ** 2 for value in moved) <= bound**2
    assert (everybody != without).any()
    alone, _ = total("alone", people=("bob",))
    scores = slice(adapted.dimension(0))
    assert (everybody - without)[scores].tolist() == alone[scores].tolist()


def test_a_person_whose_data_fails_contributes_nothing_and_the_others_go_on(adapted, clear, tmp_path):
    without, _ = contribute(adapted, configuration(write(tmp_path / "a.jsonl", people=("ann", "cas", "dee"))), tmp_path)
    broken = write(tmp_path / "b.jsonl", bob={"prompt": "1+1=" * 2000})
    failed, _ = contribute(adapted, configuration(broken), tmp_path)
    assert (failed.values == without.values).all()
    assert "a unit contributes nothing" in (tmp_path / "a.log").read_text()


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_an_owner_sees_its_units_in_its_own_view(adapted, tmp_path, mode):
    config = configuration(write(tmp_path / "seen.jsonl"), privacy={"mode": mode}, federation={"local_steps": 1})
    contribute(adapted, config, tmp_path)
    (owner,) = make_owners(config.client, 0, {0}, tmp_path, config.privacy.unit, config.units_per_client).values()
    (kept,) = own_view.read(owner.log)
    settings = round_settings.for_round(config, 0, 400)
    taking_part = owner.units.in_block(settings.units.block(0), settings.units.blocks)
    groups = [owner.unit_groups(adapted, settings, 0, unit) for unit in taking_part]
    rewards = np.concatenate([each.rewards for each in groups])
    assert kept.prompts == len(rewards) == 2 * len(taking_part)
    assert kept.reward == pytest.approx(rewards.mean())
    lengths = [np.linalg.norm(owner.unit_update(adapted, settings, each).values) for each in groups]
    assert kept.norm == pytest.approx(np.mean(lengths))
    assert 0 < kept.entropy < 5


def test_a_person_with_thousands_of_rows_weighs_no_more_than_the_bound(adapted, clear, tmp_path):
    config = configuration(write(tmp_path / "many.jsonl", people=("ann",), rows=2000), grpo={"num_generations": 32})
    vector, lattice = contribute(adapted, config, tmp_path)
    dimension = adapted.dimension(0)
    assert 0 < sum(int(value) ** 2 for value in vector.values[:dimension]) <= lattice.integer_bound**2


def test_local_steps_leave_the_model_as_it_was_and_send_a_bounded_update(adapted, tmp_path):
    changes = {"federation": {"local_steps": 2}, "grpo": {"learning_rate": 1.0, "prompts_per_step": 1}}
    config = configuration(write(tmp_path / "l.jsonl"), **changes, privacy={"mode": "local"})
    before = adapted.get_vector(0)
    vector, lattice = contribute(adapted, config, tmp_path)
    assert (adapted.get_vector(0) == before).all()
    assert vector.share_variance == 0, "the noise is in the update: none is added for the sum"
    assert 0 < np.linalg.norm(vector.values.astype(float)) <= lattice.integer_bound
    again, _ = contribute(adapted, config, tmp_path, seed=1)
    assert (again.values != vector.values).mean() > 0.5, "fresh noise in every step"


@pytest.mark.parametrize("mode", ["distributed", "local"])
@pytest.mark.parametrize("rule", ["uniform", "history"])
def test_training_that_died_is_zero_in_the_noise_that_is_added_for_the_sum(adapted, tmp_path, mode, rule):
    weighting = {
        "weighting": {"rule": rule}
        | ({"reward_range": [0, 1], "reward_noise_multiplier": 5.0} if rule == "history" else {})
    }
    config = configuration(write(tmp_path / "d.jsonl"), privacy={"mode": mode}, **weighting)
    settings = round_settings.for_round(config, 0, 400)
    lattice, past = settings.upload_lattice(adapted.dimension(0)), Baseline(0.5, 0.1, 3)
    made = unit_round.untrained(settings, lattice, past, 1.0, SeededEntropy(b"0"))
    assert made.baseline == past
    assert made.vector.share_variance == settings.upload_variance
    assert np.std(made.vector.values.astype(float)) == pytest.approx(settings.upload_variance**0.5, rel=0.2)


def test_rewards_of_any_size_say_nothing_on_the_screen(adapted, tmp_path, capfd, recwarn):
    """Their mean overflows; what is weighed by then is clipped and noised anyway."""
    (tmp_path / "huge.py").write_text("def pay(completions, **rest): return [1.7e308] * len(completions)")
    path = write(tmp_path / "h.jsonl")
    changes = {"weighting": {"rule": "history", "reward_range": [0, 1], "reward_noise_multiplier": 5.0}}
    config = configuration(path, **changes)
    config = config.model_copy(
        update={
            "client": (config.client[0].model_copy(update={"reward": f"{tmp_path}/huge.py:pay"}), *config.client[1:])
        }
    )
    contribute(adapted, config, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []


@pytest.mark.parametrize(("mode", "noised"), [("distributed", False), ("local", True)])
def test_an_owner_with_a_largest_weight_of_a_half_sends_half_of_what_it_would(adapted, request, tmp_path, mode, noised):
    """In mode 'local' the weight comes after the noise, which is the same here for both."""
    if not noised:
        request.getfixturevalue("clear")
    config = configuration(write(tmp_path / "w.jsonl"), privacy={"mode": mode})
    whole, half = (
        contribute(adapted, config, tmp_path, max_weight=most)[0].values[: adapted.dimension(0)].astype(float)
        for most in (1.0, 0.5)
    )
    assert np.linalg.norm(half) == pytest.approx(np.linalg.norm(whole) / 2, rel=0.1)
    assert half @ whole > 0.9 * np.linalg.norm(half) * np.linalg.norm(whole)


def test_a_sample_without_anybody_is_noised_all_the_same(adapted, tmp_path):
    config = configuration(write(tmp_path / "e.jsonl"), privacy={"sampling_rate": 1e-9})
    vector, _ = contribute(adapted, config, tmp_path)
    assert np.std(vector.values[: adapted.dimension(0)].astype(float)) == pytest.approx(20, rel=0.2)


def test_units_in_turns_are_in_one_block_each_whoever_else_is_there(tmp_path):
    rows = {str(number): ({"prompt": "1"},) for number in range(60)}
    table, smaller = UnitTable(rows, ("x",)), UnitTable({k: v for k, v in rows.items() if k != "7"}, ("x",))
    blocks = [table.in_block(block, 3) for block in range(3)]
    assert sorted(unit for block in blocks for unit in block) == sorted(rows)
    assert [[unit for unit in block if unit != "7"] for block in blocks] == [smaller.in_block(b, 3) for b in range(3)]
    assert min(len(block) for block in blocks) > 8


@pytest.mark.parametrize("person", [None, "", True, 1.5, ["ann"], {"name": "ann"}])
def test_a_row_that_names_nobody_is_left_out_with_file_and_line(tmp_path, person):
    config = configuration(write(tmp_path / "p.jsonl", cas={"person": person}))
    table = open_units(config.client[0], 0, 0, "subject", 6)
    assert len(table.rows) == 3, "the others are cut all the same: only the run's start refuses the file"
    assert 'p.jsonl, line 7 lacks the subject column "person"' in table.left_out[0]
    assert "ann" not in table.left_out[0]


def test_more_units_than_the_public_bound_are_refused(tmp_path):
    config = configuration(write(tmp_path / "p.jsonl"), privacy={"units_per_client": 3})
    with pytest.raises(UnusableData, match=r"more units than privacy\.units_per_client = 3"):
        open_units(config.client[0], 0, 0, "subject", 3)


@pytest.mark.parametrize(("rows", "columns"), [(400, 1), (1, 400), (60, 60), (200, 100)])
def test_a_unit_takes_no_more_memory_than_its_data_however_its_columns_lie(tmp_path, rows, columns):
    """What one unit's rows take beyond their data would be missing for all others."""
    own = [
        {"prompt": "1", "answer": "1", "person": "x", **{f"{row}.{each}": 1 for each in range(columns)}}
        for row in range(rows)
    ]
    path = tmp_path / "wide.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in own))
    client = configuration(path).client[0]
    tracemalloc.start()
    table = open_units(client, 0, 0, "subject", 6)
    batch = table.batch('"x"', 0, 0, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * path.stat().st_size + 100_000
    assert [len(row) for row in batch] == [3 + rows * columns] * min(2, rows), "every column of the unit"


def test_equal_rows_are_units_of_their_own(tmp_path):
    path = tmp_path / "twice.jsonl"
    path.write_text('{"prompt": "1+1=", "answer": "2"}\n' * 3)
    config = configuration(path, privacy={"unit": "prompt_group"}, grpo={"prompts_per_step": 1})
    assert len(open_units(config.client[0], 0, 0, "prompt_group", 6).rows) == 3


def test_the_plan_charges_a_unit_for_its_blocks_and_a_client_admits_no_other_terms(adapted, tmp_path):
    write(tmp_path / "t.jsonl")
    every = configuration(tmp_path / "t.jsonl", federation={"rounds": 6})
    turns = configuration(tmp_path / "t.jsonl", federation={"rounds": 6}, privacy={"max_rounds_per_unit": 2})
    assert (every.unit_blocks, turns.unit_blocks) == (1, 3)
    plans = [run_plan.plan(config, adapter_shape.of(adapted)) for config in (every, turns)]
    assert [plan.claim.rounds for plan in plans] == [6, 2]
    assert plans[1].share_variance == pytest.approx(plans[0].share_variance / 3, rel=0.01)
    assert run_plan.demands(turns, plans[1]).units.blocks == 3


@pytest.mark.parametrize("bad", [0, 100, 103])
def test_a_file_of_bad_lines_does_not_fill_its_owners_log(tmp_path, bad):
    """An organisation's client reads its data in each round anew."""
    path = write(tmp_path / "rows.jsonl")
    path.write_text("no row\n" * bad + path.read_text())
    config = configuration(path)
    (made,) = make_owners(config.client, 0, {0}, tmp_path, "subject", 6).values()
    lines = made.log.read_text().splitlines() if made.log.exists() else []
    assert len(made.units.left_out) == bad
    assert len(lines) == min(bad, 100) + (bad > 100)
    assert bad <= 100 or lines[-1] == f"data: {bad - 100} more lines are left out"
