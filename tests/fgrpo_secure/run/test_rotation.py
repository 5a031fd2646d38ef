"""Rosters change between the rounds of a federation that goes on."""

import json

import pytest

from fgrpo_secure import entropy
from fgrpo_secure.evidence import manifest
from fgrpo_secure.evidence.verify import Mismatch, Trust, verify
from fgrpo_secure.plan.cost import InfeasiblePlan
from fgrpo_secure.run.training import RunStopped
from fgrpo_secure.server.stages import SessionFailed
from fgrpo_secure.storage import identity_file, rosters
from protocols import params
from protocols.errors import Refused
from protocols.identity import Identity
from protocols.params import Adversary
from protocols.roster import Entry, Roster, sign_roster

pytestmark = pytest.mark.slow


def put_next(directory, revoke=(), keys=None, by=None, **fields):
    """Sign the roster after the run's, and put it where a run looks for it."""
    authority = by or identity_file.read(directory.owners / "authority.key")
    old, keys = rosters.roster(directory), keys or {}
    members = tuple(Entry(e.id, e.name, keys.get(e.id, e.public)) for e in old.members if e.id not in revoke)
    gone = {e.public for e in old.members if e.id in revoke or e.id in keys}
    fields = {"revoked": (*old.revoked, *revoke), "retired": tuple(sorted({*old.retired, *gone})), **fields}
    directory.next_roster.write_bytes(
        sign_roster(authority, Roster(old.version + 1, authority.public, members, **fields))
    )


def test_a_revoked_client_is_out_and_every_client_plans_the_rest_again(trial):
    federation = trial.federation("federation.rounds=3")
    directory, first, demands = federation.directory, federation.privacy, federation.demands
    old = directory.roster.read_bytes()
    trial.conduct(federation, 0)
    put_next(directory, revoke=(3, 4))
    assert federation.renew() == "roster version 2 is in force; 6 clients take part from now on"
    session = trial.conduct(federation, 1)
    expected = params.derive(Adversary.LYING_SERVER, 6, 6, 0.05, 0.25)
    assert federation.privacy.parameters == expected
    assert set(session.noised) == {0, 1, 2, 5, 6, 7}
    assert session.refusals == {}
    assert federation.privacy.noise.charge <= first.noise.charge
    assert federation.privacy.share_variance > first.share_variance, "fewer honest survivors add more noise each"
    assert not directory.next_roster.exists()
    directory.roster.write_bytes(old)  # a server that goes back
    federation.roster, federation.clients = rosters.roster(directory), None
    federation.privacy, federation.demands = first, demands
    with pytest.raises(SessionFailed, match="8 clients refused"):
        trial.conduct(federation, 2)
    reasons = trial.sessions[-1].refusals
    assert len(reasons) == 8
    assert all("roster version 1 is older than 2" in reason for reason in reasons.values())


def test_a_server_that_plans_with_too_little_noise_after_a_revocation_is_refused(trial):
    federation = trial.federation()
    first = federation.privacy
    put_next(federation.directory, revoke=(3, 4))
    federation.renew()
    weak = type(first.noise)(**{**vars_of(federation.privacy.noise), "share_variance": first.share_variance})
    object.__setattr__(federation.privacy, "noise", weak)
    federation.demands = permissive(federation.demands)
    with pytest.raises(SessionFailed, match="6 clients refused"):
        trial.conduct(federation)
    assert all("noise is too weak" in reason for reason in trial.sessions[-1].refusals.values())


def vars_of(value):
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def permissive(demands):
    return type(demands)(**{**vars_of(demands), "max_charge": demands.max_charge * 100})


def test_a_client_goes_on_under_a_new_key_and_one_without_it_does_not(trial, small):
    federation = trial.federation()
    directory = federation.directory
    trial.conduct(federation, 0)
    seeds = {client: bytes([client + 1]) * 32 for client in (2, 5)}
    identity_file.write(directory.owners / f"{small[1][2]}.identity", small[1][2], seeds[2])
    put_next(directory, keys={client: Identity.from_seed(seed).public for client, seed in seeds.items()})
    assert federation.renew() == "roster version 2 is in force"
    session = trial.conduct(federation, 1)
    assert set(session.noised) == {0, 1, 2, 3, 4, 6, 7}
    assert list(session.refusals) == [5]
    assert "does not enrol this client under a key that it holds" in session.refusals[5]


