"""Enrolment for a trial on one machine: identities, an authority that is not the server, and the signed roster.

A real federation enrols its clients out of band and hands each the authority's public key. Here one process makes
all of it, in the places where it would lie: private keys with their owners, the roster in the run directory, and in
the owners' folder the two public keys that every client pins.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fgrpo_secure.config import Config
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.owner_store import OwnerStore
from fgrpo_secure.run_directory import RunDirectory, RunDirectoryError, check_database, write_durably
from protocols.errors import FaultyServer, ProtocolError, Refused
from protocols.identity import Identity
from protocols.member import accept_roster
from protocols.roster import Entry, Roster, open_roster, sign_roster

SEED_BYTES = 32
LEDGERS = "ledgers.sqlite"  # of the owners of one host, beside their store


@dataclass(frozen=True)
class Pins:
    """The public keys that a client trusts: the roster's authority and its server."""

    authority: bytes
    server: bytes


def hosts(config: Config) -> int:
    """How many hosts the clients of a run are spread over."""
    return min(config.engine.processes, config.clients_total)


def owner_store(directory: RunDirectory, host: int) -> Path:
    """Where the owners of one host keep their state."""
    return directory.owners / f"host-{host}" / "state.sqlite"


def enrol(directory: RunDirectory, config: Config, names: list[str], entropy: Entropy) -> None:
    """Make all identities of a new run and its first roster; client i lives on host i modulo the number of hosts."""
    directory.owners.mkdir(mode=0o700)
    authority = Identity.from_seed(_private_key(directory.owners / "authority.key", entropy, "authority"))
    server = Identity.from_seed(_private_key(directory.server_key, entropy, "server"))
    members: list[Entry] = []
    for host in range(hosts(config)):
        store = OwnerStore(owner_store(directory, host))
        with store.transaction():
            for client in range(host, config.clients_total, hosts(config)):
                seed = entropy.bytes(SEED_BYTES, "identity", client)
                store.enrol(client, seed)
                members.append(Entry(client, names[client], Identity.from_seed(seed).public))
        store.close()
    members.sort(key=lambda entry: entry.id)
    roster = Roster(version=1, authority=authority.public, members=tuple(members))
    write_durably(directory.roster, sign_roster(authority, roster))
    pins = {"authority": authority.public.hex(), "server": server.public.hex()}
    write_durably(directory.owners / "pins.json", json.dumps(pins).encode())


def pins(directory: RunDirectory) -> Pins:
    """The keys that the clients of this run pinned."""
    try:
        keys = json.loads((directory.owners / "pins.json").read_text())
        return Pins(bytes.fromhex(keys["authority"]), bytes.fromhex(keys["server"]))
    except (OSError, ValueError, KeyError):
        raise RunDirectoryError(f"{directory.owners} does not hold the clients of this run") from None


def roster(directory: RunDirectory) -> Roster:
    """The run's roster, checked against the pinned authority."""
    authority = pins(directory).authority
    try:
        return open_roster(directory.roster.read_bytes(), authority, 1)
    except OSError:
        raise RunDirectoryError(f"{directory.roster} is missing or cannot be read; put it back") from None
    except (ProtocolError, ValueError) as problem:
        raise RunDirectoryError(f"{directory.roster} is not this federation's roster: {problem}") from None


def rosters(directory: RunDirectory, authority: bytes) -> list[Roster]:
    """All rosters that the run has used, oldest first, checked from the authority's key at the beginning.

    Raises OSError, or what `open_roster` and `check_succeeds` raise.
    """
    paths = [*sorted(directory.past_roster(0).parent.glob("*.bin")), directory.roster]
    found = {roster.version: roster for roster in (open_roster(path.read_bytes(), authority, 1) for path in paths)}
    ordered = [found[version] for version in sorted(found)]
    for earlier, later in pairwise(ordered):
        later.check_succeeds(earlier)
    return ordered


def take_up(directory: RunDirectory, known: Roster, server: bytes) -> tuple[Roster, str]:
    """The roster after somebody put `roster.next` into the run, and a sentence about it.

    A roster that may follow replaces the run's; another one is set aside as `roster.refused`, and the run goes on
    with what it had. Clients judge for themselves: this only keeps a mistake from stopping them.
    """
    shown = directory.next_roster.read_bytes()
    try:
        later = accept_roster(known, shown, server)
    except (FaultyServer, Refused) as problem:
        directory.next_roster.replace(directory.refused_roster)
        return known, f"the new roster is not taken up and now lies in {directory.refused_roster}: {problem.reason}"
    past = directory.past_roster(known.version)
    past.parent.mkdir(exist_ok=True)
    write_durably(past, directory.roster.read_bytes())
    write_durably(directory.roster, shown)
    directory.next_roster.unlink()
    return later, f"roster version {later.version} is in force"


def replacement_key(directory: RunDirectory, name: str) -> Path:
    """Where the owner `name` puts the identity file of its next key, before the roster that names the key comes."""
    return directory.owners / f"{name}.identity"


def check_stores(directory: RunDirectory, config: Config) -> None:
    """Returns if the run's roster, ledger and owners' stores are whole; else RunDirectoryError naming the first.

    A run that ended before its first session may lack what is made then.
    """
    roster(directory)
    begun = directory.sessions.exists()
    stores = [owner_store(directory, host) for host in range(hosts(config))]
    tables = {directory.ledger: "entry"} | dict.fromkeys(stores, "identity")
    tables |= {store.with_name(LEDGERS): "entry" for store in stores}
    for path, table in tables.items():
        if begun or path.exists():
            check_database(path, table)


def server_identity(directory: RunDirectory) -> Identity:
    """The server's signing key."""
    try:
        return Identity.from_seed(directory.server_key.read_bytes())
    except (OSError, ValueError):
        raise RunDirectoryError(f"{directory.server_key} is missing or not a key") from None


def _private_key(path: Path, entropy: Entropy, label: str) -> bytes:
    seed = entropy.bytes(SEED_BYTES, "identity", label)
    write_durably(path, seed, mode=0o600)
    return seed
