"""Ledgers that leave out whole runs, or all sessions of some clients: nobody who paid is named in them."""

import tempfile
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path

from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Config
from fgrpo_secure.evidence import basis, history
from fgrpo_secure.evidence.derived_plans import Planner
from fgrpo_secure.evidence.statement import Basis
from fgrpo_secure.ledger import checkpoint_note, cosigning, testimony
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Account
from fgrpo_secure.plan.adapter_shape import AdapterShape
from fgrpo_secure.storage import opening
from fgrpo_secure.storage.signed_file import BadFile
from protocols.identity import Identity
from protocols.roster import Entry, Roster
from threat_model import world
from threat_model.attack import Attack, Outcome, Weakening

COUNT = 16
QUORUM = 12  # of all of them
REVOKED = 5
SERVER = Identity.from_seed(world.invented("keeper of whole runs"))
CLIENTS = [Identity.from_seed(world.invented("client of a whole run", client)) for client in range(COUNT)]
SHAPE = {"layer.lora_A.weight": (1, 4), "layer.lora_B.weight": (4, 1)}


def config_of(schedule: str, shard_size: int = 16) -> Config:
    """A run of 16 clients: two rounds of all of them, or of half of them each."""
    federation: dict[str, object] = {"rounds": 2, "schedule": schedule}
    if schedule == "blocks":
        federation["clients_per_round"] = COUNT // 2
    table = {
        "federation": federation,
        "adapter": {"rank": 1},
        "privacy": {"noise_multiplier": 40.0},
        "aggregation": {"adversary": "lying_server", "max_corrupt": 0.1, "max_dropout": 0.2, "shard_size": shard_size},
        "client": [{"name": "adders", "task": "add", "count": COUNT}],
    }
    return config_file.parse(table, "an attack's run")


def audited(
    schedule: str, signers: Collection[int], newer: Roster | None = None, left_out: Roster | None = None
) -> Outcome:
    """Hands an auditor a run in which nothing happened, which `signers` signed: they paid for nothing.

    `newer` is a second roster of the run, in which clients have other keys than the ones that the lines are signed
    with, or are revoked. `left_out` is one that the clients saw after those that are handed over.
    """
    config, roster = config_of(schedule), roster_of()
    rosters = [roster, newer] if newer else [roster]
    began = opening.begin(world.invented("nonce"), SERVER.public, "2026-01-01T00:00:00Z", config, roster)
    planner = Planner(config, rosters, AdapterShape(SHAPE, config.adapter), bytes.fromhex(began.run))
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger.open(Path(folder) / "ledger.sqlite", "server", planner.budget or Fraction(1))
        digest = world.invented("adapter").hex()
        named = dict.fromkeys(("adapter", "files", "engine"), digest)
        ledger.close_run({**named, "rounds": 0, "stopped": "", "ended": "2026-01-01T00:00:00Z"})
        told = history.read(ledger.entries(), {}, ledger.root().hex(), SERVER.public)
        texts = (
            {f"{ledger.size():08d}.note": _note(ledger, basis.origin_of(began), signers, left_out or rosters[-1])}
            if signers
            else {}
        )
        known = Basis(began, planner, told, (0, 0), roster.authority, bytes.fromhex(digest))
        try:
            found = basis.check_notes(texts, ledger, told, known)
        except (BadFile, BadCheckpoint) as problem:
            return Outcome(False, f"the auditor refused: {problem}")
        finally:
            ledger.close()
    return Outcome(True, f"the auditor accepted that nothing was spent, with {found.fewest} signatures")


def roster_of(replaced: Collection[int] = (), revoked: Collection[int] = ()) -> Roster:
    """All clients under their keys; or the next roster, in which some have others and some are revoked."""
    keys = [
        Identity.from_seed(world.invented("another key of a client", client)).public
        if client in replaced
        else identity.public
        for client, identity in enumerate(CLIENTS)
    ]
    entries = tuple(Entry(client, f"client {client}", key) for client, key in enumerate(keys) if client not in revoked)
    retired = tuple(sorted(CLIENTS[client].public for client in {*replaced, *revoked}))
    authority = Identity.from_seed(world.invented("authority")).public
    return Roster(2 if retired else 1, authority, entries, tuple(sorted(revoked)), retired)


