"""A run goes on in shards after somebody spoiled a session: who pays, what clients refuse, what auditors find."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from fgrpo_secure.cli import app
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.evidence import culprits, verify
from fgrpo_secure.plan import division, terms
from fgrpo_secure.privacy.encode import SumOutOfBounds
from fgrpo_secure.run import training
from fgrpo_secure.server.failures import Failures
from fgrpo_secure.server.stages import SessionFailed
from fgrpo_secure.storage import rosters
from protocols.errors import Refused

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trains_once")]  # whole runs of 12 clients: seconds each

CROWD = ("privacy.reserved_sessions=2", "federation.rounds=6", "aggregation.max_dropout=0.1", "weighting.rule=uniform")


@pytest.fixture
def crowd(small):
    """Twelve clients, one of which may lie: two shards of six."""
    text, tasks = small
    for task in tasks[:4]:
        text = text.replace(f'task = "{task}"\n', f'task = "{task}"\ncount = 2\n')
    return text


@pytest.fixture
def liars(monkeypatch):
    """Clients in this set upload garbage, always."""
    who = set()
    original = Participant._contribution

    def lie(participant, plan):
        made = original(participant, plan)
        if participant._owner.id not in who:
            return made
        values = made.vector.values + 2 ** (plan.ring_bits - 2)
        return replace(made, vector=replace(made.vector, values=values))

    monkeypatch.setattr(Participant, "_contribution", lie)
    return who


@pytest.fixture
def left(monkeypatch):
    """(client, cohort) of every masked vector that left, in order."""
    seen = []
    original = Participant._vectors

    def vectors(participant, plan):
        seen.append((participant._owner.id, plan.cohort, plan.session_number))
        return original(participant, plan)

    monkeypatch.setattr(Participant, "_vectors", vectors)
    return seen


def paid_for_nothing(left, spoiled):
    """Client -> sessions that its vector left in, of those whose cohort is in `spoiled`."""
    return Counter(client for client, cohort, _ in left if cohort in spoiled)


@pytest.mark.parametrize("unit", ["client", "none"])
def test_one_garbage_uploader_costs_each_at_most_two_sessions_and_the_run_finishes_in_shards(
    trial, crowd, liars, left, unit
):
    liars.add(5)
    more = ("privacy.unit=none",) if unit == "none" else ()
    directory = trial.run(*CROWD, *more, text=crowd)
    summary = json.loads(directory.summary.read_text())
    assert (summary["rounds"], summary["stopped"]) == (6, None), trial.lines
    spoiled = {cohort for _, cohort, _ in left if 5 in cohort}
    paid = paid_for_nothing(left, spoiled)
    assert {paid[client] for client in range(12)} == {1, 2}
    assert max(Counter(client for client, _, _ in left).values()) <= 6 + 1
    assert {name for name, _ in verify.verify(directory, verify.Trust())} >= {"plans", "witnesses"} or unit == "none"
    (shown,) = [culprits.read(path, rosters.pins(directory).authority) for path in directory.transcripts.iterdir()]
    (shard,) = (cohort for cohort in spoiled if len(cohort) == 6)
    assert shown.groups == {frozenset(shard)}, "nobody in particular: six clients, one of whom lied"
    assert culprits.named([shown], rosters.roster(directory), 0.05) == frozenset()


def test_a_federation_that_cannot_be_divided_ends_with_what_it_has_after_two_spoiled_sessions(trial, liars, left):
    liars.add(5)
    directory = trial.run("federation.rounds=3", "privacy.reserved_sessions=2")
    summary = json.loads(directory.summary.read_text())
    assert summary["rounds"] == 0
    assert "nobody is asked to pay for a third one" in summary["stopped"]
    assert set(Counter(client for client, _, _ in left).values()) == {2}
    training.resume(directory, trial)
    assert set(Counter(client for client, _, _ in left).values()) == {2}


@pytest.mark.parametrize("forms", [(False, False, True), (False, True, False), (True, True, True)])
def test_a_server_that_cries_out_of_bound_excludes_nobody_and_gets_a_round_and_two_repeats(
    trial, crowd, left, monkeypatch, forms
):
    """It asks for the whole or for shards as it likes, and forgets what it wrote down: its clients count both alike."""

    def cry(*_):
        raise SumOutOfBounds(12, 1)

    federation = trial.federation(*CROWD, text=crowd)
    honest = terms.checked_total
    monkeypatch.setattr(terms, "checked_total", cry)
    refused = ""
    for in_shards in (*forms, True, False, True):
        monkeypatch.setattr(federation.failures, "goes_on_in_shards", lambda _, chosen=in_shards: chosen)
        monkeypatch.setattr(federation.failures, "may_open", lambda clients: True)
        try:
            trial.conduct(federation)
        except SessionFailed as problem:
            refused = str(problem)
    assert max(Counter(client for client, _, _ in left).values()) == 3, "the round, and two repeats of it"
    assert "12 clients refused" in refused or "6 clients refused" in refused
    monkeypatch.setattr(terms, "checked_total", honest)
    authority = rosters.pins(federation.directory).authority
    shown = [culprits.read(path, authority) for path in federation.directory.transcripts.iterdir()]
    assert shown
    assert {each.groups for each in shown} == {frozenset()}, "recomputed from what clients signed, sums are in order"


def test_a_second_repeat_with_everybody_is_refused_by_each_client(trial, crowd, left, monkeypatch):
    federation = trial.federation(*CROWD, text=crowd)
    monkeypatch.setattr(federation.failures, "goes_on_in_shards", lambda _: False)
    trial.conduct(federation)
    trial.conduct(federation)  # as after a crash
    with pytest.raises(SessionFailed, match="12 clients refused"):
        trial.conduct(federation)
    assert {reason[:40] for reason in trial.sessions[-1].refusals.values()} == {
        "the plan repeats a round with its whole "
    }
    assert set(Counter(client for client, _, _ in left).values()) == {2}


def test_a_client_takes_part_in_its_set_of_a_whole_or_of_a_divided_round_and_in_no_other(trial, crowd):
    federation = trial.federation(*CROWD, text=crowd)
    config, digest, ids = federation.config, federation.roster.digest, tuple(range(12))
    small = division.plan(config, federation.privacy, 12, 12)
    parts = division.partition(config, small, digest, 0, ids)
    assert (small.shards, [len(part) for part in parts]) == (2, [6, 6])
    assert parts == division.partition(config, small, digest, 3, ids), "fixed for the run, not drawn again"
    for client in ids:
        own = next(part for part in parts if client in part)
        assert division.is_shard(config, small, digest, 0, ids, client, own)
        assert not division.is_shard(config, small, digest, 0, ids, client, ids)
        swapped = tuple(sorted({*own} - {min({*own} - {client})} | {min({*ids} - {*own})}))
        for other in (swapped, tuple(sorted({*ids} - {*own})), own[:-1], (*own[:-1], 99)):
            with pytest.raises(Refused, match="not this client's shard"):
                division.is_shard(config, small, digest, 0, ids, client, other)


def fgrpo(*arguments):
    return CliRunner().invoke(app, [str(each) for each in ("roster", *arguments)])


def spoil(trial, crowd, name, roster):
    """A run of the same owners, with somebody among them who lies: a whole session without a sum, and one in shards.

    Its transcripts, and the federation, under the roster that the authority signed for it.
    """
    owners = f"engine.owners={trial.folder / 'owners'}"
    federation = trial.federation(*CROWD, "privacy.unit=none", owners, text=crowd, name=name)
    if roster.exists():
        federation.directory.next_roster.write_bytes(roster.read_bytes())
        assert "is in force" in federation.renew()
    with pytest.raises(SessionFailed):
        trial.conduct(federation)
    trial.conduct(federation)
    return federation, sorted(federation.directory.transcripts.iterdir())


def test_who_spoils_shard_after_shard_is_named_by_transcripts_revoked_by_them_and_missed_by_nobody(
    trial, crowd, liars, tmp_path
):
    """Shards follow from the roster: under each new version the liar is beside others, until only it fits."""
    liars.add(5)
    roster, authority = tmp_path / "roster.bin", tmp_path / "owners" / "authority.key"
    transcripts, named = [], 1
    for which in range(1, 9):
        federation, more = spoil(trial, crowd, f"run-{which}", roster)
        transcripts += more
        roster.write_bytes(federation.directory.roster.read_bytes())
        said = fgrpo("culprits", roster, *transcripts)
        named = said.exit_code
        if not named:
            break
        assert "named: nobody" in said.output, said.output
        assert fgrpo("sign", roster, "--authority", authority, "--last-day", f"2999-01-0{which}").exit_code == 0
    assert (named, said.output.splitlines()[-1]) == (0, "named: 5"), said.output
    assert which > 1, "one run's failed sessions show six clients, one of whom lied"

    before, shown = roster.read_bytes(), [part for path in transcripts for part in ("--transcript", path)]
    innocent = fgrpo("revoke", roster, 4, "--authority", authority, *shown)
    assert innocent.exit_code == 1
    assert "do not show that client 4 lied: they name 5" in innocent.output
    few = fgrpo("revoke", roster, 5, "--authority", authority, *shown[:2])
    assert few.exit_code == 1
    assert "they name nobody" in few.output
    assert roster.read_bytes() == before
    revoked = fgrpo("revoke", roster, 5, "--authority", authority, *shown)
    assert revoked.exit_code == 0, revoked.output
    federation.directory.next_roster.write_bytes(roster.read_bytes())
    assert federation.renew().endswith("11 clients take part from now on")
    assert set(trial.conduct(federation, 1).noised) == {*range(12)} - {5}, "together again, and with a sum"


def test_a_crash_after_masks_does_not_divide_a_run_but_a_second_one_does(tmp_path):
    failures = Failures(tmp_path / "failures.jsonl")
    failures.asked(4, range(12))
    assert not failures.goes_on_in_shards(4)
    failures.asked(4, range(12))
    assert failures.goes_on_in_shards(4), "clients would refuse everybody a second time"
    assert not Failures(tmp_path / "failures.jsonl").goes_on_in_shards(5)
    assert Failures(tmp_path / "failures.jsonl").may_open(range(12))


def test_after_a_revocation_those_who_stay_are_together_again(tmp_path):
    failures = Failures(tmp_path / "failures.jsonl")
    for cohort in (range(12), range(6)):
        failures.asked(0, cohort)
        failures.spoiled(cohort, bytes([len(cohort)]))
    assert failures.goes_on_in_shards(1)
    assert not failures.may_open([5, 6])
    assert failures.may_open([6, 7])
    failures.left_out([5])
    again = Failures(tmp_path / "failures.jsonl")
    assert (again.goes_on_in_shards(1), again.may_open(range(12)), again.any_spoiled()) == (False, True, False)
