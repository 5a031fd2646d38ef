"""The books of one client: a lying server that bends them by the order of its messages, and by what its plans say."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path

from protocols.errors import ProtocolError
from protocols.server import Recovered
from protocols.wire import Step
from threat_model.attack import Attack, Outcome, Weakening
from threat_model.world import invented

LYING_SERVER = "lying server"
VICTIM = 2
PARTICIPANT, RECORDS = "fgrpo_secure.client.participant", "fgrpo_secure.client.session_records"
FIGURES = Weakening(
    "fgrpo_secure.plan.terms",
    "        self._check_settings(settings, dimension)\n",
    "",
    "every figure of a plan is the one that the client computes",
)


def _with_parties(attack: Callable[..., Outcome]) -> Callable[[], Outcome]:
    """Runs `attack` on parties over files of their own. Imported late: what they stand on takes seconds to import."""

    @wraps(attack)
    def run() -> Outcome:
        from threat_model.parties import Parties

        with tempfile.TemporaryDirectory() as folder:
            at = Parties(Path(folder))
            try:
                return attack(at)
            except ProtocolError as refusal:
                return Outcome(False, f"a client refused: {refusal}")
            finally:
                at.stop()

    return run


@_with_parties
def another_sessions_price(at) -> Outcome:  # type: ignore[no-untyped-def]  # Parties, imported late
    """Masks a session, announces one with a thousand times the noise, and then opens the first."""
    first = at.plan(1)
    halfway = at.go(at.open(first), until=Step.AGREE)
    cheap = at.open(at.plan(2, 1, share_variance=1000 * at.privacy.noise.share_variance))
    for client, message in cheap.outgoing.items():
        at.ask(client, Step.ANNOUNCE, message)
    opened = at.go(halfway)
    paid, due = at.spent(VICTIM), at.price(first, len(at.identities))
    got = isinstance(opened, Recovered) and paid < due
    return Outcome(got, f"the victim paid {float(paid):.3g} for a sum that cost it {float(due):.3g}")


@_with_parties
def refund_before_the_mask(at) -> Outcome:  # type: ignore[no-untyped-def]  # Parties, imported late
    """Makes clients close a session before they masked it, and goes on with it."""
    plan = at.plan(1)
    halfway = at.go(at.open(plan), until=Step.MASK)
    with at.book.refunding():
        for party in at.participants.values():
            party.close_open(plan.run)
    left = isinstance(at.go(halfway), Recovered)
    paid = at.spent(VICTIM)
    return Outcome(left and paid == 0, f"a vector left for {float(paid):.3g}" if left else "no vector left")


@_with_parties
def two_names_for_one_run(at) -> Outcome:  # type: ignore[no-untyped-def]  # Parties, imported late
    """Conducts one session in the run that was joined and one under another name: each name has a ledger of its own."""
    sums = [at.go(at.open(at.plan(1))), at.go(at.open(at.plan(2, 1, run=invented("another run")[:16])))]
    return Outcome(all(isinstance(each, Recovered) for each in sums), "two runs, two ledgers, each signed by all")


@_with_parties
def numbers_used_up(at) -> Outcome:  # type: ignore[no-untyped-def]  # Parties, imported late
    """Signs one plan with a huge number, after which a client that took it would never take part again."""
    with suppress(ProtocolError):
        at.go(at.open(at.plan(2**48)), until=Step.SHARE)
    honest = at.open(at.plan(1, 1))
    try:
        at.ask(VICTIM, Step.ANNOUNCE, honest.outgoing[VICTIM])
    except ProtocolError as refusal:
        return Outcome(True, f"the victim is silenced: {refusal}")
    return Outcome(False, "the victim takes part in the next session")


@_with_parties
def endless_work(at) -> Outcome:  # type: ignore[no-untyped-def]  # Parties, imported late
    """Plans a million million steps."""
    plan = at.open(at.plan(1, local_steps=10**12))
    at.ask(VICTIM, Step.ANNOUNCE, plan.outgoing[VICTIM])
    return Outcome(True, "the victim agreed to a million million steps")


@_with_parties
def endless_repetition(at) -> Outcome:  # type: ignore[no-untyped-def]  # Parties, imported late
    """Asks for one training round again and again: each time another sum of the same data."""
    sums = 0
    with suppress(ProtocolError):
        for number in range(1, 9):
            sums += isinstance(at.go(at.open(at.plan(number))), Recovered)
    return Outcome(sums > 3, f"{sums} sums of one training round")


ATTACKS = (
    Attack(
        "another-sessions-price",
        LYING_SERVER,
        "a session settles at its own price",
        (
            FIGURES,
            Weakening(
                PARTICIPANT,
                "        self.close_open(plan.run)  # one session at a time: the one before has no further step\n",
                "        self._last = admitted\n",
                FIGURES.check,
            ),
            Weakening(
                RECORDS,
                "            if self.open_sessions(identity, server, plan.run):\n"
                '                raise RecordConflict("a session of this run is open")\n',
                "",
                FIGURES.check,
            ),
            Weakening(
                PARTICIPANT,
                "terms.read(record.plan, record.fixed_charge).settled(survivors))",
                "self._last.settled(survivors))",
                FIGURES.check,
            ),
        ),
        another_sessions_price,
    ),
    Attack(
        "refund-before-the-mask",
        LYING_SERVER,
        "a session that was closed has no further step",
        (
            Weakening(
                RECORDS,
                "            \"UPDATE session SET status = 'closed', state = NULL, history = NULL \"\n",
                '            "UPDATE session SET status = status "\n',
                "closing a session ends it",
            ),
            Weakening(
                PARTICIPANT,
                "        if ledger is not None and not ledger.is_open(session):\n",
                "        if False:\n",
                "no vector leaves without a charge",
            ),
        ),
        refund_before_the_mask,
    ),
    Attack(
        "two-names-for-one-run",
        LYING_SERVER,
        "a client takes part in the run that its owner joined, and in no other",
        (
            Weakening(
                "protocols.member",
                "    if plan.run != limits.run:\n",
                "    if False:\n",
                "the plan names the run that was joined",
            ),
        ),
        two_names_for_one_run,
    ),
    Attack(
        "numbers-used-up",
        LYING_SERVER,
        "no plan uses up the session numbers of those after it",
        (
            Weakening(
                "protocols.member",
                "    if plan.session_number > limits.last_session + MAX_SESSION_STEP:\n",
                "    if False:\n",
                "session numbers move by bounded steps",
            ),
        ),
        numbers_used_up,
    ),
    Attack(
        "endless-work",
        LYING_SERVER,
        "a plan makes a client do no more than the run that it joined",
        (FIGURES,),
        endless_work,
    ),
    Attack(
        "endless-repetition",
        LYING_SERVER,
        "a client repeats few rounds of a run after its vector left",
        (
            Weakening(
                "fgrpo_secure.client.own_limits",
                "    if left and repeated >= rounds.max_repeats:\n",
                "    if False:\n",
                "the owner's largest number of repeated rounds",
            ),
        ),
        endless_repetition,
    ),
)
