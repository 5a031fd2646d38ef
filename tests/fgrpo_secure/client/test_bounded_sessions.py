"""What a client joins at most: sessions that ask for nothing, and runs whose charges do not add up."""

from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import pytest
from safetensors.torch import save

from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.engines.messages import Begin
from fgrpo_secure.engines.messages import Step as StepRequest
from fgrpo_secure.server.stages import SessionFailed
from fgrpo_secure.storage.run_directory import RunDirectory
from protocols.server import open_session
from protocols.wire import Step

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trains_once")]

EVERYBODY = frozenset(range(8))
MIXED = "privacy.epsilon: this client paid in another run, and rounds of a part of its units are accounted alone"


def test_a_client_joins_only_so_many_sessions_of_a_round_that_never_ask_for_its_vector(trial, small):
    """A server could open sessions for ever: each costs training and a row, and is given back."""
    federation = trial.federation()
    for name in small[1]:
        path = client_policy.path_of(federation.directory.owners, name)
        path.write_text(path.read_text().replace("max_unmasked = 32 ", "max_unmasked = 2 "))
    trial.restart(federation)
    for _ in range(2):
        with pytest.raises(SessionFailed):
            trial.conduct(federation, 0, lost={"share": EVERYBODY})
        assert not trial.sessions[-1].refusals
    trial.restart(federation)  # and not forgotten with the process
    with pytest.raises(SessionFailed, match="8 clients refused"):
        trial.conduct(federation, 0)
    assert set(trial.sessions[-1].refusals.values()) == {
        "rounds.max_unmasked: no vector was asked for in 2 sessions of this round"
    }
    assert trial.conduct(federation, 1).result is not None, "another round is another one"


@pytest.fixture
def grouped(small):
    """Owners whose unit is a prompt group, of which each has eight; what samples in secret, and what takes turns."""
    text = small[0].replace("[[client]]", "[[client]]\nrows = 8")
    text = text.replace("[privacy]", '[privacy]\nunit = "prompt_group"\nunits_per_client = 8')
    return text.replace("prompts_per_step = 2", "prompts_per_step = 1"), {
        "whole": (),
        "sampled": ("privacy.sampling_rate=0.5",),
        "turns": ("privacy.max_rounds_per_unit=1",),
    }


@pytest.mark.parametrize("kinds", [("sampled", "whole"), ("whole", "sampled"), ("turns", "turns")], ids="-".join)
def test_charges_of_a_part_of_the_units_and_of_another_run_are_never_added_up(trial, grouped, kinds, monkeypatch):
    """Runs deal units into blocks by seeds of their own: what one charged to block 0, another has in block 1."""
    text, settings = grouped
    first, second = (settings[kind] for kind in kinds)
    paid = trial.federation(*first, text=text, name="first")
    trial.conduct(paid)
    trial.engines.pop().close()
    # A trial's configuration refuses to sample with shared owners; nothing stops an organisation's folder from it.
    owners = paid.directory.owners
    monkeypatch.setattr(RunDirectory, "with_owners", lambda directory, _: replace(directory, shared_owners=owners))
    other = trial.federation(*second, "run.seed=1", text=text, name="second")
    for training_round in range(2):
        with pytest.raises(SessionFailed, match="8 clients refused"):
            trial.conduct(other, training_round)
        assert set(trial.sessions[-1].refusals.values()) == {MIXED}


@pytest.mark.parametrize("change", [{"name": "another"}, {"subject": "another"}], ids="".join)
def test_an_owners_units_are_dealt_into_the_blocks_of_a_run_once(trial, grouped, change):
    """Its own file may be edited in mid-run: dealt anew, a unit that paid in block 0 would be one of block 1."""
    text, settings = grouped
    federation = trial.federation(*settings["turns"], text=text)
    assert trial.conduct(federation, 0).result is not None
    trial.restart(federation)
    for participant in federation.engine.hosts[0]._participants.values():
        participant._owner = replace(participant._owner, **change)
    with pytest.raises(SessionFailed, match="8 clients refused"):
        trial.conduct(federation, 1)
    assert {each.split(":")[0] for each in trial.sessions[-1].refusals.values()} == {"privacy.max_rounds_per_unit"}


class Server:
    """One of two servers of the same owners, which takes its session as far as it likes."""

    def __init__(self, federation):
        self.host = federation.engine.hosts[0]
        plan = federation.open_round(0).sessions[0].plan
        self.inbox = open_session(federation.identity, plan, federation.roster)
        adapter = save(dict(federation.adapted.full_state()))
        list(self.host.handle(Begin(adapter, 0, federation.directory.roster.read_bytes())))
        self.left = 0

    def asks(self):
        """The step in which the session stands, of everybody."""
        for answer in self.host.handle(StepRequest(self.inbox.step.value, dict(self.inbox.outgoing))):
            if answer.payload is not None:
                self.inbox.receive(answer.client, answer.payload)
                self.left += self.inbox.step is Step.MASK

    def asks_for_vectors(self):
        if self.inbox.answers:  # else everybody refused the session
            for _ in (Step.SHARE, Step.MASK):
                self.inbox = self.inbox.close()
                self.asks()


ORDERS = [
    each for each in permutations("aAbB") if each.index("a") < each.index("A") and each.index("b") < each.index("B")
]


@pytest.mark.parametrize("kinds", [("sampled", "whole"), ("turns", "turns")], ids="-".join)
@pytest.mark.parametrize("order", ORDERS, ids="".join)
def test_of_two_servers_only_one_gets_vectors_where_charges_do_not_add_up(trial, grouped, kinds, order, monkeypatch):
    """`a` and `b` open their sessions, `A` and `B` ask for vectors, of rounds that take a part of the units."""
    text, settings = grouped
    one, other = (settings[kind] for kind in kinds)
    first = trial.federation(*one, text=text, name="a")
    owners = first.directory.owners
    monkeypatch.setattr(RunDirectory, "with_owners", lambda directory, _: replace(directory, shared_owners=owners))
    second = trial.federation(*other, text=text, name="b")
    trial.sessions.append(SimpleNamespace(learned={}, encoded={}, noised={}))
    servers = {"a": Server(first), "b": Server(second)}
    for act in order:
        server = servers[act.lower()]
        server.asks() if act.islower() else server.asks_for_vectors()
    assert sorted(server.left for server in servers.values()) == [0, 8]
