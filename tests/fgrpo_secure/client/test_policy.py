"""The file that each owner keeps: every rule in it refuses by itself, across runs and servers, and says which."""

import dataclasses
import json
import math
import subprocess
import sys
from fractions import Fraction

import msgspec
import pytest

from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.config import files as config_file
from fgrpo_secure.ledger.store import Ledger, Ledgers
from fgrpo_secure.plan import round_settings
from fgrpo_secure.privacy.accounting import epsilon_of
from fgrpo_secure.privacy.sampled import Sampling
from fgrpo_secure.run import training
from fgrpo_secure.storage import identity_file
from protocols.errors import Refused
from protocols.identity import Identity
from protocols.roster import Roster, hand_over, sign_roster

DIMENSION = 256


@pytest.fixture
def federation(trial):
    return trial.federation("federation.rounds=3")


@pytest.fixture
def offer(federation):
    """An honest plan and what the configuration alone admits it as; then the owner's file, changed in one key."""
    plan = federation.open_round(0).sessions[0].plan
    written = client_policy.load(federation.directory.owners, "mul")

    def admit(change=None, sessions=0, signed=True, claim=None, **fields):
        table = written.model_dump()
        for key, value in (change or {}).items():
            section, name = key.split(".")
            table[section][name] = value
        changed = msgspec.structs.replace(plan, **fields)
        admitted = federation.demands.admit(changed, DIMENSION)
        own, known = client_policy.ClientPolicy, client_policy.Known
        own.model_validate(table).admit(changed, admitted, known(signed, 8, sessions, claim))

    return admit


def edit(directory, name, *changes):
    path = client_policy.path_of(directory.owners, name)
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)


# ----------------------------------------------------------------------------------------------------------- each rule


def test_the_written_policy_admits_the_run_that_it_was_written_for(offer):
    offer()
    offer(sessions=8)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trust.models": ("1" * 64,)}, r"trust.models: the plan's base model is not among"),
        ({"rounds.min_quorum": 7}, r"rounds.min_quorum: a quorum of \d is below this client's 7"),
        ({"rounds.min_threshold": 8}, r"rounds.min_threshold: a threshold of \d is below this client's 8"),
        (
            {"rounds.max_weight": 0.4},
            r"rounds.max_weight: the plan's least weight is 0.5, .* largest is 0.4",
        ),
        ({"privacy.unit": "subject"}, r"privacy.unit: the plan protects 'client', this client wants 'subject'"),
        ({"privacy.min_noise_multiplier": 9.0}, r"privacy.min_noise_multiplier: the plan has .*, this client wants 9"),
        ({"privacy.max_dimension": 257}, r"privacy.max_dimension: vectors of 258 is above this client's 257"),
        ({"privacy.max_cohort": 7}, r"privacy.max_cohort: a cohort of 8 is above this client's 7"),
        ({"rounds.min_cohort": 9}, r"rounds.min_cohort: a cohort of 8 is below this client's 9"),
        ({"rounds.min_survivors": 7}, r"rounds.min_survivors: a floor of survivors of 6 is below this client's 7"),
        ({"trust.max_corrupt": 0.3}, r"trust.max_corrupt, trust.max_dropout: .* this client demands"),
        ({"trust.max_dropout": 0.0}, r"trust.max_corrupt, trust.max_dropout: floor = 6 is below 8, which this client"),
        ({"trust.post_quantum": True}, r"trust.post_quantum: the plan agrees on keys without ML-KEM-768"),
    ],
)
def test_each_rule_refuses_by_itself_and_names_itself(offer, change, reason):
    with pytest.raises(Refused, match=reason):
        offer(change)


def test_a_session_with_more_releases_of_a_unit_than_the_owner_allows_is_refused(trial):
    text = trial.text.replace("[[client]]", "[[client]]\nrows = 4")
    text = text.replace("[privacy]", '[privacy]\nunit = "prompt_group"\nmode = "local"\nunits_per_client = 6')
    federation = trial.federation("federation.local_steps=2", "grpo.prompts_per_step=1", text=text)  # a release each
    plan, admitted = (session := federation.open_round(0).sessions[0]).plan, session.admitted
    written = client_policy.load(federation.directory.owners, "mul")
    known, fewer = client_policy.Known(True, 8, 0, None), written.privacy.model_copy(update={"max_releases": 1})
    assert (admitted.settings.releases, written.privacy.max_releases) == (2, 2)
    written.admit(plan, admitted, known)
    with pytest.raises(Refused, match=r"privacy.max_releases: releases of 2 is above this client's 1"):
        written.model_copy(update={"privacy": fewer}).admit(plan, admitted, known)


