"""What owners keep of a run until they signed for it, and that a run whose end they signed is over for them."""

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from safetensors.torch import save

from fgrpo_secure.client import round as client_round
from fgrpo_secure.engines import messages
from fgrpo_secure.gain import Observation
from fgrpo_secure.ledger import checkpoint_note, cosigning
from fgrpo_secure.ledger import entries as ledger_entry
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.server import round as server_round
from fgrpo_secure.server.federation import Federation
from protocols import merkle
from protocols.wire import Step


@pytest.fixture
def federation(trial, monkeypatch):
    def learn(adapted, owner, settings):
        return client_round.Learned(Update(np.ones(adapted.dimension(settings.training_round))), Observation(0.5, 0.1))

    monkeypatch.setattr(client_round, "learn", learn)
    trial.sessions.append(SimpleNamespace(learned={}, encoded={}, noised={}))
    return trial.federation()


def announce(federation, host, training_round):
    """What the owners answer to an honest plan: (how many announce, why others refuse)."""
    plan = federation.open_round(training_round).sessions[0].plan
    adapter, roster = save(dict(federation.adapted.full_state())), federation.directory.roster.read_bytes()
    list(host.handle(messages.Begin(adapter, plan.session_number, roster)))
    signed = server_round.signed_plan(federation.identity, plan)
    answers = list(host.handle(messages.Step(Step.ANNOUNCE.value, dict.fromkeys(plan.cohort, signed))))
    return sum(each.payload is not None for each in answers), {each.refusal for each in answers}


def spent(host):
    return [ledger.spent() for owner in host._participants.values() for ledger in owner.ledgers]


@pytest.mark.slow
def test_whoever_signed_a_runs_end_takes_part_in_no_later_session_of_it(federation, trial):
    """Also after a restart, and although its adapter, its plan and its price are in order."""
    federation.conduct(0, lambda *_: None)
    host = federation.engine.hosts[0]
    assert announce(federation, host, 1) == (8, {None})  # a session that is open when the run ends is closed unpaid
    paid = spent(host)
    federation.adapted.save(federation.directory.adapter)
    federation.end(1, "operator")
    assert all(after < before for before, after in zip(paid, spent(host), strict=True))
    assert announce(federation, host, 1) == (0, {"the run is over: this client signed its end"})
    trial.restart(federation)
    assert announce(federation, federation.engine.hosts[0], 1) == (0, {"the run is over: this client signed its end"})


def exhibit(federation, entries, places):
    """A ledger of these entries, proven and signed."""
    data = [ledger_entry.canonical(entry) for entry in entries]
    leaves = [merkle.leaf_hash(each) for each in data]
    origin = cosigning.origin(federation.identity.public, federation.run)
    checkpoint = checkpoint_note.Checkpoint(origin, len(data), merkle.root(leaves))
    note = checkpoint_note.sign(checkpoint, cosigning.signer(federation.identity, cosigning.SERVER))
    shown = [cosigning.Shown(place, data[place], merkle.inclusion_path(leaves, place)) for place in places]
    return msgspec.msgpack.encode(cosigning.Exhibit(note, 0, (), tuple(shown)))


@pytest.mark.slow
@pytest.mark.parametrize("later_plan", [False, True])
def test_owners_sign_only_for_the_survivors_that_they_agreed_on_whatever_came_in_between(
    federation, trial, monkeypatch, later_plan
):
    trial.lost = {"mask": {7}}
    monkeypatch.setattr(Federation, "_showing", lambda _: None)
    federation.conduct(0, lambda *_: None)
    host, entries = federation.engine.hosts[0], federation.ledger.entries()
    session = entries[1]["session"]
    assert entries[2]["facts"]["survivors"] == f"{session}:0-6"
    if later_plan:
        assert announce(federation, host, 1)[0] == 8
    false = json.loads(json.dumps(entries[2]))
    false["facts"]["survivors"] = f"{session}:0-5,7"  # as many, and others
    for last, signs in ((false, 0), (entries[2], 7)):
        shown = exhibit(federation, [entries[0], entries[1], last], (1, 2))
        asked = messages.Witness(bytes.fromhex(session), dict.fromkeys(range(7), shown))
        assert sum(each.line is not None for each in host.handle(asked)) == signs
