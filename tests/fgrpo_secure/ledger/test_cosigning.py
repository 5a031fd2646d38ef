"""What clients look at before they sign the server's ledger, and everything they refuse to sign."""

import base64
from dataclasses import replace
from fractions import Fraction

import msgspec
import pytest

from fgrpo_secure import entropy
from fgrpo_secure.ledger import checkpoint_note, note_file, privacy_spent, testimony
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint
from fgrpo_secure.ledger.cosigning import Exhibit, Own, Unwitnessed
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Account, Charged, Priced
from protocols.identity import Identity
from protocols.roster import Roster

SERVER, CLIENT, STRANGER = (Identity.from_seed(bytes([i]) * 32) for i in range(3))
ORIGIN = witness.origin(SERVER.public, bytes(16))
S = [bytes([i]) * 32 for i in range(8)]
CHARGE = Fraction(1, 3)
ROSTERS = {version: Roster(version, bytes(32), ()) for version in (1, 2)}


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger.open(tmp_path / "ledger.sqlite", "server", Fraction(10))
    yield opened
    opened.close()


def settle(ledger, which, survivors=9, charge=CHARGE, training_round=4, block=None):
    facts = witness.end_facts(training_round, {S[which]: range(survivors)})
    ledger.intent(S[which], which, Fraction(1, 2))
    ledger.settle(S[which], survivors, charge, facts | ({} if block is None else block))


def places(ledger, *sessions):
    """Where the entries of these rounds are, by the first session of each."""
    named = {session.hex() for session in sessions}
    return tuple(entry["position"] for entry in ledger.entries() if entry.get("session") in named)


def show(ledger, which, seen=0, signer=SERVER, origin=ORIGIN):
    note = ledger.checkpoint(origin, witness.signer(signer, witness.SERVER))
    whiches = (which,) if isinstance(which, int) else which
    return witness.exhibit(ledger, note, seen, {*places(ledger, *(S[each] for each in whiches)), ledger.size() - 1})


def own(which, survivors=9, charge=CHARGE, training_round=4, blocks=1):
    return Own(
        Charged(which, S[which].hex(), charge, survivors), training_round, blocks, full=max(charge, Fraction(1, 2))
    )


def examine(data, which, last=None, survivors=9, charge=CHARGE, training_round=4, blocks=1):
    mine = [own(which, survivors, charge, training_round, blocks)]
    return witness.examine(data, SERVER.public, ORIGIN, last, mine).checkpoint


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
    with pytest.raises(Unwitnessed, match="not one of this run's ledger"):
        examine(show(ledger, 0, origin=witness.origin(SERVER.public, b"another run     ")), 0)


def test_an_entry_that_is_not_in_the_ledger_is_refused(ledger):
    settle(ledger, 0)
    shown = msgspec.msgpack.decode(show(ledger, 0), type=Exhibit)
    first, second = shown.shown
    forged = msgspec.structs.replace(second, entry=second.entry.replace(b'"1/3"', b'"1/2"'))
    cheaper = msgspec.structs.replace(shown, shown=(first, forged))
    with pytest.raises(Unwitnessed, match="not in the server's ledger"):
        examine(msgspec.msgpack.encode(cheaper), 0)


def test_a_settlement_below_the_clients_own_or_of_another_session_is_refused(ledger):
    settle(ledger, 0)
    data = show(ledger, 0)
    with pytest.raises(Unwitnessed, match="charges less"):
        examine(data, 0, charge=CHARGE + Fraction(1, 10**9))
    with pytest.raises(Unwitnessed, match="counts 9 survivors, this client 8"):
        examine(data, 0, survivors=8)
    with pytest.raises(Unwitnessed, match="does not show a session that this client paid for"):
        examine(data, 1)
    examine(data, 0, charge=CHARGE - Fraction(1, 9))


def test_an_entry_of_several_shards_is_signed_by_each_for_its_own_survivors_and_round(ledger):
    ledger.intent(S[0], 0, Fraction(1, 2), witness.opening_facts([S[1], S[2]]))
    ledger.settle(S[0], 14, CHARGE, witness.end_facts(4, {S[0]: range(9), S[2]: range(5)}))
    data = show(ledger, 0)
    assert examine(data, 0) == examine(data, 2, survivors=5)
    with pytest.raises(Unwitnessed, match="counts 5 survivors, this client 6"):
        examine(data, 2, survivors=6)
    with pytest.raises(Unwitnessed, match="charges less"):
        examine(data, 2, survivors=5, charge=CHARGE * 2)
    with pytest.raises(Unwitnessed, match="settles another round"):
        examine(data, 0, training_round=5)
    with pytest.raises(Unwitnessed, match="does not settle this client's session"):
        examine(data, 1)  # the shard that failed is not settled, whatever its clients are shown