def test_a_roster_that_does_not_go_back_to_the_owners_authority_is_refused(offer, federation):
    with pytest.raises(Refused, match=r"trust.authority: the roster does not go back to this client's authority"):
        offer(signed=False)


def test_an_owner_that_pins_another_authority_drops_out_and_the_others_go_on(trial):
    federation = trial.federation("federation.rounds=3")
    edit(federation.directory, "mul", ('authority = "', f'authority = "{"ab" * 32}" # "'))
    trial.restart(federation)
    refusals = trial.conduct(federation).refusals
    assert refusals == {2: "trust.authority: the roster does not go back to this client's authority"}


def test_a_server_gets_no_vector_alone_from_an_owner_that_wants_secure_aggregation(trial):
    text = trial.text.replace('adversary = "lying_server"', 'mode = "plain"\nadversary = "none"\nmax_corrupt = 0.0')
    federation = trial.federation("engine.faults={}", text=text)
    edit(federation.directory, "mul", ('aggregation = "plain"', 'aggregation = "secure"'))
    trial.restart(federation)
    session = trial.conduct(federation)
    assert session.refusals == {2: "trust.aggregation: this client takes part in secure aggregation only"}
    assert set(session.learned) == {0, 1, 3, 4, 5, 6, 7}


def test_a_client_that_took_part_in_all_its_sessions_refuses_the_next(offer):
    with pytest.raises(Refused, match=r"privacy.max_sessions: this client has taken part in all 9"):
        offer(sessions=9)


def test_a_plan_that_trusts_the_server_is_refused_by_an_owner_that_does_not(trial):
    federation = trial.federation(text=trial.text.replace("lying_server", "honest_but_curious"))
    edit(federation.directory, "mul", ('adversary = "honest_but_curious"', 'adversary = "lying_server"'))
    trial.restart(federation)
    assert trial.conduct(federation).refusals == {
        2: "trust.adversary: the plan trusts the server to be honest, this client does not"
    }


def test_a_weight_never_rises_above_the_owners_largest(trial):
    federation = trial.federation("weighting.rule=uniform")
    directory = federation.directory
    edit(directory, "mul", ("max_weight = 1.0", "max_weight = 0.625"))
    trial.restart(federation)
    session = trial.conduct(federation)
    weights = {client: learned.weight for client, learned in session.learned.items()}
    assert weights.pop(2) == 0.625
    assert set(weights.values()) == {1.0}


def test_an_owner_follows_the_authority_that_its_own_handed_over_to(trial):
    federation = trial.federation("federation.rounds=3")
    directory, later = federation.directory, Identity.from_seed(b"n" * 32)
    edit(directory, "mul", ('authority = "', f'authority = "{later.public.hex()}" # "'))
    trial.restart(federation)
    assert trial.conduct(federation).refusals.keys() == {2}, "not before the hand-over"
    old = identity_file.read(directory.owners / "authority.key")
    moved = Roster(2, later.public, federation.roster.members, retired=(old.public,))
    directory.next_roster.write_bytes(sign_roster(later, moved, [hand_over(old, later.public)]))
    federation.renew()
    assert trial.conduct(federation, 1).refusals == {}


def test_a_refusal_is_in_the_owners_own_log(trial):
    federation = trial.federation("federation.rounds=3")
    edit(federation.directory, "mul", ("max_sessions = 9", "max_sessions = 1"))
    trial.restart(federation)
    trial.conduct(federation)
    said = "privacy.max_sessions: this client has taken part in all 1 it allows"
    assert trial.conduct(federation, 1).refusals == {2: said}
    assert said in (federation.directory.owners / "host-0" / "mul.log").read_text()


