"""Enrolment for a trial on one machine: identities, an authority that is not the server, and the signed roster.

A real federation enrols its clients out of band and hands each the authority's public key. Here one process makes
all of it, in the places where it would lie: private keys with their owners, the roster in the run directory, and in
the owners' folder the public keys that every client pins. The same owners may take part in several runs, each with a
server of its own.
"""

import json
from contextlib import closing
from pathlib import Path

from fgrpo_secure.client import owner
from fgrpo_secure.client import policy as client_policy
from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.config.schema import Config
from fgrpo_secure.entropy import Entropy, utc_now
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.models import BaseModel
from fgrpo_secure.ledger.store import Ledgers
from fgrpo_secure.plan import adapter_shape, run_plan
from fgrpo_secure.storage import opening, owners_folder, rosters
from fgrpo_secure.storage.owners_folder import LEDGERS, Enrolled
from fgrpo_secure.storage.run_directory import RunDirectory, RunDirectoryError, check_database, write_durably
from protocols.identity import Identity
from protocols.roster import Entry, Roster, open_roster, sign_roster

SEED_BYTES = 32
NONCE_BYTES = 32
AUTHORITY_KEY = "authority.key"


def hosts(config: Config) -> int:
    """How many hosts the clients of a run are spread over."""
    return min(config.engine.processes, config.clients_total)


def enrol(directory: RunDirectory, config: Config, base: BaseModel, adapted: AdaptedModel, entropy: Entropy) -> None:
    """Make the identities of a new run, its roster, and a policy file for every owner that has none.

    Client i lives on host i modulo the number of hosts. Owners who took part in an earlier run keep identities,
    roster, ledgers and policies, and pin the new run's server too. RunDirectoryError if the folder holds other owners
    than the configuration means, ConfigError if a policy file cannot be used.
    """
    directory.owners.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_returning(directory, config)
    names, before = owner.names(config.client), owners_folder.exists(directory.owners)
    pinned = Enrolled.read(directory.owners) if before else None
    known, joined = (pinned.servers, pinned.runs) if pinned else ((), ())
    label = f"server/{len(known)}" if known else "server"
    server = Identity.from_seed(_private_key(directory.server_key, entropy, label))
    if not before:
        _make_identities(directory, config, names, entropy)
    authority, signed = _first_roster(directory, config, names)
    write_durably(directory.roster, signed)
    nonce, first = entropy.bytes(NONCE_BYTES, "run"), open_roster(signed, authority, 1)
    begun = opening.begin(nonce, server.public, utc_now(), config, first)
    opening.write(directory, begun)
    plan = run_plan.plan(config, adapter_shape.of(adapted))
    written = client_policy.from_plan(config, plan, run_plan.demands(config, plan), authority, base.digest)
    client_policy.write_missing(directory.owners, names, written)
    servers = (*known, server.public.hex())
    runs = (*joined, begun.run)
    Enrolled(authority.hex(), servers, tuple(names), hosts(config), config.privacy.unit, runs).write(directory.owners)


def was_cut_short(directory: RunDirectory) -> bool:
    """Whether whoever made this run ended before its clients had pinned it, so before any session: `enrol` goes on.

    **Why** A configuration without clients can be neither resumed nor begun again, and what a session left behind must
    never be made anew: so the pins come last, and nothing counts as cut short once a session may have been.
    """
    if directory.sessions.exists() or directory.ledger.exists() or directory.old_server_key.exists():
        return False
    if not owners_folder.exists(directory.owners) or not directory.opening.exists():
        return True
    return opening.read(directory).run not in Enrolled.read(directory.owners).runs


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
        owners_folder.require_home(directory.owners, host)
        check_database(owners_folder.store(directory.owners, host), "identity")
        check_database(owners_folder.store(directory.owners, host).with_name(LEDGERS), "entry")
    client_policy.check_all(directory.owners, names)


def replacement_key(directory: RunDirectory, name: str) -> Path:
    """Where the owner `name` puts the identity file of its next key, before the roster that names the key comes."""
    return directory.owners / f"{name}.identity"


def check_stores(directory: RunDirectory, config: Config) -> None:
    """Returns if the run's roster, ledger and owners' stores are whole; else RunDirectoryError naming the first.

    A run that ended before its first session may lack what is made then.
    """
    rosters.roster(directory)
    opening.check(opening.read(directory), config, rosters.first(directory))  # an edited one would be another run
    client_policy.check_all(directory.owners, owner.names(config.client))
    begun = directory.sessions.exists()
    stores = [owners_folder.store(directory.owners, host) for host in _at_home(directory, config)]
    tables = {directory.ledger: "entry"} | dict.fromkeys(stores, "identity")
    tables |= {store.with_name(LEDGERS): "entry" for store in stores}
    for path, table in tables.items():
        if begun or path.exists():
            check_database(path, table)


def _at_home(directory: RunDirectory, config: Config) -> list[int]:
    """The hosts whose owners' files are here. Only on Ray may some be elsewhere; RunDirectoryError otherwise."""
    every = range(hosts(config))
    if config.engine.kind == "ray":
        return [host for host in every if owners_folder.away(directory.owners, host) is None]
    for host in every:
        owners_folder.require_home(directory.owners, host)
    return list(every)


def _make_identities(directory: RunDirectory, config: Config, names: list[str], entropy: Entropy) -> None:
    """Those that are not there yet: an enrolment that was cut short goes on."""
    if not (directory.owners / AUTHORITY_KEY).exists():
        _private_key(directory.owners / AUTHORITY_KEY, entropy, "authority")
    for host in range(hosts(config)):
        store = ClientStore(owners_folder.store(directory.owners, host))
        with closing(store), store.transaction():
            for client in range(host, len(names), hosts(config)):
                if not store.is_enrolled(client):
                    store.enrol(client, entropy.bytes(SEED_BYTES, "identity", client))
        Ledgers(owners_folder.store(directory.owners, host).with_name(LEDGERS)).close()


def _first_roster(directory: RunDirectory, config: Config, names: list[str]) -> tuple[bytes, bytes]:
    """(the authority that the owners pinned, the signed roster to begin with).

    The newest roster that they accepted in an earlier run, or one that the authority signs now.
    **Why** A client accepts no roster older than the one it knows.
    """
    found: list[bytes] = []
    members: list[Entry] = []
    for host in range(hosts(config)):
        with closing(ClientStore(owners_folder.store(directory.owners, host))) as store:
            found += [stored] if (stored := store.roster()) else []
            for client in range(host, len(names), hosts(config)):
                public = Identity.from_seed(store.identity_seed(client)).public
                members.append(Entry(client, names[client], public))
    if found:
        pinned = bytes.fromhex(Enrolled.read(directory.owners).authority)
        return pinned, max(found, key=lambda signed: open_roster(signed, pinned, 1).version)
    authority = rosters.identity_at(directory.owners / AUTHORITY_KEY)
    first = Roster(version=1, authority=authority.public, members=tuple(sorted(members, key=lambda entry: entry.id)))
    return authority.public, sign_roster(authority, first)


def _private_key(path: Path, entropy: Entropy, label: str) -> bytes:
    seed = entropy.bytes(SEED_BYTES, "identity", label)
    write_durably(path, seed, mode=0o600)
    return seed
