"""Ledgers that are rewritten, forked, cut or edited, so that a run looks cheaper than it was."""

import sqlite3
import tempfile
from fractions import Fraction
from pathlib import Path

from fgrpo_secure.ledger import checkpoint_note, testimony
from fgrpo_secure.ledger import cosigning as witness
from fgrpo_secure.ledger import note_file as notes
from fgrpo_secure.ledger.cosigning import Own, Unwitnessed
from fgrpo_secure.ledger.store import Ledger, LedgerCorrupt
from fgrpo_secure.ledger.testimony import Account, Charged
from fgrpo_secure.storage.signed_file import BadFile
from protocols.identity import Identity
from protocols.roster import Roster
from threat_model import world
from threat_model.attack import Attack, Outcome, Weakening

SERVER = Identity.from_seed(world.invented("book keeper"))
ORIGIN = witness.origin(SERVER.public, bytes(16))
ROSTER = Roster(1, world.invented("authority"), ())
ROSTERS = {ROSTER.version: ROSTER}
BUDGET, CHARGE, SURVIVORS, ROUND = Fraction(10), Fraction(1), 5, 1


def sessions(path: Path, charges: list[tuple[int, Fraction]]) -> Ledger:
    """A well-formed ledger with these sessions settled at these charges."""
    ledger = Ledger.open(path, "server", BUDGET)
    for number, charge in charges:
        session = world.invented("session", number)
        ledger.intent(session, number, charge)
        ledger.settle(session, SURVIVORS, charge, witness.end_facts(ROUND, {session: range(SURVIVORS)}))
    return ledger


def own(*numbers: int) -> list[Own]:
    """Sessions that a client was charged for, by its own books."""
    return [
        Own(Charged(number, world.invented("session", number).hex(), CHARGE, SURVIVORS), ROUND) for number in numbers
    ]


def exhibit(ledger: Ledger, seen: int) -> bytes:
    """All that the ledger has, to a client that signed `seen` entries."""
    note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
    return witness.exhibit(ledger, note, seen, range(ledger.size()))


def _shown(ledger: Ledger, number: int, last: tuple[int, bytes] | None, label: str) -> Outcome:
    """What a client does that signed `last` and is now shown this ledger as the one that settled session `number`."""
    seen = min(last[0], ledger.size()) if last else 0
    try:
        signed = witness.examine(exhibit(ledger, seen), SERVER.public, ORIGIN, last, own(number)).checkpoint
    except Unwitnessed as refusal:
        return Outcome(False, f"the client did not sign: {refusal}")
    spent = float(ledger.spent())
    return Outcome(signed.root == ledger.root(), f"the client signed {label}: spent {spent:g}", {"spent": spent})


def _replaced(later: list[tuple[int, Fraction]], label: str) -> Outcome:
    """Has a client sign three sessions, then shows it another ledger, with the session after these."""
    with tempfile.TemporaryDirectory() as folder:
        honest = sessions(Path(folder) / "shown.sqlite", [(number, CHARGE) for number in range(3)])
        last = (honest.size(), honest.root())
        other = sessions(Path(folder) / "other.sqlite", later)
        outcome = _shown(other, 3, last, label)
        honest.close()
        other.close()
    return outcome


def rewritten() -> Outcome:
    """Replaces the past by sessions that cost a tenth."""
    return _replaced([(0, CHARGE / 10), (1, CHARGE / 10), (2, CHARGE / 10), (3, CHARGE)], "a cheaper past")


def forked() -> Outcome:
    """Shows the client the branch that others see, in which another session stands in the place of its last one."""
    return _replaced([(0, CHARGE), (1, CHARGE), (7, CHARGE / 10), (3, CHARGE)], "another branch")


def cut() -> Outcome:
    """Goes back to before the client's last two sessions and continues from there."""
    return _replaced([(0, CHARGE), (3, CHARGE)], "a shorter past")


