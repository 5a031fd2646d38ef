"""`aggregation.post_quantum` from the configuration to the wire: whole runs train alike, lose clients, and say so."""

import json

import pytest
from safetensors.torch import load_file

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.plan.terms import RunTerms
from fgrpo_secure.run import training
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.params import Adversary

CLIENTS = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\n' for task in ("add", "sub", "mul", "sort", "rev"))
SMALL = CLIENTS + (
    '[run]\nentropy = "seeded"\n[federation]\nrounds = 1\n[evaluation]\nprompts = 2\nsamples = 1\nevery = 0\n'
    '[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.2\n[privacy]\nepsilon = 60.0\n'
    "[adapter]\nrank = 1\n[grpo]\nnum_generations = 2\nprompts_per_step = 2\n"
)


class Silent(training.Observer):
    """An observer that looks away."""


@pytest.fixture
def run(tmp_path):
    def start(name, *overrides):
        path = tmp_path / f"{name}.toml"
        path.write_text(SMALL)
        directory = RunDirectory(tmp_path / name)
        training.start(config_file.load(str(path), overrides), directory, Silent())
        return json.loads((tmp_path / name / "summary.json").read_text()), tmp_path / name

    return start


@pytest.mark.slow
def test_a_hybrid_run_trains_the_same_adapter_and_costs_more_bytes(run):
    """Masks cancel exactly in either kind of session, so the option changes nothing but the keys."""
    classical, one = run("classical")
    hybrid, two = run("hybrid", "aggregation.post_quantum=true")
    assert (classical["aggregation.post_quantum"], hybrid["aggregation.post_quantum"]) == (False, True)
    more = hybrid["bytes.up_per_client_per_round"] - classical["bytes.up_per_client_per_round"]
    assert 2368 + 5 * 1088 < more < 2368 + 5 * 2300
    before, after = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (one, two))
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["announce", "share", "mask", "agree", "unmask"])
def test_a_hybrid_run_survives_losses_at_each_step(step, run):
    summary, _ = run(step, "aggregation.post_quantum=true", f"engine.faults={{{step} = 0.15}}")
    assert summary["rounds"] == 1


def test_clients_of_a_hybrid_run_demand_it():
    """The server's plan alone cannot take it back."""
    demands = RunTerms("client", None, Adversary.LYING_SERVER, 0.05, 0.2, 5, 4, post_quantum=True)
    assert demands.limits(0, 0).post_quantum


def test_a_plain_run_cannot_claim_it(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(CLIENTS)
    plain = ("aggregation.mode=plain", "aggregation.adversary=none", "aggregation.max_corrupt=0")
    with pytest.raises(ConfigError, match="agrees on no keys"):
        config_file.load(str(path), (*plain, "aggregation.post_quantum=true"))
