"""Ledgers that are rewritten, forked, cut or edited, so that a run looks cheaper than it was."""

import sqlite3
import tempfile
from fractions import Fraction
from pathlib import Path

from fgrpo_secure.evidence import notes, witness
from fgrpo_secure.evidence.signed_file import BadFile
from fgrpo_secure.evidence.witness import Unwitnessed
from fgrpo_secure.privacy import checkpoint_note
from fgrpo_secure.privacy.ledger import Ledger, LedgerCorrupt
from protocols.identity import Identity
from threat_model import world
from threat_model.attack import Attack, Outcome, Weakening

SERVER = Identity.from_seed(world.invented("book keeper"))
ORIGIN = witness.origin(SERVER.public, bytes(16))
BUDGET, CHARGE, SURVIVORS = Fraction(10), Fraction(1), 5


def _sessions(path: Path, charges: list[tuple[int, Fraction]]) -> Ledger:
    """A well-formed ledger with these sessions settled at these charges."""
    ledger = Ledger.open(path, "server", BUDGET)
    for number, charge in charges:
        ledger.intent(world.invented("session", number), number, charge)
        ledger.settle(world.invented("session", number), SURVIVORS, charge)
    return ledger


def _shown(ledger: Ledger, number: int, last: tuple[int, bytes] | None, label: str) -> Outcome:
    """What a client does that signed `last` and is now shown this ledger as the one that settled session `number`."""
    session = world.invented("session", number)
    note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
    seen = min(last[0], ledger.size()) if last else 0
    exhibit = witness.exhibit(ledger, note, seen, session)
    try:
        signed = witness.examine(exhibit, SERVER.public, ORIGIN, last, session, SURVIVORS, CHARGE, 1)
    except Unwitnessed as refusal:
        return Outcome(False, f"the client did not sign: {refusal}")
    spent = float(ledger.spent())
    return Outcome(signed.root == ledger.root(), f"the client signed {label}: spent {spent:g}", {"spent": spent})


def _replaced(later: list[tuple[int, Fraction]], label: str) -> Outcome:
    """Has a client sign three sessions, then shows it another ledger, with the session after these."""
    with tempfile.TemporaryDirectory() as folder:
        honest = _sessions(Path(folder) / "shown.sqlite", [(number, CHARGE) for number in range(3)])
        last = (honest.size(), honest.root())
        other = _sessions(Path(folder) / "other.sqlite", later)
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
        ledger = _sessions(Path(folder) / "shown.sqlite", [(0, CHARGE / 10)])
        outcome = _shown(ledger, 0, None, "a session at a tenth of its charge")
        ledger.close()
    return outcome


def forged_witnesses() -> Outcome:
    """Hands an auditor a cheaper ledger whose checkpoint only the server and a colluder have signed."""
    identities = {client: Identity.from_seed(world.invented("witness", client)) for client in range(5)}
    with tempfile.TemporaryDirectory() as folder:
        ledger = _sessions(Path(folder) / "ledger.sqlite", [(number, CHARGE / 10) for number in range(3)])
        note = ledger.checkpoint(ORIGIN, witness.signer(SERVER, witness.SERVER))
        note = checkpoint_note.cosign(note, witness.signer(identities[4], witness.client_name(4)))
        notes.keep(Path(folder) / "notes", ledger.size(), note)
        enrolled = {client: [identity.public] for client, identity in identities.items()}
        try:
            said = notes.check(
                Path(folder) / "notes", ledger, ORIGIN, SERVER.public, enrolled, 4, lambda number: [[range(5)]]
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
        ledger = _sessions(path, [(number, CHARGE) for number in range(3)])
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
        "fgrpo_secure.evidence.witness",
        "            merkle.check_consistency(*last, checkpoint.size, checkpoint.root, shown.growth)\n",
        "            pass\n",
        "a ledger only grows from what a client signed",
    ),
)
ONE_BOOK = "what a client signed once stays in the ledger as it was"

ATTACKS = (
    Attack("ledger-rewritten", "lying server", ONE_BOOK, GREW, rewritten),
    Attack("ledger-forked", "lying server", ONE_BOOK, GREW, forked),
    Attack("ledger-rolled-back", "lying server", ONE_BOOK, GREW, cut),
    Attack(
        "ledger-undercharged",
        "lying server",
        "a server's ledger charges no less than its clients did",
        (
            Weakening(
                "fgrpo_secure.evidence.witness",
                "    if charged < charge:\n",
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
                "fgrpo_secure.evidence.notes",
                "        if len(signed) < quorum:\n",
                "        if not signed:\n",
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
                "fgrpo_secure.privacy.ledger",
                "                if derived.dump() != stored:\n",
                "                if False:\n",
                "rows are derived again from their contents",
            ),
        ),
        edited,
    ),
)
