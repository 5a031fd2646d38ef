"""Enrolment for a trial on one machine: identities, an authority that is not the server, and the signed roster.

A real federation enrols its clients out of band and hands each the authority's public key. Here one process makes
all of it, in the places where it would lie: private keys with their owners, the roster in the run directory, and in
the owners' folder the public keys that every client pins. The same owners may take part in several runs, each with a
server of its own.
"""

import json
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fgrpo_secure import owner, owner_policy, owners_folder, run_plan
from fgrpo_secure.adapters import Policy
from fgrpo_secure.config import Config
from fgrpo_secure.entropy import Entropy
from fgrpo_secure.models import BaseModel
from fgrpo_secure.owner_store import OwnerStore
from fgrpo_secure.owners_folder import LEDGERS, Enrolled
from fgrpo_secure.privacy.ledger import Ledgers
from fgrpo_secure.run_directory import RunDirectory, RunDirectoryError, check_database, write_durably
from protocols.errors import FaultyServer, ProtocolError, Refused
from protocols.identity import Identity
from protocols.member import accept_roster
from protocols.roster import Entry, Roster, open_roster, sign_roster

SEED_BYTES = 32
AUTHORITY_KEY = "authority.key"


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
    return owners_folder.store(directory.owners, host)


def enrol(directory: RunDirectory, config: Config, base: BaseModel, policy: Policy, entropy: Entropy) -> None:
    """Make the identities of a new run, its roster, and a policy file for every owner that has none.

    Client i lives on host i modulo the number of hosts. Owners who took part in an earlier run keep identities,
    roster, ledgers and policies, and pin the new run's server too. RunDirectoryError if the folder holds other owners
    than the configuration means, ConfigError if a policy file cannot be used.
    """
    directory.owners.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_returning(directory, config)
    names, before = owner.names(config.client), owners_folder.exists(directory.owners)
    known = Enrolled.read(directory.owners).servers if before else ()
    label = f"server/{len(known)}" if known else "server"
    server = Identity.from_seed(_private_key(directory.server_key, entropy, label))
    if not before:
        _make_identities(directory, config, names, entropy)
    authority, signed, last = _first_roster(directory, config, names)
    write_durably(directory.roster, signed)
    if last >= 0:
        Ledgers(directory.ledger).close()
        write_durably(directory.sessions, f"{last}\n".encode())
    plan = run_plan.plan(config, policy)
    written = owner_policy.from_plan(config, plan, run_plan.demands(config, plan), authority, base.digest)
    owner_policy.write_missing(directory.owners, names, written)
    servers = (*known, server.public.hex())
    Enrolled(authority.hex(), servers, tuple(names), hosts(config), config.privacy.unit).write(directory.owners)


def check_returning(directory: RunDirectory, config: Config) -> None:
    """Returns if the owners of an earlier run, where there was one, are those that this configuration means.

    RunDirectoryError if they are not, ConfigError for the first policy file that cannot be used.
    """
    if not owners_folder.exists(directory.owners):
        return
    pinned, names = Enrolled.read(directory.owners), owner.names(config.client)
    if list(pinned.names) != names:
        raise RunDirectoryError(f"{directory.owners} holds other data owners than this configuration has clients")
    settings = [("engine.processes", pinned.hosts, hosts(config))]
    for key, kept, present in (*settings, ("privacy.unit", pinned.unit, config.privacy.unit)):
        if kept != present:
            raise RunDirectoryError(
                f"the data owners in {directory.owners} were enrolled with {key} = {json.dumps(kept)}; "
                f"set {key} = {json.dumps(kept)}, not {json.dumps(present)}"
            )
    for host in range(hosts(config)):
        check_database(owner_store(directory, host), "identity")
        check_database(owner_store(directory, host).with_name(LEDGERS), "entry")
    owner_policy.check_all(directory.owners, names)


def pins(directory: RunDirectory) -> Pins:
    """The keys that the clients of this run pinned: the authority's, and this run's server's among their servers."""
    pinned = Enrolled.read(directory.owners)
    server = server_identity(directory).public
    if server.hex() not in pinned.servers:
        raise RunDirectoryError(
            f"{directory.server_key} is not a server that {directory.owners / owners_folder.PINS} names"
        )
    return Pins(bytes.fromhex(pinned.authority), server)


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
    owner_policy.check_all(directory.owners, owner.names(config.client))
    begun = directory.sessions.exists()
    stores = [owner_store(directory, host) for host in range(hosts(config))]
    tables = {directory.ledger: "entry"} | dict.fromkeys(stores, "identity")
    tables |= {store.with_name(LEDGERS): "entry" for store in stores}
    for path, table in tables.items():
        if begun or path.exists():
            check_database(path, table)


def server_identity(directory: RunDirectory) -> Identity:
    """The server's signing key."""
    return _identity(directory.server_key)


def _make_identities(directory: RunDirectory, config: Config, names: list[str], entropy: Entropy) -> None:
    """Those that are not there yet: an enrolment that was cut short goes on."""
    if not (directory.owners / AUTHORITY_KEY).exists():
        _private_key(directory.owners / AUTHORITY_KEY, entropy, "authority")
    for host in range(hosts(config)):
        store = OwnerStore(owner_store(directory, host))
        with closing(store), store.transaction():
            for client in range(host, len(names), hosts(config)):
                if not store.is_enrolled(client):
                    store.enrol(client, entropy.bytes(SEED_BYTES, "identity", client))
        Ledgers(owner_store(directory, host).with_name(LEDGERS)).close()


def _first_roster(directory: RunDirectory, config: Config, names: list[str]) -> tuple[bytes, bytes, int]:
    """(the authority that the owners pinned, the signed roster to begin with, the last session any of them accepted).

    The newest roster that they accepted in an earlier run, or one that the authority signs now; -1 for no session.
    **Why** A client accepts no session number twice, in whatever run, and no roster older than the one it knows.
    """
    found: list[bytes] = []
    members: list[Entry] = []
    last = -1
    for host in range(hosts(config)):
        with closing(OwnerStore(owner_store(directory, host))) as store:
            store.forget_baselines()
            found += [stored] if (stored := store.roster()) else []
            for client in range(host, len(names), hosts(config)):
                public = Identity.from_seed(store.identity_seed(client)).public
                members.append(Entry(client, names[client], public))
                last = max(last, store.last_round(public))
    if found:
        pinned = bytes.fromhex(Enrolled.read(directory.owners).authority)
        return pinned, max(found, key=lambda signed: open_roster(signed, pinned, 1).version), last
    authority = _identity(directory.owners / AUTHORITY_KEY)
    first = Roster(version=1, authority=authority.public, members=tuple(sorted(members, key=lambda entry: entry.id)))
    return authority.public, sign_roster(authority, first), last


def _identity(path: Path) -> Identity:
    try:
        return Identity.from_seed(path.read_bytes())
    except (OSError, ValueError):
        raise RunDirectoryError(f"{path} is missing or not a key") from None


def _private_key(path: Path, entropy: Entropy, label: str) -> bytes:
    seed = entropy.bytes(SEED_BYTES, "identity", label)
    write_durably(path, seed, mode=0o600)
    return seed
