"""Who did not sign a run's end is named: it may have paid for what the ledger does not show."""

from contextlib import ExitStack
from fractions import Fraction

import pytest

from fgrpo_secure.config import files as config_file
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.evidence import verdict
from fgrpo_secure.evidence.verify import Evidence, Trust, steps
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.run import training
from fgrpo_secure.server import stages
from fgrpo_secure.storage import owners_folder
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.wire import Step

PAID = (4, 5)  # as many as may be missing from a quorum of 4 of 6
SENTENCE = "whether client-4, client-5, who did not sign the run's end, paid for sessions without a sum"


def judged(directory):
    with ExitStack() as held:
        evidence = Evidence(directory, Trust(), held)
        found = dict(steps(evidence))
        return found, evidence, verdict.lines(evidence)[-1]


def spent(directory, client):
    ledgers = Ledgers.read(owners_folder.store(directory.owners, 0).with_name(owners_folder.LEDGERS))
    try:
        return ledgers.existing(str(client)).spent()
    finally:
        ledgers.close()


@pytest.mark.slow
def test_clients_that_paid_for_a_session_that_the_ledger_gives_back_are_named(tmp_path, finished, silent, monkeypatch):
    """A server asks few for their vectors, which gives it no sum, and says that it asked nobody."""
    ask, asked = Embedded.exchange, []

    def few(engine, step, outgoing, seconds):
        if step == Step.MASK.value:
            asked.append(step)
            outgoing = outgoing if len(asked) > 1 else {client: outgoing[client] for client in PAID}
        yield from ask(engine, step, outgoing, seconds)

    monkeypatch.setattr(Embedded, "exchange", few)
    monkeypatch.setattr(stages, "failed_charge", lambda *_: Fraction(0))
    directory = RunDirectory(tmp_path / "run")
    training.start(config_file.load(str(finished.config)), directory, silent)
    found, evidence, unchecked = judged(directory)
    shown = sum(each.charge for each in evidence.history.rounds)
    assert shown < spent(directory, 4) == spent(directory, 5)
    assert shown == spent(directory, 0)
    assert evidence.silent == PAID
    assert found["witnesses"].endswith("all but client-4, client-5 signed the end")
    assert SENTENCE in unchecked


def test_of_a_run_that_everybody_signed_nobody_is_named(finished):
    found, evidence, unchecked = judged(finished)
    assert evidence.silent == ()
    assert "sign" not in unchecked
    assert found["witnesses"].endswith("everybody signed the end")
