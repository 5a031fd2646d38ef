"""A JSON object in a file, in exactly one byte form, under one signature.

The form: keys sorted, two spaces of indentation, ASCII, one newline at the end; the member "signature" holds the
signer's public key and its Ed25519 signature over the same form without that member. A reader writes the object
again and compares every byte, so no change, not even of a space, goes unnoticed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgrpo_secure.storage.run_directory import write_durably
from protocols.errors import BadSignature
from protocols.identity import Identity, verify_signature

LABEL = "sign file"


class BadFile(ValueError):
    """The file is missing, is not in its one form, or its signature does not hold."""


def write(path: Path, content: Mapping[str, Any], identity: Identity) -> None:
    """Sign `content` and write it whole. ValueError for values that JSON has no words for."""
    signature = identity.sign(LABEL, _form(content))
    signed = {**content, "signature": {"key": identity.public.hex(), "value": signature.hex()}}
    write_durably(path, _form(signed))


def read(path: Path, signer: bytes | None = None) -> dict[str, Any]:
    """The object without its signature, which holds under `signer`, or under the key that the file names."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
        signature = content.pop("signature")
        key, value = bytes.fromhex(signature["key"]), bytes.fromhex(signature["value"])
        whole = _form({**content, "signature": signature})
    except FileNotFoundError:
        raise BadFile(f"{path.name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadFile(f"{path.name} is not a signed JSON object") from None
    # Capital letters are other bytes of the same key and signature: nothing signs over the signature's own form.
    if whole != data or signature != {"key": key.hex(), "value": value.hex()}:
        raise BadFile(f"{path.name} is not in its one byte form")
    if signer is not None and key != signer:
        raise BadFile(f"{path.name} is signed by {key.hex()}, not by {signer.hex()}")
    try:
        verify_signature(key, LABEL, _form(content), value)
    except BadSignature:
        raise BadFile(f"{path.name} does not carry the signature of {key.hex()}") from None
    return dict(content)


def signer_of(path: Path) -> bytes:
    """The key that a file names and that its signature holds under; raises BadFile."""
    read(path)
    return bytes.fromhex(json.loads(path.read_bytes())["signature"]["key"])


def _form(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()