def test_an_entry_that_is_counted_for_another_turns_units_is_refused(ledger):
    """Else their spending could be hidden among those who paid nothing."""
    for number, facts in enumerate([privacy_spent.facts(5, 3), {}, {privacy_spent.BLOCK: "2"}]):
        settle(ledger, number, training_round=4 if number == 9 else 5, block=facts)
    examine(show(ledger, 0), 0, training_round=5, blocks=3)
    for number, blocks, training_round in [(0, 4, 5), (0, 1, 5), (1, 3, 5), (2, 3, 5)]:
        with pytest.raises(Unwitnessed, match="another block of units"):
            examine(show(ledger, number), number, training_round=training_round, blocks=blocks)


def test_spending_is_that_of_the_turn_that_paid_most_and_what_nobody_vouched_for_counts_for_all(ledger):
    ends = [(0, Fraction(1, 8)), (1, Fraction(1, 16)), (1, Fraction(3, 32))]
    for number, (block, charge) in enumerate(ends):
        ledger.intent(S[number], number, charge)
        ledger.settle(S[number], 9, charge, privacy_spent.facts(block, 2))
    assert privacy_spent.most(ledger) == Fraction(5, 32)
    ledger.intent(S[3], 3, Fraction(1, 64))
    assert privacy_spent.most(ledger) == Fraction(5, 32) + Fraction(1, 64)
    ledger.abort(S[3], refund=True)
    assert privacy_spent.most(ledger) == Fraction(5, 32)


def test_an_aborted_session_is_nothing_to_sign(ledger):
    ledger.intent(S[0], 0, Fraction(1, 2))
    with pytest.raises(Unwitnessed, match="does not show how a session ended"):
        examine(show(ledger, 0), 0)
    ledger.abort(S[0], refund=True)
    with pytest.raises(Unwitnessed, match="does not settle this client's session"):
        examine(show(ledger, 0), 0)


@pytest.mark.parametrize(
    "data", [b"", b"\xc0", b"\x00" * (witness.MAX_EXHIBIT + 1), msgspec.msgpack.encode(["exhibit"])]
)
def test_garbage_is_refused_in_one_sentence(data):
    with pytest.raises(Unwitnessed, match=r"cannot be read|is longer than"):
        examine(data, 0)


def test_a_note_that_could_pass_for_a_protocol_message_is_never_signed():
    with pytest.raises(ValueError, match="must not begin like a protocol message"):
        SERVER.sign_note("fgrpo-aggregation/1 anything")


# -------------------------------------------------------------------------------------------- a client's own account


def sign(data, mine, last=None, before=None, lost=()):
    return witness.examine(data, SERVER.public, ORIGIN, last, mine, before or Account(), lost)


def test_a_client_signs_its_whole_account_and_needs_no_session_shown_twice(ledger):
    settle(ledger, 0)
    settle(ledger, 1)
    first = sign(show(ledger, (0, 1)), [own(0), own(1)])
    assert (first.account.sessions, first.account.total, first.lost) == (2, 2 * CHARGE, ())
    settle(ledger, 2)
    last = first.checkpoint.size, first.checkpoint.root
    second = sign(show(ledger, 2, last[0]), [own(0), own(1), own(2)], last, first.account)
    assert second.account == first.account.after([own(2).charged])


def test_a_ledger_that_hides_or_renames_or_gives_back_a_session_finds_no_signature(ledger):
    """A session in which the client was lost after its upload is paid for all the same."""
    settle(ledger, 0)
    mine = [own(0), own(1, survivors=0, charge=Fraction(1, 2)), own(2)]
    settle(ledger, 2)
    with pytest.raises(Unwitnessed, match="does not show a session that this client paid for"):
        sign(show(ledger, (0, 2)), mine)
    ledger.intent(S[3], 3, Fraction(1, 2))  # the same session under another name
    ledger.abort(S[3], refund=False)
    with pytest.raises(Unwitnessed, match="does not show a session that this client paid for"):
        sign(show(ledger, (0, 2, 3)), mine)
    ledger.intent(S[1], 1, Fraction(1, 2))
    ledger.abort(S[1], refund=True)
    with pytest.raises(Unwitnessed, match="gave back a session that this client paid for"):
        sign(show(ledger, (0, 1, 2)), mine)


