"""Signed checkpoints: the C2SP form, and what makes one worthless."""

import base64

import pytest
from nacl.signing import SigningKey

from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint, Checkpoint, Signer, cosign, key_id, sign, verify

KEY = SigningKey(bytes(range(32)))
PUBLIC = KEY.verify_key.encode()
SIGNER = Signer("clinic.example", PUBLIC, lambda text: KEY.sign(text).signature)
CHECKPOINT = Checkpoint("clinic/ledger", 17, bytes(range(32)))
NOTE = sign(CHECKPOINT, SIGNER)


def test_a_note_has_the_lines_of_the_specification():
    lines = NOTE.split("\n")
    assert lines[:4] == ["clinic/ledger", "17", base64.b64encode(bytes(range(32))).decode(), ""]
    assert lines[4].startswith("\u2014 clinic.example ")
    blob = base64.b64decode(lines[4].split(" ")[2])
    assert blob[:4] == key_id("clinic.example", PUBLIC)
    KEY.verify_key.verify("\n".join([*lines[:3], ""]).encode(), blob[4:])
    assert lines[5:] == [""]


def test_the_key_id_is_that_of_the_specifications_example_key():
    encoded = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert key_id("PeterNeumann", encoded[1:]).hex() == "c74f20a3"


def test_a_signed_checkpoint_comes_back():
    assert verify(NOTE, "clinic.example", PUBLIC) == CHECKPOINT


def test_other_signatures_on_the_note_do_not_disturb():
    other = SigningKey(bytes(32))
    witness = Signer("witness", other.verify_key.encode(), lambda text: other.sign(text).signature)
    extra = sign(CHECKPOINT, witness).split("\n")[4]
    text, mine = NOTE.split("\n\n")
    assert verify(f"{text}\n\n{extra}\n{mine}", "clinic.example", PUBLIC) == CHECKPOINT


@pytest.mark.parametrize(
    "note",
    [
        NOTE.replace("17", "18"),
        NOTE.replace("clinic/ledger", "clinic/other"),
        NOTE.replace("\n\n", "\n"),
        NOTE.split("\n\n")[0],
        NOTE.split("\n\n")[0] + "\n\n\u2014 clinic.example !!!\n",
        NOTE.split("\n\n")[0] + "\n\n\u2014 clinic.example AAAA\n",
        NOTE.split("\n\n")[0] + "\n\n\u2014 clinic.example \u00e9\n",
        NOTE.replace("clinic.example", "witness"),
        "",
    ],
)
def test_a_note_that_was_touched_is_refused(note):
    with pytest.raises(BadCheckpoint, match=r"no valid signature of 'clinic\.example'"):
        verify(note, "clinic.example", PUBLIC)


def test_a_signature_under_another_key_id_is_refused():
    blob = base64.b64encode(bytes(4) + KEY.sign(CHECKPOINT.text.encode()).signature).decode()
    with pytest.raises(BadCheckpoint):
        verify(f"{CHECKPOINT.text}\n\u2014 clinic.example {blob}\n", "clinic.example", PUBLIC)


def test_another_key_of_the_same_name_is_refused():
    with pytest.raises(BadCheckpoint):
        verify(NOTE, "clinic.example", SigningKey(bytes(32)).verify_key.encode())


ROOT = base64.b64encode(bytes(32)).decode()
SIZES = ["x", "\u0661", "-1", "01", "1_0", " 1", "1.0", str((1 << 53) + 1), str(1 << 64), "9" * 5000, "9" * 100_000]
ROOTS = ["!", "\u00e9", "AAAA", ROOT[:-1], ROOT[:-2] + "B=", ROOT + "AAAA", "A" * 100_000, f"{ROOT}\nmore"]


@pytest.mark.parametrize(
    "text", ["o\n1\n", *(f"o\n{size}\n{ROOT}\n" for size in SIZES), *(f"o\n1\n{r}\n" for r in ROOTS)]
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text):
    blob = base64.b64encode(key_id(SIGNER.name, PUBLIC) + KEY.sign(text.encode()).signature).decode()
    with pytest.raises(BadCheckpoint, match="a checkpoint"):
        verify(f"{text}\n\u2014 {SIGNER.name} {blob}\n", SIGNER.name, PUBLIC)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "line\nbreak"])
def test_a_name_that_the_format_cannot_carry_is_refused(name):
    with pytest.raises(ValueError, match="must not be empty nor contain"):
        sign(CHECKPOINT, Signer(name, PUBLIC, SIGNER.sign))
    with pytest.raises(ValueError, match="must not be empty nor contain"):
        sign(Checkpoint(name, 1, bytes(32)), SIGNER)


def test_a_note_without_signatures_is_not_cosigned():
    assert cosign(NOTE, SIGNER) == NOTE + NOTE.split("\n\n")[1]
    with pytest.raises(BadCheckpoint, match="blank line"):
        cosign(NOTE.replace("\n\n", "\n"), SIGNER)


def test_what_follows_a_second_blank_line_is_no_part_of_the_text():
    assert verify(f"{NOTE}\n\nunsigned", "clinic.example", PUBLIC) == CHECKPOINT
