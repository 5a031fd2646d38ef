"""Ledgers that hide, cut or re-price sessions after clients paid for them, and two ledgers under one key."""

import tempfile
from fractions import Fraction
from pathlib import Path

from fgrpo_secure.ledger import checkpoint_note, note_file, testimony
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.ledger.checkpoint_note import BadCheckpoint
from fgrpo_secure.ledger.cosigning import Own, Unwitnessed
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.ledger.testimony import Account, Charged, Priced
from fgrpo_secure.storage.signed_file import BadFile
from protocols.identity import Identity
from threat_model import world
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.attacks.books import CHARGE, ORIGIN, ROSTER, ROSTERS, ROUND, SERVER, SURVIVORS, exhibit, own, sessions

CLIENTS = {client: Identity.from_seed(world.invented("witness", client)) for client in range(SURVIVORS)}
KEYS = {client: [identity.public] for client, identity in CLIENTS.items()}
QUORUM = 4


def _priced(number: int, charge: Fraction) -> Priced:
    """A session as an auditor prices it, by the plan that the ledger keeps and by its entry."""
    cohort = frozenset(CLIENTS)
    name, opened = world.invented("session", number).hex(), 1 + 2 * number
    return Priced(number, name, opened, opened + 1, cohort, cohort, charge, charge, refunded=False)


def _note(ledger: Ledger, charges: list[Fraction]) -> str:
    """A note on the whole ledger that every client signed, each with its account of these charges."""
    note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
    seen = checkpoint_note.verify(note, witness.SERVER, SERVER.public)
    charged = [
        Charged(number, world.invented("session", number).hex(), charge, SURVIVORS)
        for number, charge in enumerate(charges)
    ]
    sums = Account().after(charged)
    for client, identity in CLIENTS.items():
        note += testimony.sign(identity, witness.client_name(client), seen, client, sums, (), ROSTER)
    return note


def _audited(ledger: Ledger, texts: dict[str, str], priced: list[Priced]) -> str:
    """What an auditor's check of the notes says; raises BadFile or BadCheckpoint."""
    required = {priced[-1].session: (tuple(CLIENTS), QUORUM)}
    server = SERVER.public
    found = note_file.check(
        texts, ledger, ORIGIN, server, lambda size: KEYS, lambda size, signed: required, priced, lambda size: ROSTERS
    )
    return f"{found.entries} entries signed for by at least {found.fewest} clients"


def hidden() -> Outcome:
    """Leaves out of the ledger a session that the client paid for, and has it sign the one after."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = sessions(Path(folder) / "ledger.sqlite", [(0, CHARGE), (2, CHARGE)])
        try:
            found = witness.examine(exhibit(ledger, 0), SERVER.public, ORIGIN, None, own(0, 1, 2))
        except Unwitnessed as refusal:
            return Outcome(False, f"the client did not sign: {refusal}")
        finally:
            ledger.close()
    return Outcome(True, f"the client signed {found.checkpoint.size} entries that hide a session it paid for")


def merged() -> Outcome:
    """Charges one entry for two sessions that the client paid for, as if they were shards of one round."""
    names = [world.invented("session", number) for number in (0, 1)]
    with tempfile.TemporaryDirectory() as folder:
        ledger = sessions(Path(folder) / "ledger.sqlite", [])
        ledger.intent(names[0], 0, CHARGE, witness.opening_facts(names[1:]))
        ended = witness.end_facts(ROUND, dict.fromkeys(names, range(SURVIVORS)))
        ledger.settle(names[0], 2 * SURVIVORS, CHARGE, ended)
        try:
            found = witness.examine(exhibit(ledger, 0), SERVER.public, ORIGIN, None, own(0, 1))
        except Unwitnessed as refusal:
            return Outcome(False, f"the client did not sign: {refusal}")
        finally:
            ledger.close()
    return Outcome(True, f"the client signed {float(CHARGE):g} spent, and paid {float(found.account.total):g}")


def lost_and_cheap() -> Outcome:
    """Charges a billionth of its price for a session that failed after the client's vector had left."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, session = sessions(Path(folder) / "ledger.sqlite", []), world.invented("session", 0)
        ledger.intent(session, 0, CHARGE / 10**9)
        ledger.abort(session, refund=False)
        mine = [Own(Charged(0, session.hex(), CHARGE, 0), ROUND, full=CHARGE)]
        try:
            found = witness.examine(exhibit(ledger, 0), SERVER.public, ORIGIN, None, mine)
        except Unwitnessed as refusal:
            return Outcome(False, f"the client did not sign: {refusal}")
        finally:
            ledger.close()
    return Outcome(True, f"the client signed {float(CHARGE / 10**9):g}, and paid {float(found.account.total):g}")