def test_a_client_that_was_lost_in_a_session_names_it_and_signs_what_it_paid(ledger):
    settle(ledger, 0)
    ledger.intent(S[1], 1, Fraction(1, 2))
    ledger.abort(S[1], refund=False)
    found = sign(show(ledger, (0, 1)), [own(0), own(1, survivors=0, charge=Fraction(1, 2))])
    assert found.lost == (places(ledger, S[1])[0],)
    assert found.account.total == CHARGE + Fraction(1, 2)


def test_the_last_entry_is_signed_only_with_the_adapter_that_the_client_holds(ledger):
    settle(ledger, 0)
    ledger.close_run({"adapter": "aa" * 32})
    note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
    shown = witness.exhibit(ledger, note, 0, (*places(ledger, S[0]), ledger.size() - 1))
    assert witness.examine(shown, SERVER.public, ORIGIN, None, [own(0)], released=b"\xaa" * 32).account.sessions == 1
    hidden = witness.exhibit(ledger, note, 0, places(ledger, S[0]))
    for data, held, reason in (
        (shown, b"\xab" * 32, "last entry is not about the adapter"),
        (shown, None, "last entry is not about the adapter"),  # a run's end shown as if a session had settled
        (hidden, b"\xaa" * 32, "newest entry is not shown"),
        (hidden, None, "newest entry is not shown"),
    ):
        with pytest.raises(Unwitnessed, match=reason):
            witness.examine(data, SERVER.public, ORIGIN, None, [own(0)], released=held)


def merged(ledger, first, second):
    """Both sessions in one entry, as if they were shards of one round."""
    ledger.intent(S[first], first, Fraction(1, 2), witness.opening_facts([S[second]]))
    ended = witness.end_facts(4, {S[first]: range(9), S[second]: range(9)})
    ledger.settle(S[first], 18, CHARGE, ended)


def test_two_sessions_of_one_client_are_never_signed_for_as_one(ledger):
    """Also not when the entry was made, and signed for, before the second of them began."""
    merged(ledger, 0, 1)
    data = show(ledger, 0)
    first = sign(data, [own(0)])
    with pytest.raises(Unwitnessed, match="charges two sessions that this client paid for once"):
        sign(data, [own(0), own(1)])
    settle(ledger, 2)
    last = first.checkpoint.size, first.checkpoint.root
    with pytest.raises(Unwitnessed, match="charges two sessions that this client paid for once"):
        sign(show(ledger, (0, 2), last[0]), [own(0), own(1)], last, first.account)


@pytest.mark.parametrize("refund", [False, True])
def test_a_session_that_a_client_was_lost_in_is_charged_all_of_what_it_paid(ledger, refund):
    settle(ledger, 0)
    ledger.intent(S[1], 1, Fraction(1, 10**9))
    ledger.abort(S[1], refund)
    with pytest.raises(Unwitnessed, match="charges less for this session"):
        sign(show(ledger, (0, 1)), [own(0), own(1, survivors=0, charge=Fraction(1, 2))])


def test_a_note_with_anything_beside_the_servers_line_is_not_signed(ledger):
    """What the client kept would be refused by an auditor."""
    settle(ledger, 0)
    shown = msgspec.msgpack.decode(show(ledger, 0), type=Exhibit)
    head, blob = shown.note[:-1].rsplit(" ", 1)
    for note in (
        shown.note + "\u2014 mallory AAAA\n",
        shown.note + "\n",
        shown.note[:-1],
        shown.note * 2,
        shown.note.replace("\n3\n", "\n03\n"),
        f"{head} {blob[:-2]}{chr(ord(blob[-2]) + 1)}=\n",  # bits that base64 leaves over
        f"{shown.note}\u2014 server {blob}\n",
    ):
        with pytest.raises(Unwitnessed, match="signature"):
            examine(msgspec.msgpack.encode(msgspec.structs.replace(shown, note=note)), 0)


@pytest.mark.parametrize("start", ["x", ORIGIN + "\n1\n"])
def test_a_long_note_with_many_lines_costs_no_time_and_is_not_quoted(start):
    line = "\u2014 server " + base64.b64encode(checkpoint_note.key_id("server", SERVER.public) + bytes(64)).decode()
    note = start + "x" * (2 << 20) + "\n1\nAAAA\n\n" + f"{line}\n" * 15_000
    started = entropy.processor_time()
    with pytest.raises(Unwitnessed) as refusal:
        examine(msgspec.msgpack.encode(Exhibit(note, 0, (), ())), 0)
    assert entropy.processor_time() - started < 1
    assert len(str(refusal.value)) < 200