def test_a_run_of_sampled_rounds_must_fit_the_budget_as_a_whole(offer, federation):
    claim = dataclasses.replace(federation.privacy.claim, sampling=Sampling(0.5, 1.0, 3))
    offer(claim=claim)
    dearer = dataclasses.replace(claim, epsilon=61.0)
    with pytest.raises(Refused, match=r"privacy.epsilon: the run's sampled rounds cost epsilon 61 .* allows 60 at"):
        offer(claim=dearer)
    with pytest.raises(Refused, match=r"privacy.epsilon: .* at delta 0.1, this client allows"):
        offer(claim=dataclasses.replace(claim, delta=0.1))
    offer(claim=dataclasses.replace(dearer, sampling=None))


# ----------------------------------------------------------------------------------------------- what a budget is worth


def test_the_budget_covers_the_planned_rounds_and_not_one_more(federation):
    own = client_policy.load(federation.directory.owners, "mul")
    budget, charge = own.budget(), federation.privacy.noise.charge
    assert 3 * charge <= budget < 4 * charge
    assert budget >= federation.privacy.claim.budget


@pytest.mark.parametrize(
    "override", ["privacy.epsilon=60", "privacy.noise_multiplier=0.4", "privacy.noise_multiplier=3"]
)
def test_a_written_budget_covers_its_plan_whichever_way_the_noise_was_given(trial, override):
    text = trial.text.replace("epsilon = 60.0\n", "") if "noise" in override else trial.text
    federation = trial.federation(override, text=text)
    own = client_policy.load(federation.directory.owners, "add")
    budget, rounds = own.budget(), federation.privacy.claim.rounds
    assert rounds * federation.privacy.noise.charge <= budget < (rounds + 1) * federation.privacy.noise.charge
    claimed = epsilon_of(math.sqrt(budget), own.privacy.delta)
    assert claimed <= own.privacy.epsilon <= max(federation.privacy.claim.epsilon * (1 + 1e-4), 60.0)


def test_an_owner_that_lowered_its_budget_drops_out_and_the_run_goes_on_with_the_rest(trial):
    federation = trial.federation("federation.rounds=3")
    edit(federation.directory, "mul", ("epsilon = 60.0", "epsilon = 40.0"))
    trial.restart(federation)
    refusals = [trial.conduct(federation, training_round).refusals for training_round in range(3)]
    assert refusals[0] == {}
    assert refusals[-1] == {2: "privacy.epsilon: the privacy budget does not cover this round"}
    own = client_policy.load(federation.directory.owners, "mul")
    ledgers = Ledgers(federation.directory.owners / "host-0" / "ledgers.sqlite")
    assert 0 < ledgers.last_row("2").filter.spent <= own.budget()
    assert ledgers.last_row("2").filter.budget == own.budget() < ledgers.last_row("3").filter.budget
    ledgers.close()


# ------------------------------------------------------------------------------------------------------ several runs


@pytest.mark.slow
def test_two_runs_of_the_same_owners_add_up_in_their_ledgers_and_the_second_stops_in_one_sentence(trial):
    shared = f"engine.owners={json.dumps(str(trial.folder / 'owners'))}"
    first = trial.run(shared, name="first")
    spent = read_spent(trial.folder / "owners")
    second = trial.run(shared, "run.seed=1", name="second")
    summary = json.loads(second.summary.read_text())
    assert json.loads(first.summary.read_text())["rounds"] == 2
    assert summary["rounds"] < 2
    assert summary["stopped"].endswith("8 clients refused; why stands in second.simulation.json")
    assert "privacy.epsilon: the privacy budget does not cover this round" in second.simulation.read_text()
    after, budget = read_spent(trial.folder / "owners"), client_policy.load(trial.folder / "owners", "add").budget()
    assert all(spent[owner] <= after[owner] <= budget for owner in spent)
    assert sum(line.startswith("stopped after") for line in trial.lines) == 1


