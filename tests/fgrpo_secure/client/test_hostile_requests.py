"""A server's requests, whatever stands in them, end in a refusal: no owner's host dies, and nothing is charged."""

import json
from contextlib import contextmanager

import msgspec
import pytest
from safetensors.torch import save

from fgrpo_secure import entropy
from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.engines import messages
from fgrpo_secure.engines.host import Host
from fgrpo_secure.server import round as server_round
from protocols import wire
from protocols.errors import FaultyServer

TEXT = """
[adapter]
rank = 1
targets = ["down_proj"]
[federation]
rounds = 4
[evaluation]
prompts = 1
[privacy]
{privacy}
[aggregation]
max_dropout = 0.25
[[client]]
name = "adders"
task = "add"
count = 6
{client}
"""
UNITS = 'subject = "patient"\nrows = 8\nrows_per_subject = 1'
MODES = {
    "client": ("epsilon = 60.0", ""),
    "subject": ('unit = "subject"\nepsilon = 8.0', UNITS),
    "local": ('unit = "subject"\nmode = "local"\nepsilon = 8.0', UNITS),
    "none": ('unit = "none"', ""),
}
NASTY = (10**400, -1, 0, 1e-200, 1e308, 2**64, 10**12, None, "", "x" * 100, [], {}, True, [1e308] * 3, [[]])


@pytest.fixture(params=sorted(MODES))
def federation(request, trial):
    privacy, client = MODES[request.param]
    return trial.federation(text=TEXT.format(privacy=privacy, client=client))


def begin(federation, adapter=None, roster=None):
    host = federation.engine.hosts[0]
    whole = save(dict(federation.adapted.full_state()))
    shown = federation.directory.roster.read_bytes() if roster is None else roster
    list(host.handle(messages.Begin(whole if adapter is None else adapter, 0, shown)))
    return host


def announce(host, federation, plan):
    signed = server_round.signed_plan(federation.identity, plan)
    return list(host.handle(messages.Step("announce", {0: signed}, None)))


def leaves(value, path=()):
    """Every place in a settings document, tables and lists themselves included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from leaves(each, (*path, key))


def changed(value, path, nasty):
    if not path:
        return nasty
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], nasty)
    return copy


def spent(host):
    return [(ledger.spent(), ledger.size()) for ledger in host._participants[0].ledgers]


def test_every_setting_of_a_plan_with_every_nasty_value_is_refused_at_once(federation):
    host = begin(federation)
    honest = federation.open_round(0).sessions[0].plan
    settings, before, started = json.loads(honest.settings), spent(host), entropy.processor_time()
    tried = 0
    for path in leaves(settings):
        for nasty in NASTY:
            other = changed(settings, path, nasty)
            if other == settings:
                continue
            text = json.dumps(other, sort_keys=True, separators=(",", ":")).encode()
            for answer in announce(host, federation, msgspec.structs.replace(honest, settings=text)):
                assert answer.payload is None, (path, nasty)
            tried += 1
    for text in (honest.settings + b" ", b" " + honest.settings, json.dumps(settings, indent=1).encode()):
        (answer,) = announce(host, federation, msgspec.structs.replace(honest, settings=text))
        assert answer.refusal == "the plan's settings are not in their one form"
    assert tried > 500
    assert entropy.processor_time() - started < 0.05 * tried
    assert spent(host) == before


def test_bytes_that_are_no_adapter_of_the_run_are_objected_to_and_forgotten_with_the_next(federation):
    state = federation.adapted.full_state()
    name = next(iter(state))
    plan = federation.open_round(0).sessions[0].plan
    cut = {key: value[:1, :1].contiguous() for key, value in state.items()}
    for adapter in (
        b"",
        b"garbage",
        b"\xff" * 100,
        save({"x": state[name]}),
        save(cut),
        save({**state, "x": state[name].clone()}),
    ):
        host = begin(federation, adapter)
        assert isinstance(host._objection, FaultyServer)
        assert all(answer.payload is None for answer in announce(host, federation, plan))
    host = begin(federation)
    assert host._objection is None
    assert announce(host, federation, plan)[0].payload is not None


def test_a_plan_that_comes_again_after_a_crash_between_two_files_is_refused(trial, monkeypatch):
    privacy, client = MODES["client"]
    federation = trial.federation(text=TEXT.format(privacy=privacy, client=client))
    host, plan = begin(federation), federation.open_round(0).sessions[0].plan

    class Crash(BaseException):
        pass

    @contextmanager
    def dying(store):
        store._db.execute("BEGIN IMMEDIATE")
        yield
        store._db.execute("ROLLBACK")
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(ClientStore, "transaction", dying)
        with pytest.raises(Crash):
            announce(host, federation, plan)
    host._book.close()
    federation.engine.hosts[0] = Host.open(federation.directory, federation.config, 0, 1)
    host = begin(federation)
    list(host.handle(messages.Recover([wire.session_of(plan)])))
    for _ in range(2):
        (answer,) = announce(host, federation, plan)
        assert "charged before" in answer.refusal
