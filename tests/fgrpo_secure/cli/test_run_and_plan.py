"""What `fgrpo run`, `fgrpo plan` and `fgrpo demo` leave behind and say, and with which exit code."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.cli.demo import story
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Adapter, Model
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.ledger.store import Ledgers

PLAN_KEYS = {
    "privacy.epsilon_server", "privacy.epsilon_release", "privacy.delta", "privacy.noise_multiplier",
    "privacy.mu_server", "aggregation.colluders", "aggregation.quorum", "aggregation.neighbours",
    "aggregation.threshold", "aggregation.graph", "aggregation.ring_bits", "aggregation.minimum_survivors",
    "bytes.up_per_client_per_round", "bytes.down_per_client_per_round", "adapter.dimension",
    "adapter.useful_dimension", "verdict",
}  # fmt: skip
SUMMARY_KEYS = {
    "rounds", "clients", "reward.initial", "reward.final", "pass_rate.initial", "pass_rate.final",
    "pass_rate.greedy_initial", "pass_rate.greedy_final", "privacy.unit", "privacy.epsilon_server",
    "privacy.epsilon_release", "privacy.delta", "weighting.rule", "aggregation.adversary",
    "aggregation.neighbours", "aggregation.threshold", "aggregation.ring_bits", "bytes.up_per_client_per_round",
    "dropouts", "seconds.total", "seconds.aggregation",
}  # fmt: skip
PRIVATE = {"privacy.epsilon_server", "privacy.epsilon_release", "privacy.delta", "privacy.noise_multiplier"}


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small):
    """A run with differential privacy and its twin without, as the command line made them."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.toml").write_text(small[0])
    made = {}
    for name, more in (("private", []), ("twin", ["--set", "privacy.unit=none"])):
        made[name] = call(
            "run", folder / "small.toml", "--out", folder / name, "--set", "engine.faults.mask=0.1", *more
        )
        assert made[name].exit_code == 0, made[name].output
    return folder, made


def read(path):
    return json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


# ----------------------------------------------------------------------------------------------------------------- run


@pytest.mark.slow
def test_a_run_leaves_all_its_files_and_its_clients_beside_it(finished):
    folder, made = finished
    names = {path.name for path in (folder / "private").iterdir()}
    assert names >= {"config.toml", "metrics.jsonl", "summary.json", "adapter", "ledger.sqlite", "opening.json"}
    assert not [name for name in names if name.startswith(".writing")]
    assert (folder / "private.owners").stat().st_mode & 0o077 == 0
    assert (folder / "private.server").stat().st_mode & 0o077 == 0
    assert (folder / "private.server" / "server.key").stat().st_mode & 0o077 == 0
    assert not names & {"server.key", "sessions", "checkpoints"}
    said = made["private"].stdout.splitlines()
    assert said[-1] == f"{folder / 'private'}: adapter/, summary.json, metrics.jsonl, ledger.sqlite"


@pytest.mark.slow
def test_a_seeded_run_says_that_it_is_not_private(finished):
    folder, made = finished
    assert "not private" in made["private"].stdout
    assert read(folder / "private" / "summary.json")["reproducible_entropy"] is True


