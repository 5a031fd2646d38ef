"""Every field that clients send is listed with what covers it."""

import msgspec

from fgrpo_secure.evidence import exposure
from protocols import wire

FROM_CLIENTS = (
    wire.Announcement,
    wire.Deal,
    wire.Leaf,
    wire.Upload,
    wire.Agreement,
    wire.Opening,
    wire.OpenedShare,
)


def test_every_field_of_every_message_from_a_client_is_listed():
    listed = {tag: set(fields) for tag, fields in exposure.MESSAGES.items()}
    sent = {str(kind.__struct_config__.tag): {f.name for f in msgspec.structs.fields(kind)} for kind in FROM_CLIENTS}
    assert listed == sent


def test_every_answer_of_a_client_is_one_of_these_messages():
    answers = {wire.Announcement, wire.Deal, wire.Upload, wire.Agreement, wire.Opening}
    assert answers <= set(FROM_CLIENTS)
    assert len(answers) == len(wire.Step)
