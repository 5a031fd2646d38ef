"""What a crash may not forget and a resumed run may not change: charges, adapters, and who may open a run's files."""

from fractions import Fraction

from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.privacy.ledger import Ledgers


def client_ledgers(directory, host=0):
    """Client -> (its entries, what it spent); every ledger must verify."""
    ledgers = Ledgers(directory.owners / f"host-{host}" / "ledgers.sqlite")
    found = {}
    for owner in ledgers.owners():
        ledger = ledgers.open(owner, ledgers.last_row(owner).filter.budget)
        ledger.verify()
        found[int(owner)] = ([row.entry for row in ledgers.rows(owner)], ledger.spent())
    ledgers.close()
    return found


# ----------------------------------------------------------------------------------------------------------- charges


def test_a_client_lost_after_its_upload_stays_charged_through_later_sessions_and_a_crash(trial):
    federation = trial.federation("federation.rounds=3", "privacy.epsilon=80.0")
    trial.conduct(federation, lost={"agree": {3}})
    trial.conduct(federation, training_round=1)  # its first message deletes the answers of the session before
    trial.engines.pop().close()
    trial.engines.append(Embedded.start(federation.directory, federation.config))
    trial.engines[-1].recover([])
    entries, spent = client_ledgers(federation.directory)[3]
    intents = [Fraction(entry["charge"]) for entry in entries if entry["kind"] == "intent"]
    ends = [Fraction(entry["charge"]) for entry in entries if entry["kind"] in ("settled", "aborted")]
    assert ends[0] == intents[0] > 0
    assert spent == sum(ends)


def test_a_client_gets_back_the_charge_of_a_session_that_ended_before_its_upload(trial):
    federation = trial.federation("federation.rounds=3", "privacy.epsilon=80.0")
    trial.conduct(federation, lost={"mask": {3}})
    _, charged = client_ledgers(federation.directory)[3]
    trial.conduct(federation, training_round=1)
    entries, spent = client_ledgers(federation.directory)[3]
    aborted = [entry for entry in entries if entry["kind"] == "aborted"]
    assert charged > 0
    assert [Fraction(entry["charge"]) for entry in aborted] == [0]
    assert spent == Fraction(entries[-1]["charge"])
