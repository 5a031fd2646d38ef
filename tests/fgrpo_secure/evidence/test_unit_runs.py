"""Whole federations whose units lie inside the clients: budgets per unit, statements that say so, and verification."""

import json
from fractions import Fraction

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.evidence.verify import Trust, verify
from fgrpo_secure.ledger import privacy_spent
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.run import training
from fgrpo_secure.storage.run_directory import RunDirectory

ROUNDS, CLIENTS = 2, 6
CASES = {
    "subject": {"privacy": {"unit": "subject"}},
    "prompt_group in blocks": {"privacy": {"unit": "prompt_group", "max_rounds_per_unit": 1}},
    "local": {"privacy": {"unit": "subject", "mode": "local"}, "federation": {"local_steps": 2}},
    "sampled": {"privacy": {"unit": "prompt_group", "sampling_rate": 0.5}},
    "noised rewards": {
        "privacy": {"unit": "subject"},
        "weighting": {"rule": "softmax", "reward_range": [0.0, 1.0], "reward_noise_multiplier": 20.0},
    },
    "local, sampled": {"privacy": {"unit": "prompt_group", "mode": "local", "sampling_rate": 0.5}},
}


def configuration(case):
    subject = {} if case["privacy"]["unit"] == "prompt_group" else {"subject": "patient", "rows_per_subject": 2}
    table = {
        "run": {"name": "units"},
        "adapter": {"rank": 1},
        "federation": {"rounds": ROUNDS},
        "grpo": {"num_generations": 2, "prompts_per_step": 1},
        "privacy": {"epsilon": 8.0, "clip_norm": 0.01},
        "aggregation": {"max_dropout": 0.2},
        "evaluation": {"prompts": 2, "samples": 1, "every": 0},
        "client": [{"name": "site", "task": "add", "count": CLIENTS, "rows": 4, **subject}],
    }
    for section, values in case.items():
        table[section] = table.get(section, {}) | values
    return config_file.parse(table, "here")


@pytest.fixture(scope="module", params=CASES)
def run(request, tmp_path_factory, silent):
    config = configuration(CASES[request.param])
    directory = RunDirectory(tmp_path_factory.mktemp("units") / "run")
    training.start(config, directory, silent)
    return config, directory, json.loads(directory.statement.read_text())


@pytest.mark.slow
def test_the_run_verifies_and_no_unit_spent_more_than_its_budget(run):
    _, directory, stated = run
    checks = dict(verify(directory, Trust()))
    assert "statement" in checks
    claim, summary = stated["claims"]["server"], json.loads(directory.summary.read_text())
    assert summary["rounds"] == ROUNDS
    assert 0 < claim["epsilon_spent"] <= claim["epsilon"] * (1 + 1e-9) <= 8.0 * (1 + 1e-9)
    assert claim["epsilon_spent"] == summary["privacy.epsilon_spent"]


@pytest.mark.slow
def test_the_statement_says_how_units_take_part(run):
    config, _, stated = run
    mechanism, private = stated["mechanism"], config.privacy
    assert (stated["unit"], mechanism["mode"]) == (private.unit, private.mode)
    assert mechanism["unit_blocks"] == ROUNDS // (private.max_rounds_per_unit or ROUNDS)
    assert mechanism["rounds_per_unit"] == (private.max_rounds_per_unit or ROUNDS)
    assert (mechanism["sampling"] or {"rate": None})["rate"] == private.sampling_rate
    assert ("secret Poisson sampling" in stated["composition"]) == (private.sampling_rate is not None)
    assert ("each client" in mechanism["name"]) == (private.mode == "local")
    assert stated["assumptions"]["honest_noise"].startswith("none") == (private.mode == "local")
    assert mechanism["releases_per_round"] == (config.federation.local_steps if private.mode == "local" else 1)
    assert any("against the client that holds its data" in each for each in stated["not_protected"])


@pytest.mark.slow
def test_every_clients_own_ledgers_agree_with_the_servers(run):
    """Nobody dropped out, so each block cost every client's units what the server's ledger says of that block."""
    _, directory, stated = run
    server = Ledgers.read(directory.ledger).existing("server")
    blocks = stated["mechanism"]["unit_blocks"]
    found = {}
    for path in sorted(directory.owners.rglob("ledgers.sqlite")):
        for owner in Ledgers.read(path).owners():
            found[path, owner] = Ledgers.read(path).existing(owner)
    assert len(found) == CLIENTS * blocks
    planned = (
        server.budget() / blocks
    )  # of owners' own files: their epsilon, of which the planned rounds leave a little
    assert all(planned <= ledger.budget() < planned * Fraction(101, 100) for ledger in found.values())
    assert max(ledger.spent() for ledger in found.values()) == privacy_spent.most(server)
    assert sum((ledger.spent() for ledger in found.values()), Fraction(0)) == CLIENTS * server.spent()


@pytest.mark.slow
def test_a_run_in_which_clients_take_turns_finishes_and_verifies(tmp_path, silent):
    """The server pays for all eight rounds, a client for the six that it is in: once the server stopped after those."""
    config = configuration(CASES["subject"]).model_dump(exclude_none=True)
    config["grpo"].pop("max_grad_norm", None)
    config["privacy"] |= {"unit": "client", "clip_norm": 1.0}
    config["federation"] |= {"rounds": 8, "schedule": "blocks", "clients_per_round": 6}
    config["client"] = [{"name": "site", "task": "add", "count": 8}]
    directory = RunDirectory(tmp_path / "run")
    training.start(config_file.parse(config, "here"), directory, silent)
    stated = json.loads(directory.statement.read_text())
    assert (stated["run"]["rounds"], stated["run"]["stopped"], stated["mechanism"]["budgets"]) == (8, None, 2)
    assert "statement" in dict(verify(directory, Trust()))
    server = Ledgers.read(directory.ledger).existing("server")
    (path,) = directory.owners.rglob("ledgers.sqlite")
    store = Ledgers.read(path)
    owners = [store.existing(name) for name in store.owners()]
    assert all(server.budget() <= ledger.budget() * 2 < server.budget() * Fraction(101, 100) for ledger in owners)
    assert all(ledger.spent() <= ledger.budget() for ledger in owners)
    assert sum((ledger.spent() for ledger in owners), Fraction(0)) == 6 * server.spent()
