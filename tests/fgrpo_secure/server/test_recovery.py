"""A server that comes back after workers conducted its sessions: a charge is given back only where nobody was asked."""

import pytest

from fgrpo_secure.server import round as server_round
from fgrpo_secure.server import stages
from fgrpo_secure.server.failures import Failures


class Remembered:
    """What workers' database would remember: see `server.session.Elsewhere`."""

    def __init__(self, known, asked=(), spoiled=()):
        self._known, self._asked, self._spoiled = set(known), list(asked), list(spoiled)

    def conduct(self, sessions):
        raise AssertionError("no session begins in a recovery")

    def asked_before(self):
        return self._asked

    def spoiled_before(self):
        return self._spoiled

    def knows(self, session):
        return session in self._known


@pytest.fixture
def crashed(trial):
    """A federation whose round was charged, and no client of which knows anything of it; and that round's session."""
    federation = trial.federation()
    opened = federation.open_round(0)
    stages.charge(opened, federation.ledger, federation.identity)
    assert federation.ledger.spent() > 0
    return federation, opened.sessions[0]


def test_a_session_that_its_worker_had_asked_in_stays_paid_and_is_remembered_from_then_on(crashed):
    federation, session = crashed
    signed = server_round.signed_plan(federation.identity, session.plan)
    federation.elsewhere = Remembered([session.name], [signed])
    federation.recover()
    assert federation.ledger.spent() == session.admitted.charge
    assert federation.asked.names() == {session.name}
    federation.recover()
    assert federation.directory.failures.read_text().count('"asked"') == 1, "noted twice, it would count as a repeat"


def test_a_session_that_a_liar_ended_while_the_server_was_away_is_remembered_once(crashed):
    """Forgotten, the next round would not be divided; counted twice, its clients' shard would be closed too early."""
    federation, session = crashed
    signed = server_round.signed_plan(federation.identity, session.plan)
    federation.elsewhere = Remembered([session.name], [signed], [signed])
    for _ in range(2):
        federation.recover()
        assert federation.failures.goes_on_in_shards(1)
    again = Failures(federation.directory.failures)
    again.spoiled(session.plan.cohort, session.name)
    assert again.any_spoiled()
    assert again.may_open(session.plan.cohort)
    again.spoiled(session.plan.cohort, b"another")
    assert not again.may_open(session.plan.cohort)


def test_a_session_that_nobody_was_asked_in_is_given_back(crashed):
    federation, session = crashed
    federation.elsewhere = Remembered([session.name])
    federation.recover()
    assert federation.ledger.spent() == 0


def test_a_session_that_the_database_does_not_know_counts_as_paid(crashed):
    federation, _ = crashed
    federation.elsewhere = Remembered([])
    federation.recover()
    assert federation.ledger.spent() > 0


@pytest.mark.parametrize("workers_before", [True, False])
def test_a_server_that_goes_on_alone_gives_nothing_back_that_workers_may_have_asked_for(crashed, workers_before):
    federation, _ = crashed
    if workers_before:
        federation.directory.workers.touch()
    federation.recover()
    assert (federation.ledger.spent() > 0) is workers_before
