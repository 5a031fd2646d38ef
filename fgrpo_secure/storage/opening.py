"""opening.json: what a run began with, and the run's identity, which clients sign and auditors compute again.

The identity is a hash over this file, the configuration without [engine], and the first roster. So a configuration
that was edited later belongs to another run: plans, and every signature of a client on the ledger, name the first.
Nothing here is secret. The server's private key is elsewhere, in `RunDirectory.private`.
"""

import hashlib
import importlib.metadata
import json
import platform
from typing import Annotated, Any, Literal

import msgspec

from fgrpo_secure import __version__
from fgrpo_secure.config.schema import Config
from fgrpo_secure.storage import earlier_claims
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, write_durably
from protocols.roster import Roster

LABEL = b"fgrpo-secure/run-identity/1"
IDENTITY_BYTES = 16
LARGEST = 16 << 10
LIBRARIES = ("torch", "transformers", "peft", "numpy", "cryptography", "pynacl", "opacus", "dp-accounting")
ENGINE = "engine"  # how bytes move on the server's machines: may change when a run goes on
TRIAL = "client"  # a real client has this in a file of its own; a trial on one machine has all of them here

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Opening(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`nonce` is random, `server` the server's public key, `trial` the digest of the [[client]] tables.

    `started` is the server's own clock (UTC). `earlier` says what the models that training starts from claim about
    those they were trained on before: see `earlier_claims`. `run` is the identity that all of this amounts to, for
    whoever resumes.
    """

    version: Literal[2]
    nonce: Digest
    server: Digest
    trial: Digest
    started: Annotated[str, msgspec.Meta(max_length=40)]
    versions: dict[str, str]
    earlier: tuple[Annotated[str, msgspec.Meta(max_length=2048)], ...]
    run: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


def begin(nonce: bytes, server: bytes, started: str, config: Config, first: Roster) -> Opening:
    """The opening of a new run. `nonce` has 32 random bytes; `first` is the roster that the run begins with."""
    claims = tuple(earlier_claims.sentences(config))
    made = Opening(2, nonce.hex(), server.hex(), trial_digest(config), started, versions(), claims, "0" * 32)
    return msgspec.structs.replace(made, run=identity(made, config, first).hex())


def identity(opening: Opening, config: Config, first: Roster) -> bytes:
    """The 16 bytes that name a run in its plans and in everything that its clients sign."""
    facts = {name: value for name, value in msgspec.to_builtins(opening).items() if name != "run"}
    public = {name: value for name, value in config.model_dump(mode="json").items() if name not in (TRIAL, ENGINE)}
    parts = (LABEL, _canonical(facts), _canonical(public), first.digest)
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return hasher.digest()[:IDENTITY_BYTES]


def trial_digest(config: Config) -> str:
    """Of the clients that only a trial on one machine has in its configuration."""
    return hashlib.sha256(_canonical(config.model_dump(mode="json")[TRIAL])).hexdigest()


def engine_digest(config: Config) -> str:
    """Of the section that may change when a run goes on: a run's last entry says what it was in the end."""
    return hashlib.sha256(_canonical(config.model_dump(mode="json")[ENGINE])).hexdigest()


def check(opening: Opening, config: Config, first: Roster) -> bytes:
    """The run's identity, if configuration and roster are those that it began with; else RunDirectoryError."""
    if trial_digest(config) != opening.trial:
        raise RunDirectoryError("config.toml was changed after the run began, in [[client]]: put it back as it was")
    found = identity(opening, config, first)
    if found.hex() != opening.run:
        raise RunDirectoryError(
            "config.toml was changed after the run began, or the first roster was: put it back as it was, "
            "or begin a new run"
        )
    return found


def write(directory: RunDirectory, opening: Opening) -> None:
    """Keep it in the run's directory, whole or not at all."""
    write_durably(directory.opening, encode(opening))


def read(directory: RunDirectory) -> Opening:
    """What the run began with; RunDirectoryError if that is missing or damaged."""
    if directory.old_server_key.exists():
        raise RunDirectoryError(
            f"{directory.old_server_key} lies in the run directory itself, as earlier versions left it: such a run "
            "cannot go on; begin a new one, and hand this directory to nobody with that file in it"
        )
    try:
        return decode(directory.opening.read_bytes())
    except (OSError, ValueError):
        raise RunDirectoryError(f"{directory.opening} is missing or damaged; put it back") from None


def encode(opening: Opening) -> bytes:
    """The one byte form."""
    return (json.dumps(msgspec.to_builtins(opening), indent=2) + "\n").encode()


def decode(data: bytes) -> Opening:
    """An opening from its file's bytes; ValueError for anything else."""
    if len(data) > LARGEST:
        raise ValueError(f"opening.json has {len(data)} bytes; at most {LARGEST} are read")
    return msgspec.json.decode(data, type=Opening)


def versions() -> dict[str, str]:
    """What computes the run."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"fgrpo-secure": __version__, "python": platform.python_version(), **libraries}


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
