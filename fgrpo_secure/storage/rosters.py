"""The rosters of a run, and the public keys that its clients pinned: read from the run's files, checked, replaced.

A roster is believed because the pinned authority signed it, or signed over to whom that did; never because of the
folder that it lies in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fgrpo_secure.storage import opening, owners_folder
from fgrpo_secure.storage.owners_folder import Enrolled
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, write_durably
from protocols.errors import BadSignature, FaultyServer, ProtocolError, Refused
from protocols.identity import Identity
from protocols.member import accept_roster
from protocols.roster import Roster, open_roster


@dataclass(frozen=True)
class Pins:
    """The public keys that a client trusts: the roster's authority and its server."""

    authority: bytes
    server: bytes


def pins(directory: RunDirectory) -> Pins:
    """The keys that the clients of this run pinned: the authority's, and this run's server's among their servers.

    Where clients have machines of their own, the server's operator was told the authority's key when the run was made.
    """
    if directory.authority.exists():
        return Pins(authority(directory), bytes.fromhex(opening.read(directory).server))
    pinned, server = Enrolled.read(directory.owners), opening.read(directory).server
    if server not in pinned.servers:
        raise RunDirectoryError(
            f"{directory.opening} names a server that {directory.owners / owners_folder.PINS} does not"
        )
    return Pins(bytes.fromhex(pinned.authority), bytes.fromhex(server))


def authority(directory: RunDirectory) -> bytes:
    """The authority's public key as the server's operator was told it, where clients have machines of their own."""
    directory.check_private()
    try:
        key = bytes.fromhex(directory.authority.read_text("ascii"))
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise RunDirectoryError(f"{directory.authority} is damaged; put the authority's public key (hex) back")
    return key


def last_keys(rosters_of_run: Sequence[Roster]) -> dict[int, bytes]:
    """Who may sign the end of a run with these rosters, oldest first: each client's last key, unless it is retired.

    **Why** A key is replaced, or its client revoked, because somebody else may have it. What was signed under it before
    stays signed, but on the run's end nobody signs under it any more: a revoked client is as one that is gone.
    """
    retired = rosters_of_run[-1].retired
    keys = {member.id: member.public for roster in rosters_of_run for member in roster.members}
    return {client: key for client, key in keys.items() if key not in retired}


def roster(directory: RunDirectory) -> Roster:
    """The run's roster, checked against the pinned authority."""
    pinned = pins(directory).authority
    try:
        return open_roster(directory.roster.read_bytes(), pinned, 1)
    except OSError:
        raise RunDirectoryError(f"{directory.roster} is missing or cannot be read; put it back") from None
    except (ProtocolError, ValueError) as problem:
        raise RunDirectoryError(f"{directory.roster} is not this federation's roster: {problem}") from None


def rosters(directory: RunDirectory, pinned: bytes) -> list[Roster]:
    """All rosters that the run has used, oldest first, checked from the authority's key at the beginning.

    Raises OSError, or what `open_roster` and `check_succeeds` raise.
    """
    paths = [*sorted(directory.past_roster(0).parent.glob("*.bin")), directory.roster]
    found = {roster.version: roster for roster in (open_roster(path.read_bytes(), pinned, 1) for path in paths)}
    ordered = [found[version] for version in sorted(found)]
    for earlier, later in pairwise(ordered):
        later.check_succeeds(earlier)
    return ordered


def first(directory: RunDirectory) -> Roster:
    """The roster that the run began with, checked from the authority that its clients pinned."""
    return rosters(directory, pins(directory).authority)[0]


def take_up(directory: RunDirectory, known: Roster, server: bytes) -> tuple[Roster, str]:
    """The roster after somebody put `roster.next` into the run, and a sentence about it.

    A roster that may follow replaces the run's; another one is set aside as `roster.refused`, and the run goes on
    with what it had. Clients judge for themselves: this only keeps a mistake from stopping them.
    """
    shown = directory.next_roster.read_bytes()
    try:
        later = accept_roster(known, shown, server)
        # Clients and auditors follow its hand-overs from the first authority: they refuse one that lacks some.
        open_roster(shown, pins(directory).authority, later.version)
    except (FaultyServer, Refused, BadSignature) as problem:
        reason = str(problem) if isinstance(problem, BadSignature) else problem.reason
        directory.next_roster.replace(directory.refused_roster)
        return known, f"the new roster is not taken up and now lies in {directory.refused_roster}: {reason}"
    past = directory.past_roster(known.version)
    past.parent.mkdir(exist_ok=True)
    write_durably(past, directory.roster.read_bytes())
    write_durably(directory.roster, shown)
    directory.next_roster.unlink()
    return later, f"roster version {later.version} is in force"


def server_identity(directory: RunDirectory) -> Identity:
    """The server's signing key, from the directory that only the server reads. RunDirectoryError if others can."""
    directory.check_private()
    found = identity_at(directory.server_key)
    if found.public.hex() != opening.read(directory).server:
        raise RunDirectoryError(f"{directory.server_key} is not the key of the server that {directory.opening} names")
    return found


def identity_at(path: Path) -> Identity:
    """The identity whose private key lies at `path`; RunDirectoryError if none does."""
    try:
        return Identity.from_seed(path.read_bytes())
    except (OSError, ValueError):
        raise RunDirectoryError(f"{path} is missing or not a key") from None