def anothers_price() -> Outcome:
    """Hands an auditor a ledger in which a session has another's lower price, with the lines that clients signed."""
    cheap = CHARGE / 10
    with tempfile.TemporaryDirectory() as folder:
        true = sessions(Path(folder) / "true.sqlite", [(0, cheap), (1, CHARGE)])
        lines = [line for line in _note(true, [cheap, CHARGE]).splitlines(keepends=True) if "client-" in line]
        forged = sessions(Path(folder) / "forged.sqlite", [(0, cheap), (1, cheap)])
        note = forged.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER)) + "".join(lines)
        try:
            said = _audited(forged, {f"{forged.size():08d}.note": note}, [_priced(0, cheap), _priced(1, cheap)])
        except (BadFile, BadCheckpoint) as problem:
            return Outcome(False, f"the auditor refused: {problem}")
        finally:
            true.close()
            forged.close()
    return Outcome(True, f"the auditor accepted {float(2 * cheap):g} for {float(cheap + CHARGE):g} spent: {said}")


def cut_with_its_notes() -> Outcome:
    """Drops the last session with its note, and ends the ledger there, with the adapter of the last round."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = sessions(Path(folder) / "ledger.sqlite", [(0, CHARGE)])
        texts = {f"{ledger.size():08d}.note": _note(ledger, [CHARGE])}
        ledger.close_run({"adapter": world.invented("adapter of round 2").hex()})
        try:
            said = _audited(ledger, texts, [_priced(0, CHARGE)])
        except (BadFile, BadCheckpoint) as problem:
            return Outcome(False, f"the auditor refused: {problem}")
        finally:
            ledger.close()
    return Outcome(True, f"the auditor accepted {float(CHARGE):g} spent instead of {float(2 * CHARGE):g}: {said}")


def two_ledgers() -> Outcome:
    """Keeps two ledgers under one key, one for the auditor and one that a client was shown and kept a receipt of."""
    with tempfile.TemporaryDirectory() as folder:
        shown = sessions(Path(folder) / "shown.sqlite", [(0, CHARGE), (1, CHARGE)])
        other = sessions(Path(folder) / "other.sqlite", [(0, CHARGE), (1, CHARGE / 10)])
        receipt = _note(shown, [CHARGE, CHARGE])
        try:
            note_file.check_one(receipt, "receipt", other, ORIGIN, SERVER.public)
        except (BadFile, BadCheckpoint) as problem:
            return Outcome(False, f"the auditor refused: {problem}")
        finally:
            shown.close()
            other.close()
    return Outcome(True, "the auditor took a receipt of another ledger for one of this")


ACCOUNTED = "no client signs a ledger without a session that it paid for, or with one at a lower price"

ATTACKS = (
    Attack(
        "session-hidden",
        "lying server",
        ACCOUNTED,
        (
            Weakening(
                "fgrpo_secure.ledger.cosigning",
                "    for each in ordered[before.sessions :]:\n",
                "    for each in ordered[-1:]:\n",
                "every charged session of the run is looked for, not the newest alone",
            ),
        ),
        hidden,
    ),
    Attack(
        "sessions-merged",
        "lying server",
        ACCOUNTED,
        (
            Weakening(
                "fgrpo_secure.ledger.cosigning",
                '        if opened["position"] < signed or opened["position"] in used:\n',
                "        if False:\n",
                "an entry counts for one session of a client",
            ),
        ),
        merged,
    ),
    Attack(
        "failed-session-made-cheap",
        "lying server",
        ACCOUNTED,
        (
            Weakening(
                "fgrpo_secure.ledger.cosigning",
                '    if opened["charge"] < full:\n',
                "    if False:\n",
                "a session was opened at no less than the client paid",
            ),
            Weakening(
                "fgrpo_secure.ledger.cosigning",
                '    if came_to_nothing and end["charge"] < full:\n',
                "    if False:\n",
                "a session that gave no sum is charged in full",
            ),
        ),
        lost_and_cheap,
    ),
    Attack(
        "session-at-anothers-price",
        "lying server, towards an auditor",
        ACCOUNTED,
        (
            Weakening(
                "fgrpo_secure.ledger.testimony",
                "                verify_signature(public, SIGN_TESTIMONY, said.encode(), line.signature)\n",
                "                pass\n",
                "each client's line is a signature over its own account",
            ),
        ),
        anothers_price,
    ),
    Attack(
        "ledger-cut-with-its-notes",
        "lying server, towards an auditor",
        "the end of a run is signed by its clients",
        (
            Weakening(
                "fgrpo_secure.ledger.note_file",
                "    if last and last[-1] >= covered:\n",
                "    if False:\n",
                "the newest note covers the last entry",
            ),
        ),
        cut_with_its_notes,
    ),
    Attack(
        "two-ledgers-under-one-key",
        "lying server, towards an auditor with a client's receipt",
        "what a client kept is of the ledger that the auditor got",
        (
            Weakening(
                "fgrpo_secure.ledger.note_file",
                "    if ledger.root_at(checkpoint.size) != checkpoint.root:\n",
                "    if False:\n",
                "a receipt's root is the ledger's at that size",
            ),
        ),
        two_ledgers,
    ),
)