@pytest.mark.slow
def test_a_raised_budget_lets_the_same_owners_go_on_at_another_server_with_the_same_keys(trial):
    shared = f"engine.owners={json.dumps(str(trial.folder / 'owners'))}"
    less = "privacy.epsilon=20"
    first = trial.run(shared, less, "federation.rounds=1", name="first").with_owners(str(trial.folder / "owners"))
    before = read_spent(first.owners)
    for name in ("add", "sub", "mul", "sort", "rev", "cnt", "mod", "minmax"):
        edit(first, name, ("epsilon = 20.0", "epsilon = 60.0"), ("max_sessions = 3", "max_sessions = 9"))
    text = client_policy.path_of(first.owners, "mul").read_text()
    second = trial.run(shared, less, "federation.rounds=1", "run.seed=1", name="second")
    assert json.loads(second.summary.read_text())["stopped"] is None
    assert client_policy.path_of(first.owners, "mul").read_text() == text, "an owner's file is never written again"
    assert second.roster.read_bytes() == first.roster.read_bytes()
    assert second.server_key.read_bytes() != first.server_key.read_bytes()
    after = read_spent(first.owners)
    assert all(after[owner] > before[owner] for owner in before)


def read_spent(owners):
    ledgers = Ledgers(owners / "host-0" / "ledgers.sqlite")
    found = {owner: ledgers.last_row(owner).filter.spent for owner in ledgers.owners()}
    ledgers.close()
    return found


def test_other_owners_or_another_number_of_processes_than_the_folder_holds_are_refused(trial):
    federation = trial.federation("federation.rounds=1", f"engine.owners={json.dumps(str(trial.folder / 'owners'))}")
    folder = json.dumps(str(trial.folder / "owners"))
    config, directory = trial.configure("engine.processes=2", f"engine.owners={folder}", name="second")
    with pytest.raises(ValueError, match=r"enrolled with engine.processes = 1; set engine.processes = 1, not 2"):
        training.start(config, directory, trial)
    config, directory = trial.configure("client.mul.name=other", f"engine.owners={folder}", name="second")
    with pytest.raises(ValueError, match="holds other data owners than this configuration has clients"):
        training.start(config, directory, trial)
    assert not directory.root.exists()
    assert federation.roster.members[2].name == "mul"


@pytest.mark.parametrize(
    "setting", [{"sampling_rate": 0.5}, {"max_rounds_per_unit": 1}], ids=lambda setting: next(iter(setting))
)
def test_budgets_that_hold_for_one_run_as_a_whole_do_not_go_with_owners_of_several(setting):
    client = {"name": "a", "task": "add", "count": 8, "rows": 8, "subject": "person"}
    privacy = {"unit": "subject", "epsilon": 8.0, **setting}
    table = {"client": [client], "privacy": privacy, "engine": {"owners": "/owners"}}
    with pytest.raises(config_file.ConfigError, match=r"engine.owners adds up what several runs spend"):
        config_file.parse(table, "own.toml")


def test_a_folder_of_owners_is_meant_relative_to_the_configuration_that_names_it(trial):
    config, _ = trial.configure("engine.owners=ours")
    assert config.engine.owners == str(trial.folder / "ours")


def test_a_crashed_round_stays_paid_though_another_run_of_the_same_owners_came_between(trial, monkeypatch):
    """The other run forgets the owners' answers; their ledgers still say whether a masked vector left."""
    shared = f"engine.owners={json.dumps(str(trial.folder / 'owners'))}"
    first = trial.federation(shared, "federation.rounds=3", name="first")
    with monkeypatch.context() as patch:
        patch.setattr("fgrpo_secure.server.stages.conclude", crash)
        with pytest.raises(KeyboardInterrupt):
            trial.conduct(first)
    trial.engines.pop().close()
    second = trial.federation(shared, "federation.rounds=3", "run.seed=1", name="second")
    trial.conduct(second)
    trial.restart(second)  # closes the stores
    trial.restart(first)
    spent = first.ledger.spent()
    first.recover()
    assert first.ledger.spent() == spent > 0
    assert first.ledger.open_sessions() == ()


def crash(*_):
    raise KeyboardInterrupt