def test_an_expired_client_takes_no_part_and_an_expired_roster_ends_the_run(trial, monkeypatch):
    federation = trial.federation()
    directory, old = federation.directory, rosters.roster(federation.directory)
    authority = identity_file.read(directory.owners / "authority.key")
    members = tuple(Entry(e.id, e.name, e.public, 100 if e.id == 6 else None) for e in old.members)
    signed = sign_roster(authority, Roster(2, authority.public, members, last_day=200))
    directory.next_roster.write_bytes(signed)
    day = [100]
    monkeypatch.setattr(entropy, "today", lambda: day[0])
    assert federation.renew() == "roster version 2 is in force"
    assert len(trial.conduct(federation, 0).noised) == 8
    day[0] = 101
    with pytest.raises(SessionFailed, match="8 clients refused"):
        trial.conduct(federation, 1)  # the server pretends that it is still yesterday
    assert all("enrolment has expired: 6" in reason for reason in trial.sessions[-1].refusals.values())
    assert federation.renew().endswith("7 clients take part from now on")
    assert 6 not in trial.conduct(federation, 1).noised
    day[0] = 201
    with pytest.raises(Refused, match="roster version 2 has expired"):
        federation.renew()


def test_a_day_that_ends_ends_an_enrolment_though_the_server_begins_nothing_anew(trial, monkeypatch):
    federation = trial.federation()
    day = [entropy.today()]
    monkeypatch.setattr(entropy, "today", lambda: day[0])
    assert len(trial.conduct(federation, 0).noised) == 8
    day[0] += 10_000
    monkeypatch.setattr(type(federation.engine), "invite", lambda *_: None)
    with pytest.raises(SessionFailed, match="8 clients refused"):
        trial.conduct(federation, 1)


def test_what_leaves_too_few_names_why(trial):
    federation = trial.federation()
    put_next(federation.directory, revoke=(0, 1, 2, 3))
    with pytest.raises(InfeasiblePlan, match="clients"):
        federation.renew()


def test_a_running_run_takes_up_a_roster_that_is_put_into_it(trial):
    _, directory = trial.configure()

    def after_a_round(metrics):
        if metrics.round == 1:
            put_next(directory, revoke=(7,))

    trial.finished_round = after_a_round
    trial.run()
    assert [line["survivors"] for line in directory.read_metrics()] == [8, 7]
    assert "round 2: roster version 2 is in force; 7 clients take part from now on" in trial.lines
    assert json.loads(directory.summary.read_text())["rounds"] == 2


def test_a_roster_by_the_server_is_set_aside_and_a_revocation_of_too_many_ends_the_run(trial):
    _, directory = trial.configure("federation.rounds=3")

    def after_a_round(metrics):
        if metrics.round == 1:
            put_next(directory, by=rosters.server_identity(directory))
        else:
            put_next(directory, revoke=(0, 1, 2, 3))

    trial.finished_round = after_a_round
    with pytest.raises(RunStopped, match="cannot go on after round 2"):
        trial.run("federation.rounds=3")
    assert directory.refused_roster.exists()
    assert any("not taken up" in line and "did not sign" in line for line in trial.lines)
    assert [line["survivors"] for line in directory.read_metrics()] == [8, 8]


def test_a_run_whose_roster_and_authority_changed_verifies_from_its_files(trial):
    _, directory = trial.configure()
    seed = bytes(range(32))

    def after_a_round(metrics):
        if metrics.round == 1:
            identity_file.write(directory.owners / "add.identity", "add", seed)
            put_next(directory, revoke=(7,), keys={0: Identity.from_seed(seed).public})

    trial.finished_round = after_a_round
    trial.run()
    assert directory.past_roster(1).is_file()
    pinned = rosters.pins(directory).authority
    assert [roster.version for roster in rosters.rosters(directory, pinned)] == [1, 2]
    checks = dict(verify(directory, Trust()))
    assert "version 2, 7 clients" in checks["rosters"]


def test_a_run_that_leaves_out_the_last_roster_that_its_clients_saw_does_not_verify(trial):
    _, directory = trial.configure()

    def after_a_round(metrics):
        if metrics.round == 2:  # no session is planned under it: only the run's end is signed after it came
            put_next(directory, revoke=(7,))
            rosters.take_up(directory, rosters.roster(directory), rosters.server_identity(directory).public)

    trial.finished_round = after_a_round
    trial.run()
    assert "version 2, 7 clients" in dict(verify(directory, Trust()))["rosters"]
    directory.past_roster(1).replace(directory.roster)  # a server that would rather not show who was revoked
    manifest.write(directory, rosters.server_identity(directory))
    with pytest.raises(Mismatch, match=r"the newest roster that client-. has seen is version 2; what is here has 1"):
        dict(verify(directory, Trust()))
