"""Sessions without a sum: a client that spoils every one it is in, and a server that only says that one was spoiled."""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

from protocols.errors import ProtocolError
from protocols.server import Recovered
from protocols.wire import RoundPlan
from threat_model.attack import Attack, Outcome, Weakening

ROUNDS = 6
LIAR = 5
DIVISION, FAILURES = "fgrpo_secure.plan.division", "fgrpo_secure.server.failures"


def _with_twelve(attack: Callable[..., Outcome]) -> Callable[[], Outcome]:
    """Runs `attack` on twelve parties, which make two shards. Imported late: what they stand on takes seconds."""

    @wraps(attack)
    def run() -> Outcome:
        from threat_model.parties import Parties

        with tempfile.TemporaryDirectory() as folder:
            at = Parties(Path(folder), count=12)
            try:
                return attack(at)
            finally:
                at.stop()

    return run


@_with_twelve
def garbage_in_every_round(at) -> Outcome:  # type: ignore[no-untyped-def]  # Parties, imported late
    """Uploads garbage in every session that it is in: rounds must end without it, and its fellows pay twice at most."""
    from fgrpo_secure.server.failures import Failures

    _spoil(at.participants[LIAR])
    failures, paid, number, ended = Failures(at.folder / "failures.jsonl"), Counter[int](), 0, 0
    for training_round in range(ROUNDS):
        for _ in range(3):
            shards = _shards(at, training_round, failures.goes_on_in_shards(training_round))
            sums = 0
            for shard in filter(failures.may_open, shards):
                number += 1
                failures.asked(training_round, shard)
                if _sum_of(at, at.plan(number, training_round, shard=shard if len(shards) > 1 else None)):
                    sums += 1
                else:
                    failures.spoiled(shard, number.to_bytes(8, "big"))
                    paid.update(shard)
            if sums:
                ended += 1
                break
    most = max(paid[client] for client in at.identities if client != LIAR)
    said = f"{ended} of {ROUNDS} rounds ended, and others paid for {most} without a sum"
    return Outcome(ended < ROUNDS or most > 2, said)


@_with_twelve
def cries_out_of_bound(at) -> Outcome:  # type: ignore[no-untyped-def]  # Parties, imported late
    """Says of every sum that it was out of bounds, to get further sums over everybody from the same adapter."""
    sums = 0
    for number in range(1, 7):
        try:
            sums += isinstance(at.go(at.open(at.plan(number))), Recovered)
        except ProtocolError as refusal:
            said = str(refusal)
            continue
    return Outcome(sums > 2, f"{sums} sums of one round over everybody" if sums > 2 else f"{sums} sums; then {said}")


def _shards(at: Any, training_round: int, divided: bool) -> tuple[tuple[int, ...], ...]:
    from fgrpo_secure.plan import division

    everybody = tuple(at.identities)
    if not divided:
        return (everybody,)
    return division.partition(at.config, at.small, at.roster.digest, training_round, everybody)


def _sum_of(at: Any, plan: RoundPlan) -> bool:
    """Whether an honest server gets a sum that keeps within its bound."""
    from fgrpo_secure.plan import terms
    from fgrpo_secure.privacy.encode import SumOutOfBounds

    try:
        terms.checked_total(at.go(at.open(plan)), terms.read(plan, None))
    except (ProtocolError, SumOutOfBounds):
        return False
    return True


def _spoil(participant: Any) -> None:
    """From now on the client adds to all its values what no honest sum could hold."""
    honest = participant._contribution

    def lie(plan: RoundPlan) -> Any:
        made = honest(plan)
        return replace(made, vector=replace(made.vector, values=made.vector.values + 2 ** (plan.ring_bits - 2)))

    participant._contribution = lie


ATTACKS = (
    Attack(
        "garbage-in-every-round",
        "lying client",
        "one client that spoils every session ends no run, and nobody pays for more than two without a sum",
        (
            Weakening(
                FAILURES,
                "        return all(sum(client in ids for ids in spoiled) < MOST_PAID for client in clients)\n",
                "        return True\n",
                "a shard stays closed once somebody in it paid for two sessions without a sum",
            ),
        ),
        garbage_in_every_round,
    ),
    Attack(
        "cries-out-of-bound",
        "lying server",
        "a server that says of every sum that it was spoiled gets no third one over everybody",
        (
            Weakening(
                DIVISION,
                "    if left_in_round and repeated >= MOST_PAID - 1 and can_divide and not is_divided:\n",
                "    if False:\n",
                "a client repeats a round with everybody once",
            ),
        ),
        cries_out_of_bound,
    ),
)