def test_two_processes_with_the_same_ledger_never_spend_the_same_budget(tmp_path):
    path = tmp_path / "ledgers.sqlite"
    Ledger.open(path, "7", Fraction(20)).close()
    code = (
        "import sys; from fractions import Fraction; from pathlib import Path\n"
        "from fgrpo_secure.ledger.store import BudgetExceeded, Ledger\n"
        "ledger = Ledger.open(Path(sys.argv[1]), '7', Fraction(20))\n"
        "for number in range(15):\n"
        "    try: ledger.intent(bytes([number, int(sys.argv[2])]) * 16, number, Fraction(1))\n"
        "    except BudgetExceeded: break"
    )
    racing = [subprocess.Popen([sys.executable, "-c", code, str(path), str(number)]) for number in range(2)]
    assert [process.wait(60) for process in racing] == [0, 0]
    ledger = Ledger.open(path, "7", Fraction(20))
    assert ledger.spent() == 20
    assert len(ledger.open_sessions()) == 20
    ledger.verify()
    ledger.close()


def test_refunded_sessions_do_not_count_as_taking_part(tmp_path):
    ledger = Ledgers(tmp_path / "ledgers.sqlite").open("7", Fraction(10))
    for number, end in enumerate(("settle", "refund", "charge", "open")):
        session = bytes([number]) * 32
        ledger.intent(session, number, Fraction(1))
        if end == "settle":
            ledger.settle(session, 5, Fraction(1, 2))
        elif end != "open":
            ledger.abort(session, refund=end == "refund")
    assert ledger.sessions() == 3
    ledger.close()


# --------------------------------------------------------------------------------------------------- unusable files


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[rounds]", "[rounds", r"mul/client-policy.toml is not valid TOML"),
        ("min_cohort", "min_cohrt", r"rounds.min_cohrt is not a known key; did you mean 'min_cohort'\?"),
        ("min_cohort = 4", "min_cohort = -1", r"rounds.min_cohort must be an integer at least 0, not -1"),
        ('unit = "client"', 'unit = "person"', r"privacy.unit must be .*\"prompt_group\" or \"none\""),
        ("epsilon = 60.0", "epsilon = nan", r"privacy.epsilon must be .*number.*, not nan"),
        ("epsilon = 60.0", "epsilon = inf", r"privacy.epsilon must be .*, not inf"),
        ("epsilon = 60.0", "epsilon = 0", r"privacy.epsilon must be a number above 0 .*, not 0"),
        ("epsilon = 60.0", "epsilon = -1.0", r"privacy.epsilon must be a number above 0 .*, not -1.0"),
        ("max_weight = 1.0", "max_weight = nan", r"rounds.max_weight must be .*, not nan"),
        ("epsilon = 60.0", "epsilon = 9000.0", r"privacy.epsilon: epsilon is 9000; the sampler's table supports"),
        ("epsilon = 60.0", "", r"privacy: 'epsilon', 'delta' and 'min_noise_multiplier' are needed"),
        ("max_sessions = 9", "", r"privacy.max_sessions is missing"),
        ("authority = ", "authority = 'x' #", r"trust.authority must be 64 hexadecimal digits"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_key_and_what_is_allowed(federation, old, new, said):
    edit(federation.directory, "mul", (old, new))
    with pytest.raises(config_file.ConfigError, match=said) as problem:
        client_policy.check_all(federation.directory.owners, ["add", "mul"])
    assert "mul/client-policy.toml" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_an_owner_without_its_file_takes_no_part(federation):
    client_policy.path_of(federation.directory.owners, "mul").unlink()
    with pytest.raises(config_file.ConfigError, match=r"client-policy.toml cannot be read: No such file"):
        client_policy.load(federation.directory.owners, "mul")


def test_a_written_file_reads_back_as_it_was_meant_and_explains_every_key(federation):
    path = client_policy.path_of(federation.directory.owners, "mul")
    own = client_policy.load(federation.directory.owners, "mul")
    assert path.stat().st_mode & 0o077 == 0
    assert own.privacy.min_noise_multiplier <= federation.privacy.claim.noise_multiplier
    assert own.privacy.min_noise_multiplier == pytest.approx(federation.privacy.claim.noise_multiplier, rel=2e-5)
    for line in path.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            assert "#" in line, line
    assert own.privacy.max_dimension == round_settings.SCORES + DIMENSION
