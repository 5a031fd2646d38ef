"""Every field that clients send is listed with what covers it."""

from dataclasses import fields
from typing import get_args, get_type_hints

import msgspec

from fgrpo_secure.config import files as config_file
from fgrpo_secure.engines.https import question, signing
from fgrpo_secure.evidence import exposure, statement
from fgrpo_secure.ledger import testimony, witnessed
from protocols import wire

BESIDES = {each.name for each in exposure.BESIDES}
ANSWERS = {  # of a client on its own machine, and the row of BESIDES that tells of it; a step's answer is a message
    question.Answered: None,
    question.Said: "refusals",
    question.Silent: "refusals",
    question.Left: "whether a masked vector may have left",
    witnessed.Witnessed: "signatures on the ledger",
}
REQUEST = {"client", "time", "digest", "length", "public", "signature"}  # of the row "requests over HTTPS"


def structs_in(hint):
    """The messages that a field's type names, however deep."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {hint}
    return {found for part in get_args(hint) for found in structs_in(part)}


def sent_by_clients():
    """Every kind of message that a client can answer with, its envelope, and all that these are made of."""
    found, kinds = set(), {wire.Signed, *get_args(wire.Answer), wire.Leaf, wire.HybridLeaf}  # leaves: inside bytes
    while kinds:
        found |= kinds
        kinds = {part for kind in kinds for hint in get_type_hints(kind).values() for part in structs_in(hint)} - found
    return found


def test_every_field_of_every_message_from_a_client_is_listed():
    listed = {tag: set(names) for tag, names in exposure.MESSAGES.items()}
    kinds = sent_by_clients()
    sent = {str(kind.__struct_config__.tag): {f.name for f in msgspec.structs.fields(kind)} for kind in kinds}
    assert listed == sent


def test_whatever_else_a_client_on_its_own_machine_sends_is_listed():
    assert ANSWERS.keys() == set(get_args(question.Answer))
    assert {each.name for each in fields(signing.Credentials)} == REQUEST
    assert {each for each in ANSWERS.values() if each} | {"requests over HTTPS"} <= BESIDES
    (said,) = (each.meaning for each in exposure.BESIDES if each.name == "signatures on the ledger")
    assert {each.name for each in fields(testimony.Line)} == {"key_id", "signature", "roster", "lost"}
    assert "the newest roster" in said
    assert "lost in" in said


def test_a_session_shows_leaves_of_one_kind():
    for post_quantum, shown, hidden in ((False, "leaf.", "hybrid leaf."), (True, "hybrid leaf.", "leaf.")):
        names = [row["name"] for row in exposure.rows(exposure.Cover.CHARGED, post_quantum)]
        assert any(name.startswith(shown) for name in names)
        assert not any(name.startswith(hidden) for name in names)
        assert any(name.startswith("complaint.") for name in names) == post_quantum


def test_what_a_quantum_computer_could_do_follows_the_option():
    clients = [{"name": "a", "task": "add", "count": 6}]
    for post_quantum, line in ((False, statement.CLASSICAL), (True, statement.SIGNATURES)):
        table = {"client": clients, "aggregation": {"post_quantum": post_quantum}}
        assert line in statement.not_protected(config_file.parse(table, "here"), True, ())