def _note(ledger: Ledger, origin: str, signers: Collection[int], seen: Roster) -> str:
    note = ledger.checkpoint(origin, cosigning.signer(SERVER, cosigning.SERVER))
    checkpoint = checkpoint_note.verify(note, cosigning.SERVER, SERVER.public)
    for client in signers:
        note += testimony.sign(CLIENTS[client], cosigning.client_name(client), checkpoint, client, Account(), (), seen)
    return note


def under_retired_keys() -> Outcome:
    """Signs an empty ledger's end with keys that were stolen, and replaced by the newest roster."""
    return audited("all", range(COUNT), roster_of(range(COUNT)))


def under_revoked_keys() -> Outcome:
    """Signs an empty ledger's end with stolen keys of clients that the newest roster revoked: with them those who sign
    are as many as a quorum of all that ever took part."""
    return audited("all", range(QUORUM), roster_of(revoked=range(REVOKED)))


def without_its_newest_roster() -> Outcome:
    """Hands over all but the newest roster, by which the authority took a client's stolen key from it."""
    return audited("all", range(COUNT), left_out=roster_of({3}))


def emptied() -> Outcome:
    """Puts an empty ledger in the place of a finished run's, with the adapter of its last round, and no note."""
    return audited("all", range(0))


def half_hidden() -> Outcome:
    """Hides the round of one half of the clients from the other half, which alone signs the run's end."""
    return audited("blocks", range(COUNT // 2, COUNT))


ENDS_SIGNED = "the end of a run is signed by a quorum of every session that could have been"

ATTACKS = (
    Attack(
        "run-shown-as-empty",
        "lying server, towards an auditor",
        ENDS_SIGNED,
        (
            Weakening(
                "fgrpo_secure.ledger.note_file",
                "    if last and last[-1] >= covered:\n",
                "    if False:\n",
                "a run's end is signed, whether or not a round settled",
            ),
        ),
        emptied,
    ),
    Attack(
        "half-of-the-clients-hidden",
        "lying server, towards an auditor",
        ENDS_SIGNED,
        (
            Weakening(
                "fgrpo_secure.evidence.basis",
                "        if is_end(size):\n",
                "        if False:\n",
                "clients of whom the ledger says nothing signed the run's end",
            ),
        ),
        half_hidden,
    ),
    Attack(
        "end-signed-under-retired-keys",
        "lying server with keys that clients replaced, towards an auditor",
        ENDS_SIGNED,
        (
            Weakening(
                "fgrpo_secure.evidence.basis",
                "        return at_the_end if is_end(size) else on_the_way\n",
                "        return on_the_way\n",
                "a key that a newer roster replaced signs no end",
            ),
        ),
        under_retired_keys,
    ),
    Attack(
        "end-signed-under-revoked-keys",
        "lying server with keys of clients that were revoked, towards an auditor",
        ENDS_SIGNED,
        (
            Weakening(
                "fgrpo_secure.storage.rosters",
                "    return {client: key for client, key in keys.items() if key not in retired}\n",
                "    return keys\n",
                "whom the newest roster revoked signs no end",
            ),
        ),
        under_revoked_keys,
    ),
    Attack(
        "roster-left-out",
        "lying server, towards an auditor",
        "what is handed over has the newest roster that its clients saw",
        (
            Weakening(
                "fgrpo_secure.ledger.testimony",
                '        f"roster {roster.version} {roster.digest.hex()}",\n',
                "",
                "clients sign which roster is the newest that they have seen",
            ),
            Weakening(
                "fgrpo_secure.ledger.testimony",
                "    seen = rosters.get(line.roster)\n",
                "    seen = next(iter(rosters.values()))\n",
                "that roster must be among those handed over",
            ),
        ),
        without_its_newest_roster,
    ),
)