def priced(which, opened, lost_is_full=Fraction(1, 2), survivors=range(1, 9), refunded=False):
    here = None if survivors is None else frozenset(survivors)
    return Priced(which, S[which].hex(), opened, opened + 1, frozenset(range(9)), here, CHARGE, lost_is_full, refunded)


def test_an_auditor_writes_the_same_account_as_the_client_and_finds_any_other(ledger):
    settle(ledger, 0)
    checkpoint = checkpoint_note.verify(
        ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER)), witness.SERVER, SERVER.public
    )
    sessions = [priced(0, 1), priced(1, 3), priced(2, 5, survivors=None), priced(3, 7, survivors=None, refunded=True)]
    signed = Account().after([Charged(0, S[0].hex(), CHARGE, 8), Charged(2, S[2].hex(), Fraction(1, 2), 0)])
    everything = signed  # client 4 below; client 0 survived in none of them
    for client, lost, charged in (
        (4, (5,), [Charged(each, S[each].hex(), CHARGE, 8) for each in (0, 1)]),
        (0, (1, 5), [Charged(0, S[0].hex(), Fraction(1, 2), 0)]),
    ):
        charged = sorted([*charged, Charged(2, S[2].hex(), Fraction(1, 2), 0)])
        account = note_file.Accounts(sessions).at(client, 9, frozenset(lost))
        assert account == Account().after(charged) != everything
        signed = testimony.sign(CLIENT, "client-4", checkpoint, client, account, lost, ROSTERS[1])
        line = testimony.read(signed, "client-4", 9)
        testimony.check(line, "client-4", [CLIENT.public], checkpoint, client, account, ROSTERS)
        for other in (Account().after(charged[1:]), Account().after(charged * 2), account.after(charged[:1])):
            with pytest.raises(BadCheckpoint, match="signed for another account"):
                testimony.check(line, "client-4", [CLIENT.public], checkpoint, client, other, ROSTERS)
    with pytest.raises(BadCheckpoint, match="names sessions that the ledger does not charge it for"):
        note_file.Accounts(sessions).at(4, 9, frozenset([7]))


def test_accounts_that_grow_with_the_ledger_are_those_made_at_once():
    sessions = [priced(each, 1 + 2 * each, survivors=None if each % 3 == 2 else range(1, 9)) for each in range(7)]
    growing = note_file.Accounts(sessions)
    for size in range(3, 17, 2):
        for client, lost in ((4, ()), (4, (5,)), (0, (1, 5)), (0, (1, 3))):
            inside = frozenset(place for place in lost if place + 1 < size)
            assert growing.at(client, size, inside) == note_file.Accounts(sessions).at(client, size, inside)


def refused_by_the_server(ledger, refund):
    """Session 0 as a client settled it, whose sum the server could not use; then session 1."""
    ledger.intent(S[0], 0, Fraction(1, 2))
    ledger.abort(S[0], refund=refund)
    settle(ledger, 1)
    mine = [replace(own(0), full=Fraction(1, 2)), replace(own(1), full=Fraction(1, 2))]
    return witness.examine(show(ledger, (0, 1)), SERVER.public, ORIGIN, None, mine)


def test_a_session_whose_sum_the_server_could_not_use_is_signed_for_at_its_full_price(ledger):
    signable = refused_by_the_server(ledger, refund=False)
    inside = [Charged(0, S[0].hex(), Fraction(1, 2), 0), own(1).charged]
    assert signable.account == Account().after(inside)
    assert signable.lost == (places(ledger, S[0])[0],)
    settle(ledger, 2)
    later = [*map(own, (0, 1, 2))]
    last = signable.checkpoint.size, signable.checkpoint.root
    shown = show(ledger, 2, last[0])
    again = witness.examine(shown, SERVER.public, ORIGIN, last, later, signable.account, signable.lost)
    assert again.account == Account().after([*inside, own(2).charged])


def test_a_session_that_a_client_settled_and_the_server_gave_back_is_not_signed_for(ledger):
    with pytest.raises(Unwitnessed, match="does not settle"):
        refused_by_the_server(ledger, refund=True)
