"""What clients look at before they sign the server's ledger, and everything they refuse to sign."""

from fractions import Fraction

import msgspec
import pytest

from fgrpo_secure.evidence import spent, witness
from fgrpo_secure.evidence.witness import Exhibit, Unwitnessed
from fgrpo_secure.privacy import checkpoint_note
from fgrpo_secure.privacy.checkpoint_note import BadCheckpoint
from fgrpo_secure.privacy.ledger import Ledger, LedgerMisuse
from protocols.identity import Identity

SERVER, CLIENT, STRANGER = (Identity.from_seed(bytes([i]) * 32) for i in range(3))
ORIGIN = witness.origin(SERVER.public, bytes(16))
S = [bytes([i]) * 32 for i in range(8)]
CHARGE = Fraction(1, 3)


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.open(tmp_path / "ledger.sqlite", "server", Fraction(10))
    yield opened
    opened.close()


def settle(ledger, which, survivors=9, charge=CHARGE):
    ledger.intent(S[which], which, Fraction(1, 2))
    ledger.settle(S[which], survivors, charge)


def show(ledger, which, seen=0, signer=SERVER, origin=ORIGIN):
    note = ledger.checkpoint(origin, witness.signer(signer, witness.SERVER))
    return witness.exhibit(ledger, note, seen, S[which])


def examine(data, which, last=None, survivors=9, charge=CHARGE, training_round=4, turns=1):
    return witness.examine(data, SERVER.public, ORIGIN, last, S[which], survivors, charge, training_round, turns)


def test_a_client_signs_a_ledger_that_grew_from_what_it_signed_before(ledger):
    settle(ledger, 0)
    first = examine(show(ledger, 0), 0)
    settle(ledger, 1)
    second = examine(show(ledger, 1, first.size), 1, (first.size, first.root))
    assert (second.size, second.root) == (ledger.size(), ledger.root())


def test_a_cosigned_note_carries_both_signatures_over_the_same_text(ledger):
    settle(ledger, 0)
    note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
    cosigned = checkpoint_note.cosign(note, witness.signer(CLIENT, "client-4"))
    for name, identity in (("server", SERVER), ("client-4", CLIENT)):
        assert checkpoint_note.verify(cosigned, name, identity.public).root == ledger.root()
    with pytest.raises(BadCheckpoint):
        checkpoint_note.verify(cosigned, "client-4", STRANGER.public)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\nb"])
def test_a_witness_has_a_name_that_the_format_has_room_for(ledger, name):
    settle(ledger, 0)
    note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
    with pytest.raises(ValueError, match="must not be empty nor contain"):
        checkpoint_note.cosign(note, witness.signer(CLIENT, name))


def test_a_rewritten_ledger_finds_no_witness(ledger, tmp_path):
    settle(ledger, 0)
    first = examine(show(ledger, 0), 0)
    forked = Ledger.open(tmp_path / "fork.sqlite", "server", Fraction(10))
    settle(forked, 2)
    settle(forked, 1)
    with pytest.raises(Unwitnessed, match="does not prove itself: consistency proof"):
        examine(show(forked, 1, first.size), 1, (first.size, first.root))


def test_a_ledger_cut_back_finds_no_witness(ledger, tmp_path):
    settle(ledger, 0)
    settle(ledger, 1)
    seen = examine(show(ledger, 1), 1)
    shorter = Ledger.open(tmp_path / "cut.sqlite", "server", Fraction(10))
    settle(shorter, 0)
    with pytest.raises(Unwitnessed, match="no tree of 5 leaves begins one of 3"):
        examine(show(shorter, 0), 0, (seen.size, seen.root))


def test_a_proof_from_another_size_than_the_one_signed_last_is_refused(ledger):
    settle(ledger, 0)
    first = examine(show(ledger, 0), 0)
    settle(ledger, 1)
    with pytest.raises(Unwitnessed, match="consistency proof"):
        examine(show(ledger, 1, 2), 1, (first.size, first.root))


def test_only_the_pinned_servers_own_checkpoint_of_this_run_is_signed(ledger):
    settle(ledger, 0)
    with pytest.raises(Unwitnessed, match="no valid signature of 'server'"):
        examine(show(ledger, 0, signer=STRANGER), 0)
    with pytest.raises(Unwitnessed, match="the checkpoint is of"):
        examine(show(ledger, 0, origin=witness.origin(SERVER.public, b"another run     ")), 0)


