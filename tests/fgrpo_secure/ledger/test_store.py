"""The ledger: charged before, refused before, settled once, durable, append-only, provable."""

import json
import sqlite3
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from fgrpo_secure.ledger import checkpoint_note
from fgrpo_secure.ledger import entries as ledger_entry
from fgrpo_secure.ledger.checkpoint_note import Signer
from fgrpo_secure.ledger.store import Ledger, LedgerCorrupt, LedgerMisuse, Ledgers
from fgrpo_secure.privacy.accounting import BudgetExceeded
from protocols import merkle

S = [bytes([i]) * 32 for i in range(64)]
HALF, THIRD = Fraction(1, 2), Fraction(1, 3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "private" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    opened = Ledger.open(path, "clinic", Fraction(2))
    yield opened
    opened.close()


# ------------------------------------------------------------------------------------------------ spending


def test_an_intent_is_charged_at_once(ledger):
    ledger.intent(S[0], 1, HALF, {"integer_bound": 163, "share_variance": 527, "clip_norm": "0x1.0p+0"})
    assert ledger.spent() == HALF
    assert ledger.remaining() == Fraction(3, 2)


def test_a_charge_beyond_the_budget_is_refused_before_anything_is_written(ledger):
    ledger.intent(S[0], 1, Fraction(3, 2))
    before = ledger.size(), ledger.root(), ledger.entries()
    with pytest.raises(BudgetExceeded, match=r"clinic has spent 1\.5 of a privacy budget of 2"):
        ledger.intent(S[1], 2, HALF + Fraction(1, 10**30))
    assert (ledger.size(), ledger.root(), ledger.entries()) == before
    ledger.intent(S[1], 2, HALF)
    assert ledger.remaining() == 0


def test_settling_lowers_the_charge_to_what_the_round_cost(ledger):
    ledger.intent(S[0], 1, HALF)
    ledger.settle(S[0], 9, THIRD)
    assert ledger.spent() == THIRD


def test_a_round_never_settles_above_its_intent_nor_for_nothing(ledger):
    ledger.intent(S[0], 1, HALF)
    for charge in (HALF + Fraction(1, 10**20), Fraction(0), Fraction(-1)):
        with pytest.raises(ValueError, match="it must be above 0 and at most the 1/2 charged"):
            ledger.settle(S[0], 9, charge)
    with pytest.raises(ValueError, match="survivors is 0"):
        ledger.settle(S[0], 0, THIRD)
    assert ledger.spent() == HALF
    assert ledger.is_open(S[0])


@pytest.mark.parametrize(("refund", "spent"), [(True, Fraction(0)), (False, HALF)])
def test_an_aborted_round_is_refunded_only_when_told_so(ledger, refund, spent):
    ledger.intent(S[0], 1, HALF)
    ledger.abort(S[0], refund=refund)
    assert ledger.spent() == spent


def test_a_session_goes_from_intent_to_one_end_and_nowhere_else(ledger):
    for act in (lambda: ledger.settle(S[0], 3, THIRD), lambda: ledger.abort(S[0], refund=True)):
        with pytest.raises(LedgerMisuse, match="never charged"):
            act()
    ledger.intent(S[0], 1, HALF)
    with pytest.raises(LedgerMisuse, match="charged before"):
        ledger.intent(S[0], 1, THIRD)
    ledger.settle(S[0], 3, HALF)
    for act in (lambda: ledger.settle(S[0], 3, THIRD), lambda: ledger.abort(S[0], refund=True)):
        with pytest.raises(LedgerMisuse, match="settled or aborted before"):
            act()
    with pytest.raises(LedgerMisuse, match="charged before"):
        ledger.intent(S[0], 2, THIRD)
    assert ledger.spent() == HALF


def test_open_sessions_are_those_without_an_end(ledger):
    for i in range(4):
        ledger.intent(S[i], i, Fraction(1, 8))
    ledger.settle(S[1], 5, Fraction(1, 9))
    ledger.abort(S[2], refund=True)
    assert ledger.open_sessions() == (S[0], S[3])
    assert [ledger.is_open(S[i]) for i in range(5)] == [True, False, False, True, False]


@pytest.mark.parametrize("charge", [Fraction(0), Fraction(-1, 2)])
def test_a_free_or_negative_round_is_refused(ledger, charge):
    with pytest.raises(ValueError, match="it must be above 0"):
        ledger.intent(S[0], 1, charge)


operations = st.lists(
    st.tuples(
        st.sampled_from(["intent", "settle", "abort", "refund"]),
        st.integers(0, 3),
        st.fractions(Fraction(1, 50), 1, max_denominator=60),
    ),
    max_size=14,
)


@given(operations)
@settings(max_examples=25, deadline=None)
def test_any_order_of_operations_keeps_the_sum_that_a_plain_model_keeps(tmp_path_factory, moves):
    ledger = Ledger.open(tmp_path_factory.mktemp("model") / "l.sqlite", 1, Fraction(2))
    model, ended = {}, set()
    for kind, which, charge in moves:
        before = ledger.spent()
        try:
            if kind == "intent":
                ledger.intent(S[which], which, charge)
                assert which not in model
                model[which] = charge
            else:
                if kind == "settle":
                    ledger.settle(S[which], 3, charge)
                    assert charge <= model[which]
                    model[which] = charge
                else:
                    ledger.abort(S[which], refund=kind == "refund")
                    model[which] = Fraction(0) if kind == "refund" else model[which]
                assert which not in ended
                ended.add(which)
        except ValueError:
            assert ledger.spent() == before
        assert ledger.spent() == sum(model.values(), Fraction(0)) <= 2
    ledger.verify()
    ledger.close()


# ------------------------------------------------------------------------------------------------ budgets and owners


def test_a_ledger_goes_on_where_it_was_when_opened_again(path):
    first = Ledger.open(path, 7, Fraction(1))
    first.intent(S[0], 1, HALF)
    first.close()
    again = Ledger.open(path, 7, Fraction(1))
    assert (again.spent(), again.size(), again.owner) == (HALF, 2, "7")
    with pytest.raises(LedgerMisuse):
        again.intent(S[0], 1, HALF)
    again.verify()


def test_a_change_of_budget_is_an_entry_and_a_lowered_one_refuses_everything(path):
    ledger = Ledger.open(path, 7, Fraction(1))
    ledger.intent(S[0], 1, HALF)
    lowered = Ledger.open(path, 7, THIRD)
    assert [entry["kind"] for entry in lowered.entries()] == ["budget", "intent", "budget"]
    assert (lowered.budget(), lowered.spent(), lowered.remaining()) == (THIRD, HALF, Fraction(0))
    with pytest.raises(BudgetExceeded):
        lowered.intent(S[1], 2, Fraction(1, 1000))
    lowered.verify()


@pytest.mark.parametrize("budget", [Fraction(0), Fraction(-1)])
def test_a_budget_of_nothing_is_refused(path, budget):
    with pytest.raises(ValueError, match=r"a budget is .*; it must be above 0"):
        Ledger.open(path, 7, budget)


def test_many_owners_share_a_file_and_a_commit_but_nothing_else(path):
    store = Ledgers(path)
    owners = [store.open(i, Fraction(1)) for i in range(20)]
    with store.transaction():
        for i, each in enumerate(owners):
            each.intent(S[0], 1, Fraction(1, i + 2))
    assert [each.spent() for each in owners] == [Fraction(1, i + 2) for i in range(20)]
    assert len({each.root() for each in owners}) == 20
    assert set(store.owners()) == {str(i) for i in range(20)}
    owners[3].verify()


def test_an_exception_inside_a_transaction_undoes_it_for_every_owner(path):
    store = Ledgers(path)
    owners = [store.open(i, Fraction(1)) for i in range(3)]

    def charge_all():
        with store.transaction():
            for each in owners:
                each.intent(S[0], 1, HALF)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        charge_all()
    assert [each.spent() for each in owners] == [0, 0, 0]


def test_one_owners_refusal_leaves_the_others_in_the_same_transaction(path):
    store = Ledgers(path)
    rich, poor = store.open("rich", Fraction(1)), store.open("poor", THIRD)
    with store.transaction():
        rich.intent(S[0], 1, HALF)
        with pytest.raises(BudgetExceeded):
            poor.intent(S[0], 1, HALF)
    assert (rich.spent(), poor.spent()) == (HALF, Fraction(0))


def test_the_file_is_for_its_owner_only(ledger, path):
    assert path.stat().st_mode & 0o777 == 0o600


# ------------------------------------------------------------------------------------------------ evidence


def test_sql_can_neither_change_nor_delete_nor_replace_nor_skip_an_entry(ledger, path):
    ledger.intent(S[0], 1, HALF)
    rows = sqlite3.connect(path)
    row = rows.execute("SELECT * FROM entry WHERE position = 1").fetchone()
    fresh = (*row[:1], 2, "aa", *row[3:])
    for statement, values, message in [
        ("UPDATE entry SET spent = '0/1'", (), "never changed"),
        ("DELETE FROM entry", (), "never deleted"),
        ("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row, "only ever appended"),
        ("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (row[0], 2, *row[2:]), "only ever appended"),
        ("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (fresh[0], 5, *fresh[2:]), "only ever appended"),
    ]:
        with pytest.raises(sqlite3.IntegrityError, match=message):
            rows.execute(statement, values)
    rows.close()
    assert ledger.spent() == HALF


def tampered(path, statement, *values):
    rows = sqlite3.connect(path)
    for trigger in ("never_change", "never_delete", "never_replace"):
        rows.execute(f"DROP TRIGGER {trigger}")
    rows.execute(statement, values)
    rows.commit()
    rows.close()


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("UPDATE entry SET spent = '0/1' WHERE position = 2", ()),
        ("UPDATE entry SET budget = '9/1' WHERE position = 1", ()),
        (
            "UPDATE entry SET content = CAST(replace(CAST(content AS TEXT), '1/2', '1/9') AS BLOB) WHERE position = 1",
            (),
        ),
        ("UPDATE entry SET content = CAST(? AS BLOB) WHERE position = 1", ("[]",)),
        ("UPDATE entry SET content = CAST(? AS BLOB) WHERE position = 1", ("{",)),
        ("UPDATE entry SET frontier = zeroblob(32) WHERE position = 0", ()),
        ("UPDATE entry SET session = 'ff' WHERE position = 1", ()),
        ("UPDATE entry SET spent = 'much' WHERE position = 2", ()),
        ("UPDATE entry SET spent = '1/0' WHERE position = 2", ()),
        (
            "UPDATE entry SET content = CAST(replace(CAST(content AS TEXT), '1/2', '1/0') AS BLOB) WHERE position = 1",
            (),
        ),
        ("UPDATE entry SET owner = 'other' WHERE position = 1", ()),
        ("DELETE FROM entry WHERE position = 1", ()),
    ],
)
def test_verify_finds_every_kind_of_tampering(ledger, path, statement, values):
    ledger.intent(S[0], 1, HALF)
    ledger.settle(S[0], 4, THIRD)
    ledger.intent(S[1], 2, THIRD)
    ledger.verify()
    tampered(path, statement, *values)
    with pytest.raises(LedgerCorrupt, match="the ledger of 'clinic' breaks at entry"):
        ledger.verify()


def test_the_incremental_root_is_the_rfc_6962_root_at_every_size_and_proves_every_entry(ledger):
    leaves = []
    for i in range(21):
        contents = [ledger_entry.canonical(entry) for entry in ledger.entries()]
        leaves = [merkle.leaf_hash(content) for content in contents]
        assert ledger.root() == merkle.root(leaves)
        ledger.intent(S[i], i, Fraction(1, 100))
    for position in range(22):
        content, proof = ledger.prove(position)
        assert json.loads(content)["position"] == position
        leaf = merkle.leaf_hash(content)
        assert merkle.root_from_path(leaf, position, ledger.size(), proof) == ledger.root()
    with pytest.raises(IndexError):
        ledger.prove(22)


def test_a_ledger_proves_that_it_grew_from_every_earlier_state_of_it(ledger):
    roots = {}
    for i in range(21):
        roots[ledger.size()] = ledger.root()
        ledger.intent(S[i], i, Fraction(1, 100))
    for size, root in roots.items():
        assert ledger.root_at(size) == root
        merkle.check_consistency(size, root, ledger.size(), ledger.root(), ledger.prove_growth(size))
        with pytest.raises(merkle.BadProof):
            merkle.check_consistency(size, bytes(32), ledger.size(), ledger.root(), ledger.prove_growth(size))
    for size in (0, 23):
        with pytest.raises(IndexError):
            ledger.prove_growth(size)
    with pytest.raises(IndexError):
        ledger.root_at(23)


def test_a_row_carries_only_the_tree_frontier_however_long_the_history(path):
    store = Ledgers(path)
    ledger = store.open(0, Fraction(100))
    with store.transaction():
        for i in range(63):
            ledger.intent(bytes([i]) * 32, i, Fraction(1, 7))
    for row in store.rows("0"):
        assert len(row.frontier) == (row.position + 1).bit_count()


def test_entries_are_canonical_json_with_exact_fractions(ledger):
    ledger.intent(S[1], 5, Fraction(26_569, 114_882), {"b": "x", "a": 1})
    content, _ = ledger.prove(1)
    assert content == (
        b'{"charge":"26569/114882","facts":{"a":1,"b":"x"},"kind":"intent","owner":"clinic","position":1,"round":5,'
        b'"session":"' + b"01" * 32 + b'","version":1}'
    )


@pytest.mark.parametrize("bad", [0.5, True, None, [1], b"x", 2**53, -(2**53), {"deep": 1.5}, {3: "x"}])
def test_an_entry_holds_only_strings_and_safe_integers(ledger, bad):
    with pytest.raises(ValueError, match="a ledger entry h"):
        ledger.intent(S[0], 1, HALF, {"fact": bad})
    assert ledger.size() == 1


def test_a_checkpoint_signs_size_and_root(ledger):
    ledger.intent(S[0], 1, HALF)
    key = SigningKey(bytes(32))
    signer = Signer("clinic.example", key.verify_key.encode(), lambda text: key.sign(text).signature)
    checkpoint = checkpoint_note.verify(ledger.checkpoint("clinic/ledger", signer), signer.name, signer.public)
    assert (checkpoint.size, checkpoint.root) == (2, ledger.root())
