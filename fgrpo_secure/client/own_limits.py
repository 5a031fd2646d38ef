"""What an owner's own record refuses, whatever a plan says: a round again too often, and budgets that do not add up."""

from collections.abc import Sequence

from fgrpo_secure.client.policy import Rounds
from fgrpo_secure.client.session_records import SessionRecords
from fgrpo_secure.client.store import ClientStore
from fgrpo_secure.ledger.store import Ledger
from fgrpo_secure.plan import division
from fgrpo_secure.plan.terms import Admitted
from protocols.errors import Refused


def refuse_repeats(
    records: SessionRecords,
    identity: bytes,
    round_of_run: tuple[bytes, int],
    rounds: Rounds,
    in_shards: bool,
    can_divide: bool,
) -> None:
    """Whoever sees sums may ask for a round again as often as it likes; a client follows only so often."""
    run, training_round = round_of_run
    repeated, idle = records.repeated(identity, run), records.unmasked(identity, run, training_round)
    if idle >= rounds.max_unmasked:  # each costs this client its training, and the server nothing
        raise Refused(f"rounds.max_unmasked: no vector was asked for in {idle} sessions of this round")
    left = records.round_left(identity, run, training_round)
    if left and repeated >= rounds.max_repeats:
        raise Refused(
            f"rounds.max_repeats: vectors left for repeated rounds of this run {rounds.max_repeats} times already"
        )
    division.refuse_whole(left, repeated, in_shards, can_divide)


def refuse_mixed_budgets(
    records: SessionRecords, identity: bytes, run: bytes, admitted: Admitted, ledgers: Sequence[Ledger]
) -> None:
    """**Why** A sampled round is charged its share of a budget that holds for its run as a whole: added to another
    run's charges, or those to it, the sum would be less than both runs cost together. And each run deals units into
    blocks anew: what a unit paid as one of block 0 is not in the ledger of block 1, where another run may have it."""
    alone = admitted.fixed_charge is not None or len(ledgers) > 1
    elsewhere = records.left_elsewhere(identity, run, sampled_only=not alone)
    if any(ledger.is_charged(session) for session in elsewhere for ledger in ledgers):
        raise Refused(
            "privacy.epsilon: this client paid in another run, and rounds of a part of its units are accounted alone"
        )


def refuse_other_deal(store: ClientStore, owner: int, run: bytes, dealt_by: str) -> None:
    """What deals an owner's units into a run's blocks stays what it was in the run's first round.

    **Why** Dealt anew, a unit that paid in one block would be in another, whose ledger knows nothing of it.
    """
    if store.fix_deal(owner, run, dealt_by) != dealt_by:
        raise Refused("privacy.max_rounds_per_unit: the owner's own name or subject column changed within the run")