def test_an_entry_that_is_not_in_the_ledger_is_refused(ledger):
    settle(ledger, 0)
    shown = msgspec.msgpack.decode(show(ledger, 0), type=Exhibit)
    cheaper = msgspec.structs.replace(shown, entry=shown.entry.replace(b'"1/3"', b'"1/2"'))
    with pytest.raises(Unwitnessed, match="not in the server's ledger"):
        examine(msgspec.msgpack.encode(cheaper), 0)


def test_a_settlement_below_the_clients_own_or_of_another_session_is_refused(ledger):
    settle(ledger, 0)
    data = show(ledger, 0)
    with pytest.raises(Unwitnessed, match="charges less"):
        examine(data, 0, charge=CHARGE + Fraction(1, 10**9))
    with pytest.raises(Unwitnessed, match="counts 9 survivors, this client 8"):
        examine(data, 0, survivors=8)
    with pytest.raises(Unwitnessed, match="settles another session"):
        examine(data, 1)
    examine(data, 0, charge=CHARGE - Fraction(1, 9))


def test_an_entry_of_several_shards_is_signed_by_each_for_its_own_survivors_and_round(ledger):
    ledger.intent(S[0], 0, Fraction(1, 2), witness.opening_facts([S[1], S[2]]))
    ledger.settle(S[0], 14, CHARGE, witness.shard_facts(4, {S[0]: range(9), S[2]: range(5)}))
    data = show(ledger, 0)
    assert examine(data, 0) == examine(data, 2, survivors=5)
    with pytest.raises(Unwitnessed, match="counts 5 survivors, this client 6"):
        examine(data, 2, survivors=6)
    with pytest.raises(Unwitnessed, match="charges less"):
        examine(data, 2, survivors=5, charge=CHARGE * 2)
    with pytest.raises(Unwitnessed, match="settles another round"):
        examine(data, 0, training_round=5)
    with pytest.raises(Unwitnessed, match="does not settle a session"):
        examine(data, 1)  # the shard that failed is not settled, whatever its clients are shown


def test_an_entry_that_is_counted_for_another_turns_units_is_refused(ledger):
    """Else their spending could be hidden among those who paid nothing."""
    for number, facts in enumerate([spent.facts(5, 3), {}, {spent.TURN: "2"}]):
        ledger.intent(S[number], number, CHARGE)
        ledger.settle(S[number], 9, CHARGE, facts)
    examine(show(ledger, 0), 0, training_round=5, turns=3)
    for number, turns, training_round in [(0, 3, 4), (0, 1, 5), (1, 3, 5), (2, 3, 5)]:
        with pytest.raises(Unwitnessed, match="another turn's units"):
            examine(show(ledger, number), number, training_round=training_round, turns=turns)


def test_spending_is_that_of_the_turn_that_paid_most_and_what_nobody_vouched_for_counts_for_all(ledger):
    ends = [(0, Fraction(1, 8)), (1, Fraction(1, 16)), (1, Fraction(3, 32))]
    for number, (turn, charge) in enumerate(ends):
        ledger.intent(S[number], number, charge)
        ledger.settle(S[number], 9, charge, spent.facts(turn, 2))
    assert spent.most(ledger) == Fraction(5, 32)
    ledger.intent(S[3], 3, Fraction(1, 64))
    assert spent.most(ledger) == Fraction(5, 32) + Fraction(1, 64)
    ledger.abort(S[3], refund=True)
    assert spent.most(ledger) == Fraction(5, 32)


def test_an_aborted_session_is_nothing_to_sign(ledger):
    ledger.intent(S[0], 0, CHARGE)
    with pytest.raises(LedgerMisuse, match="neither settled nor aborted"):
        show(ledger, 0)
    ledger.abort(S[0], refund=True)
    with pytest.raises(Unwitnessed, match="does not settle a session"):
        examine(show(ledger, 0), 0)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x00" * 70_000, msgspec.msgpack.encode(["exhibit"])])
def test_garbage_is_refused_in_one_sentence(data):
    with pytest.raises(Unwitnessed, match=r"cannot be read|is longer than"):
        examine(data, 0)


def test_a_note_that_could_pass_for_a_protocol_message_is_never_signed():
    with pytest.raises(ValueError, match="must not begin like a protocol message"):
        SERVER.sign_note("fgrpo-aggregation/1 anything")