@pytest.mark.slow
def test_the_summary_has_every_promised_key_and_figures_that_fit_together(finished):
    folder, _ = finished
    summary, twin = (read(folder / name / "summary.json") for name in ("private", "twin"))
    assert summary.keys() >= SUMMARY_KEYS
    assert twin.keys() == summary.keys()
    assert (summary["rounds"], summary["clients"], summary["stopped"]) == (2, 8, None)
    assert 0 < summary["privacy.epsilon_spent"] <= summary["privacy.epsilon_server"] <= 60.0
    assert [twin[key] for key in sorted(PRIVATE)] == [None] * 4
    assert twin["differential_privacy"] == "no differential privacy"
    for key in ("pass_rate.initial", "pass_rate.final", "pass_rate.greedy_initial", "pass_rate.greedy_final"):
        assert 0 <= summary[key] <= 1
    metrics = [json.loads(line) for line in (folder / "private" / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in metrics] == [1, 2]
    assert summary["dropouts"] == sum(record["dropped"] for record in metrics)
    assert all(record["survivors"] + record["dropped"] == 8 for record in metrics)
    assert metrics[-1]["epsilon_spent"] == summary["privacy.epsilon_spent"]
    assert metrics[-1]["pass_rate"] == summary["pass_rate.final"]
    up = [record["bytes_up_per_client"] for record in metrics]
    assert min(up) <= summary["bytes.up_per_client_per_round"] <= max(up)


@pytest.mark.slow
def test_the_written_configuration_is_the_effective_one(finished):
    folder, _ = finished
    again = config_file.load(str(folder / "private" / "config.toml"))
    asked = config_file.load(str(folder / "small.toml"), ["engine.faults.mask=0.1"])
    assert again == asked


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it by its old name
def test_the_adapter_is_one_that_peft_loads_and_that_changes_the_model(finished):
    folder, _ = finished
    tokens = torch.tensor([[1, 2, 3, 4]])
    base = AutoModelForCausalLM.from_pretrained(models._source("builtin"), dtype=torch.float32)
    before = base(tokens).logits.detach()
    after = PeftModel.from_pretrained(base, folder / "private" / "adapter")(tokens).logits.detach()
    assert (before - after).abs().max() > 1e-6
    ours = adapters.attach(models.load(Model()), Adapter(rank=1, init_from=str(folder / "private" / "adapter")), seed=9)
    np.testing.assert_allclose(ours.model(tokens).logits.detach(), after, atol=1e-5)


@pytest.mark.slow
def test_resuming_a_finished_run_repeats_no_round_and_spends_nothing(finished):
    folder, _ = finished
    before = {name: (folder / name).read_bytes() for name in ("private/metrics.jsonl", "private.server/sessions")}
    ledgers = Ledgers(folder / "private" / "ledger.sqlite")
    spent = ledgers.last_row("server").filter.spent
    summary = read(folder / "private" / "summary.json")
    assert call("run", "--resume", folder / "private").exit_code == 0
    assert ledgers.last_row("server").filter.spent == spent
    ledgers.close()
    assert {name: (folder / name).read_bytes() for name in before} == before
    again = read(folder / "private" / "summary.json")
    assert {**again, "seconds.total": 0} == {**summary, "seconds.total": 0}  # it was examined once more


@pytest.mark.slow
def test_a_run_that_its_budget_ends_exits_with_1_and_keeps_what_it_has(fgrpo, config, tmp_path, monkeypatch):
    original, lies = Participant._contribution, [1]

    def lie_once(participant, plan):
        made = original(participant, plan)
        if participant._owner.id == 3 and lies:
            made.vector.values[0] += lies.pop() * 1500
        return made

    monkeypatch.setattr(Participant, "_contribution", lie_once)
    outcome = fgrpo("run", config(), "--out", "out")
    assert outcome.exit_code == 1
    assert outcome.stderr.splitlines()[-1] == "fgrpo: the run stopped after round 1: budget spent"
    assert read(tmp_path / "out" / "summary.json")["rounds"] == 1
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_a_round_that_fails_three_times_exits_with_1_and_can_be_resumed(fgrpo, config, tmp_path):
    outcome = fgrpo("run", config(), "--out", "out", "--set", "engine.faults.share=0.9")
    assert outcome.exit_code == 1
    last = outcome.stderr.splitlines()[-1]
    assert last == "fgrpo: round 1 failed 3 times; continue later with --resume"
    assert len(re.findall(r"a session failed: step share: \d clients remain, 6 are needed", outcome.stderr)) == 3
    written = tmp_path / "out" / "config.toml"
    written.write_text(written.read_text().replace("share = 0.9", "share = 0.0"))
    assert fgrpo("run", "--resume", "out").exit_code == 0
    metrics = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [record["session"] for record in metrics] == [3, 4], "no session number is used twice"


# ---------------------------------------------------------------------------------------------------------------- plan


@pytest.mark.parametrize("preset", ["quickstart", "quickstart-no-dp", "quickstart-uniform", "silos"])
def test_every_preset_has_a_plan_with_every_promised_key_that_can_learn(fgrpo, preset):
    outcome = fgrpo("plan", preset, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    facts = json.loads(outcome.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert facts.keys() >= PLAN_KEYS
    assert facts["verdict"] == "can learn"
    private = preset in ("quickstart", "quickstart-uniform")
    assert all((facts[key] is not None) == private for key in PRIVATE)
    if private:
        assert facts["privacy.epsilon_server"] <= 8.0
        assert facts["privacy.delta"] == 1e-5


@pytest.mark.parametrize("width", [60, 100])
def test_a_plan_tells_people_in_words_what_scripts_get_as_figures(fgrpo, config, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    facts = json.loads(fgrpo("plan", config(), "--json").stdout)
    table = fgrpo("plan", config()).stdout
    assert max(map(len, table.splitlines())) <= width
    words = " ".join(table.split())
    for said in (
        f"epsilon {facts['privacy.epsilon_release']:.3g} at delta {facts['privacy.delta']:g} for each client",
        f"noise multiplier {facts['privacy.noise_multiplier']:.3g}",
        f"{facts['adapter.dimension']:,} numbers a round",
        f"sends {facts['bytes.up_per_client_per_round'] / 1000:.3g} kB",
        f"a sum needs {facts['aggregation.minimum_survivors']} clients",
    ):
        assert said in words
    for change in facts["advice"]:
        assert f"--set {change['set'][0]}" in words


def test_a_plan_without_privacy_says_that_there_is_none_and_a_plain_one_who_sees_what(fgrpo, config):
    words = " ".join(fgrpo("plan", config(), "--set", "privacy.unit=none").stdout.split())
    assert "no differential privacy" in words
    plain = [part for change in PLAIN for part in ("--set", change)]
    words = " ".join(fgrpo("plan", config(), *plain).stdout.split())
    assert "the server sees every client's update" in words
    assert "readers of the model alone" in words


def test_a_plan_makes_no_files(fgrpo, config, tmp_path):
    path = config()
    assert fgrpo("plan", path).exit_code == 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_run_costs_the_bytes_that_its_plan_said(finished):
    folder, _ = finished
    for name in ("private", "twin"):
        summary = read(folder / name / "summary.json")
        more = ["--set", "privacy.unit=none"] if name == "twin" else []
        facts = json.loads(call("plan", folder / "small.toml", "--json", *more).stdout)
        for key in ("bytes.up_per_client_per_round", "bytes.down_per_client_per_round"):
            assert summary[key] == pytest.approx(facts[key], rel=0.15)  # a lost upload is a little less to send
        for key in PRIVATE | {"aggregation.threshold", "aggregation.ring_bits", "adapter.dimension"}:
            assert summary[key] == facts[key]


PLAIN = ("aggregation.mode=plain", "aggregation.adversary=none", "aggregation.max_corrupt=0")
NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "0.5",
    "0.999999",
    "1e-300",
    "1e-9",
    "1e9",
    "1e300",
    "nan",
    "inf",
    "9223372036854775807",
]
KEYS = [
    "run.seed", "adapter.rank", "adapter.alpha", "federation.rounds", "federation.clients_per_round",
    "federation.max_rounds_per_client", "federation.local_steps", "grpo.num_generations", "grpo.temperature",
    "grpo.top_p", "grpo.max_completion_length", "weighting.temperature", "weighting.gain_clip", "weighting.min_weight",
    "privacy.epsilon", "privacy.delta", "privacy.clip_norm", "aggregation.max_corrupt", "aggregation.max_dropout",
    "server.learning_rate", "engine.processes", "evaluation.prompts", "model.path", "adapter.targets",
]  # fmt: skip


@settings(max_examples=40)
@example(key="privacy.delta", value="0.999999", adversary="")
@example(key="privacy.delta", value="1e-30", adversary="honest_but_curious")
@given(key=st.sampled_from(KEYS), value=st.sampled_from(NUMBERS), adversary=st.sampled_from(["", "honest_but_curious"]))
def test_no_number_anywhere_in_a_configuration_breaks_the_planner(key, value, adversary, tmp_path_factory, small):
    path = tmp_path_factory.getbasetemp() / "numbers.toml"
    path.write_text(small[0].replace("lying_server", adversary or "lying_server"))
    outcome = call("plan", path, "--set", f"{key}={value}", "--json")
    assert outcome.exit_code in (0, 2), repr(outcome.exception)
    assert len(outcome.stderr.strip().splitlines()) == (1 if outcome.exit_code else 0)
    if outcome.exit_code == 0:
        assert json.loads(outcome.stdout).keys() >= PLAN_KEYS


# ---------------------------------------------------------------------------------------------------------------- demo


@pytest.mark.slow
def test_the_demo_ends_with_plain_lines_made_from_the_two_summaries(finished):
    folder, _ = finished
    private, twin = (read(folder / name / "summary.json") for name in ("private", "twin"))
    rounds = read(folder / "private.simulation.json")["rounds"]
    lines = story(private, twin, rounds, Path("runs/demo"))
    heads = [line.split(maxsplit=1)[0] if line[:1].strip() else "" for line in lines]
    assert heads == ["", "Learned", "Protected", "Cost", "Not", "Next", ""]
    text = "\n".join(lines)
    assert f"{private['pass_rate.initial']:.1%} -> {private['pass_rate.final']:.1%}" in text
    assert f"{twin['pass_rate.greedy_initial']:.1%} -> {twin['pass_rate.greedy_final']:.1%}" in text
    assert f"epsilon = {private['privacy.epsilon_spent']:.2f}" in text
    assert "all clients ran on this machine" in text
    assert "lying server" in text
    for command in re.findall(r"fgrpo (plan|run) (\S+)", text):
        assert command[1] in config_file.presets()
