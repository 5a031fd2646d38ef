"""An invitation: the one file that a server hands to an organisation, with everything that a client pins of a run.

    server --- invitation.json ---> owner --- reads what the run is, agrees ---> runs/RUN/ in its folder

It holds public facts only and carries the server's signature. Who holds it can join if the roster enrols its key; a
stranger learns what was public anyway. What a run is does not change: only the roster in it may be a newer one.

Whoever reads it here needs no configuration and no numbers: an idle client stays small.
"""

import base64
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.storage import signed_file
from protocols.errors import ProtocolError
from protocols.identity import Identity
from protocols.roster import Roster, open_roster

LARGEST = 256 << 20
RUN = r"[0-9a-f]{32}"
OVER_A_PIPE = "pipe:"  # in the place of an address, where each owner names the socket of its own pipe

Key = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class InvitationError(UnusableInput):
    """The file is no invitation that could be followed; the sentence says why."""


class Invitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`run` is the run's identity; `opening` and `config` are the texts of the files that it follows from.

    `url` is where the server listens, or `OVER_A_PIPE`; `ca` the certificates (PEM) to check it by, None: those of the
    client's system. `server` and `authority` are public keys, `model` the digest of the base model. Rosters are signed
    bytes in base64: the one that the run began with, and the newest.
    """

    kind: Literal["fgrpo invitation"]
    version: Literal[1]
    run: Annotated[str, msgspec.Meta(pattern=f"^{RUN}$")]
    url: str
    ca: str | None
    server: Key
    authority: Key
    model: Key
    opening: str
    config: str
    first_roster: str
    roster: str

    @property
    def first_roster_bytes(self) -> bytes:
        """The signed roster that the run began with."""
        return base64.b64decode(self.first_roster, validate=True)

    @property
    def roster_bytes(self) -> bytes:
        """The newest signed roster when the invitation was written."""
        return base64.b64decode(self.roster, validate=True)

    def members(self) -> Roster:
        """The newest roster, signed by the invitation's authority or whom it handed over to."""
        return open_roster(self.roster_bytes, bytes.fromhex(self.authority), 1)


def write(path: Path, made: Invitation, server: Identity) -> None:
    """Write it with the server's signature. InvitationError if the path cannot be written."""
    check(made)
    try:
        signed_file.write(path, msgspec.to_builtins(made), server)
    except OSError as problem:
        raise InvitationError(f"{path} cannot be written: {problem.strerror}") from None


def read(path: Path) -> Invitation:
    """The invitation at `path`, whole, signed by the server that it names. InvitationError otherwise."""
    try:
        if path.stat().st_size > LARGEST:
            raise InvitationError(f"{path} has more than {LARGEST >> 20} MiB; no invitation is that long")
        found: dict[str, Any] = signed_file.read(path)
        made = msgspec.convert(found, Invitation)
        signed_file.read(path, bytes.fromhex(made.server))
        check(made)
    except OSError as problem:
        raise InvitationError(f"{path} cannot be read: {problem.strerror}") from None
    except signed_file.BadFile as problem:
        raise InvitationError(f"{path} is no invitation: {problem}") from None
    except msgspec.ValidationError as problem:
        raise InvitationError(
            f"{path} is no invitation that this version can read: {problem}; `fgrpo server invite` writes one"
        ) from None
    return made


def text_of(signed: bytes) -> str:
    """Signed roster bytes as an invitation holds them."""
    return base64.b64encode(signed).decode()


def check(made: Invitation) -> None:
    """Returns if the parts fit together as far as can be told without the configuration; else InvitationError."""
    check_url(made.url)
    if made.ca is not None:
        _check_certificates(made.ca)
    try:
        first = open_roster(made.first_roster_bytes, bytes.fromhex(made.authority), 1)
        newest = made.members()
        if newest.digest != first.digest:
            newest.check_succeeds(first)
    except (ProtocolError, ValueError) as problem:
        raise InvitationError(f"the invitation's roster is not one of its authority: {problem}") from None
    if newest.names_key(bytes.fromhex(made.server)):
        raise InvitationError("the invitation's server has the key of the authority or of a client: it must be neither")


def _check_certificates(pem: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError, TypeError):  # no certificate, none at all, not ASCII
        raise InvitationError("the invitation's ca is no certificate in PEM form") from None


def check_url(url: str) -> None:
    """Returns if a server can be reached under `url`: HTTPS, a host, no user, no query; or over pipes alone. Else
    InvitationError."""
    if url == OVER_A_PIPE:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "https" and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"https://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._/-]*)?", url):
        raise InvitationError(
            f"{url!r} is no address of a server; write https://HOST or https://HOST:PORT, with a path if there is one, "
            f"or {OVER_A_PIPE!r} where all its clients have pipes"
        )
