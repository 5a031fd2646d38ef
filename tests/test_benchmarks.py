"""Benchmarks measure whole sessions: they must go on working when the protocol changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEARNING = ("claims", "compact", "page", "direction", "record", "trials", "simulate", "batched", "utility")


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import page

    yield page
    for name in LEARNING:
        sys.modules.pop(name, None)


def test_every_figure_on_learning_in_a_page_is_what_its_result_file_says(page):
    lines = page.claims.finished()
    for path in page.PAGES:
        text = path.read_text()
        assert page.MARK.search(text), f"{path} shows nothing"
        assert page.rendered(text, lines) == text, f"{path}: run python -m benchmarks page"


def test_a_figure_that_somebody_typed_does_not_survive_rendering(page):
    text = (ROOT / "docs/explanation/learning.md").read_text()
    typed = text.replace("| 8 | ", "| 8 | +99.9 ", 1)
    assert typed != text
    assert page.rendered(typed, page.claims.finished()) == text


def test_result_lines_name_seeds_machine_load_and_versions_and_no_seed_that_settings_were_chosen_with(page):
    lines = list(page.claims.finished().values())
    assert lines
    for line in lines:
        assert line["seed"] in page.claims.SEEDS
        assert line["problems"] == "held out"
        assert {"machine", "load", "versions", "seconds", "tasks", "weights"} <= set(line)
        assert {"fgrpo_secure", "python", "torch", "numpy"} <= set(line["versions"])


@pytest.mark.parametrize("broken", ["none", "flip", "late", "noise", "mixed"])
def test_a_stress_setting_breaks_the_share_of_every_kind_of_clients_that_it_says(page, broken):
    trials = page.claims.trials
    whole, config = trials.Trial().config(), trials.Trial(broken=broken).config()
    assert config.clients_total == whole.clients_total == 256
    for kind in whole.client:
        parts = {part.name.removeprefix(kind.name): part for part in config.client if part.name.startswith(kind.name)}
        flipped, noisy = trials.BROKEN[broken]
        assert {end: part.count / kind.count for end, part in parts.items()} == {
            end: share for end, share in (("", 1 - flipped - noisy), ("-flipped", flipped), ("-noise", noisy)) if share
        }
        if flipped:
            assert parts["-flipped"].reward_scale == -kind.reward_scale
        if noisy:
            assert parts["-noise"].reward == trials.NOISE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epsilon", "direction"])
def test_each_claim_on_learning_is_checked_in_quick_form_by_one_command(name):
    command = [sys.executable, "-m", "benchmarks", name, "--quick"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("holds  ")


def test_a_claim_that_its_runs_do_not_bear_out_is_said_to_fail(page):
    (row,) = [row for row in page.EPSILONS if row.name == "8"]
    runs = {trial: {"sampled_gain": 5.0 + trial.seed % 3, "greedy_gain": 60.0} for trial in row.trials()}
    said = {claim.says.partition(":")[0]: claim.holds for claim in page.claims.judged("epsilon", runs)}
    assert said["epsilon 8"] is False
    assert said["epsilon 2"] is None
    better = {trial: {"sampled_gain": 25.0 + trial.seed % 3, "greedy_gain": 60.0} for trial in row.trials()}
    said = {claim.says.partition(":")[0]: claim.holds for claim in page.claims.judged("epsilon", better)}
    assert said["epsilon 8"] is True


def test_a_measured_session_ends_with_the_right_sum_and_names_what_was_measured():
    command = [sys.executable, "benchmarks/session.py", "--n", "6", "--d", "50", "--drop", "0.17"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    result = json.loads(output)
    assert result["ok"] is True
    assert result["n_drop"] == 1
    assert {"client_mask_s", "client_masking_s", "limit_s", "server_unmask_s", "up_bytes_total"} <= set(result)


@pytest.mark.parametrize("broken", ["none", "flip"])
def test_the_second_family_is_the_quickstart_on_rows_that_one_client_has_and_no_one_is_marked_on(page, broken):
    import compact

    from fgrpo_secure.learning.tasks.files import read_rows

    ours, first = (page.claims.trials.Trial(broken=broken, preset=name).config() for name in ("compact", "quickstart"))
    assert ours.model_dump(exclude={"model", "client"}) == first.model_dump(exclude={"model", "client"})
    copies = [client for client in first.client for _ in range(client.count)]
    assert [(each.reward, each.reward_scale) for each in ours.client] == [
        (each.reward, each.reward_scale) for each in copies
    ]
    assert [("-flipped" in each.name) for each in ours.client] == [("-flipped" in each.name) for each in copies]
    tokenizer = compact.make_base_model.make_tokenizer()
    for task, marked in compact.held_out().items():
        mine = [client for client in ours.client if client.name.startswith(task)]
        assert len(mine) == 32
        prompts = [row["prompt"] for client in mine for row in read_rows(client.data)]
        assert len({*prompts, *(row["prompt"] for row in marked)}) == compact.CLIENTS + compact.HELD_OUT
        assert len(prompts) == compact.CLIENTS
        asked = [tokenizer(f"{row['prompt']}{row['answer']}")["input_ids"] for row in marked]
        assert tokenizer.unk_token_id not in {token for ids in asked for token in ids}


def test_the_second_family_starts_neither_at_nothing_nor_saturated(page):
    import compact
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(compact.FOLDER / "model", dtype=compact.torch.float32)
    found = compact.competence(model, compact.make_base_model.make_tokenizer(), compact.held_out())
    stated = json.loads(compact.START.read_text())["start"]
    for task, each in found.items():
        assert 0.01 < each.sampled < 0.9
        assert 100 * each.sampled == pytest.approx(stated[task][0], abs=1)  # stored in half precision
    assert 0.2 <= sum(each.sampled for each in found.values()) / len(found) <= 0.3