def undercharged() -> Outcome:
    """Settles the client's session at a tenth of what the client paid."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, session = sessions(Path(folder) / "shown.sqlite", []), world.invented("session", 0)
        ledger.intent(session, 0, CHARGE)
        ledger.settle(session, SURVIVORS, CHARGE / 10, witness.end_facts(ROUND, {session: range(SURVIVORS)}))
        outcome = _shown(ledger, 0, None, "a session at a tenth of its charge")
        ledger.close()
    return outcome


def forged_witnesses() -> Outcome:
    """Hands an auditor a cheaper ledger whose checkpoint only the server and a colluder have signed."""
    identities = {client: Identity.from_seed(world.invented("witness", client)) for client in range(5)}
    with tempfile.TemporaryDirectory() as folder:
        ledger = sessions(Path(folder) / "ledger.sqlite", [(number, CHARGE / 10) for number in range(3)])
        note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
        seen = checkpoint_note.verify(note, witness.SERVER, SERVER.public)
        note += testimony.sign(identities[4], witness.client_name(4), seen, 4, Account(), (), ROSTER)
        texts = {f"{ledger.size():08d}.note": note}
        enrolled = {client: [identity.public] for client, identity in identities.items()}
        session = world.invented("session", 2).hex()
        try:
            required = {session: (tuple(range(5)), 4)}
            said = notes.check(
                texts,
                ledger,
                ORIGIN,
                SERVER.public,
                lambda size: enrolled,
                lambda size, signed: required,
                [],
                lambda size: ROSTERS,
            )
        except BadFile as problem:
            return Outcome(False, f"the auditor refused: {problem}")
        finally:
            ledger.close()
    return Outcome(
        True, f"the auditor accepted {float(3 * CHARGE / 10):g} spent instead of {float(3 * CHARGE):g}: {said}"
    )


def edited() -> Outcome:
    """Writes a smaller sum into the file itself, past the triggers that keep rows as they are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger = sessions(path, [(number, CHARGE) for number in range(3)])
        truth = ledger.spent()
        ledger.close()
        file = sqlite3.connect(path)
        file.execute("DROP TRIGGER never_change")
        file.execute("UPDATE entry SET spent = '1/10' WHERE position = (SELECT MAX(position) FROM entry)")
        file.commit()
        file.close()
        ledger = Ledger.open(path, "server", BUDGET)
        try:
            ledger.verify()
        except LedgerCorrupt as problem:
            return Outcome(False, f"the ledger does not verify: {problem}")
        finally:
            ledger.close()
    return Outcome(truth > Fraction(1, 10), f"a ledger verifies that shows 1/10 spent instead of {truth}")


GREW = (
    Weakening(
        "fgrpo_secure.ledger.cosigning",
        "            merkle.check_consistency(*last, checkpoint.size, checkpoint.root, exhibited.growth)\n",
        "            pass\n",
        "a ledger only grows from what a client signed",
    ),
)
NEWER = Weakening(
    "fgrpo_secure.ledger.cosigning",
    '        if opened["position"] < signed or opened["position"] in used:\n',
    "        if False:\n",
    "a session's entry comes after all that the client signed for",
)
ONE_BOOK = "what a client signed once stays in the ledger as it was"

ATTACKS = (
    Attack("ledger-rewritten", "lying server", ONE_BOOK, GREW, rewritten),
    Attack("ledger-forked", "lying server", ONE_BOOK, GREW, forked),
    Attack("ledger-rolled-back", "lying server", ONE_BOOK, (*GREW, NEWER), cut),
    Attack(
        "ledger-undercharged",
        "lying server",
        "a server's ledger charges no less than its clients did",
        (
            Weakening(
                "fgrpo_secure.ledger.cosigning",
                '    if end["charge"] < charged.charge:\n',
                "    if False:\n",
                "the client's own charge is the least",
            ),
        ),
        undercharged,
    ),
    Attack(
        "forged-witnesses",
        "lying server with 1 colluding client, towards an auditor",
        "a ledger that verifies was seen by a quorum of its clients",
        (
            Weakening(
                "fgrpo_secure.ledger.note_file",
                "        if len(cohort) - len(missing) < quorum:\n",
                "        if len(missing) == len(cohort):\n",
                "a quorum of clients signed the checkpoint",
            ),
        ),
        forged_witnesses,
    ),
    Attack(
        "ledger-edited",
        "whoever can write the file",
        "every sum in a ledger follows from its entries",
        (
            Weakening(
                "fgrpo_secure.ledger.store",
                "                if derived.dump() != stored:\n",
                "                if False:\n",
                "rows are derived again from their contents",
            ),
        ),
        edited,
    ),
)
