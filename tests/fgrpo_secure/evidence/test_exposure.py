"""Every field that clients send is listed with what covers it."""

import msgspec

from fgrpo_secure.config import files as config_file
from fgrpo_secure.evidence import exposure, statement
from protocols import wire

FROM_CLIENTS = (
    wire.Announcement,
    wire.Deal,
    wire.Leaf,
    wire.HybridLeaf,
    wire.Upload,
    wire.Agreement,
    wire.Opening,
    wire.OpenedShare,
)


def test_every_field_of_every_message_from_a_client_is_listed():
    listed = {tag: set(fields) for tag, fields in exposure.MESSAGES.items()}
    sent = {str(kind.__struct_config__.tag): {f.name for f in msgspec.structs.fields(kind)} for kind in FROM_CLIENTS}
    assert listed == sent


def test_a_session_shows_leaves_of_one_kind():
    for post_quantum, shown, hidden in ((False, "leaf.", "hybrid leaf."), (True, "hybrid leaf.", "leaf.")):
        names = [row["name"] for row in exposure.rows(exposure.Cover.CHARGED, post_quantum)]
        assert any(name.startswith(shown) for name in names)
        assert not any(name.startswith(hidden) for name in names)


def test_what_a_quantum_computer_could_do_follows_the_option():
    clients = [{"name": "a", "task": "add", "count": 6}]
    for post_quantum, line in ((False, statement.CLASSICAL), (True, statement.SIGNATURES)):
        table = {"client": clients, "aggregation": {"post_quantum": post_quantum}}
        assert line in statement.not_protected(config_file.parse(table, "here"), True, ())


def test_every_answer_of_a_client_is_one_of_these_messages():
    answers = {wire.Announcement, wire.Deal, wire.Upload, wire.Agreement, wire.Opening}
    assert answers <= set(FROM_CLIENTS)
    assert len(answers) == len(wire.Step)
