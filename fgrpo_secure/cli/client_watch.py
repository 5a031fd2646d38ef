"""`fgrpo client watch`: an owner's own rounds, from its folder alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fgrpo_secure.storage.client_folder import ClientFolder

if TYPE_CHECKING:
    from fgrpo_secure.client.own_view import RoundView
    from fgrpo_secure.ledger.store import Ledger

SHOWN = 12  # newest rounds in the table
COLUMNS = ("round", "reward", "low", "high", "differ", "tokens", "cut off", "entropy", "KL", "clipped", "norm / clip")
OF_TRAINERS = ("spread", "seconds")  # beside them where a trainer of the owner's own taught a round


def view(folder: ClientFolder) -> RenderableType:
    """What the folder shows now: the newest rounds, what they warn of, and what the owner's data has cost."""
    from fgrpo_secure.client import own_view  # the model's libraries take seconds to import

    rounds = list(own_view.read(folder.log))
    parts: list[RenderableType] = [Text(f"{folder.name}: {len(rounds)} rounds; for its owner alone")]
    parts += [Text(said) for said in _epsilon(folder)]
    parts.append(_table(rounds[-SHOWN:]))
    parts += [Text(f"round {each.round}: {each.warning()}") for each in rounds[-SHOWN:] if each.warning()]
    parts += [Text(said) for said in _completions(rounds[-1:])]
    return Group(*parts)


def _completions(newest: Sequence["RoundView"]) -> list[str]:
    """What the model said in the newest round, a line each."""
    return [
        f"round {each.round}: {said.prompt} -> {said.text or '(nothing)'}{' (cut off)' if said.cut_off else ''}: "
        f"reward {said.reward:.3g}"
        for each in newest
        for said in each.completions
    ]


@contextmanager
def events(folder: ClientFolder) -> Iterator[Callable[[], None]]:
    """A call that writes what is new for TensorBoard, into the owner's folder. ClientFolderError if that fails."""
    from fgrpo_secure.client import own_view
    from fgrpo_secure.client.own_tensorboard import OwnTensorBoard

    with OwnTensorBoard(folder.tensorboard) as writer:
        yield lambda: writer.add(
            list(own_view.read(folder.log)), _epsilons(folder, lambda ledger: ledger.spent_by_end())
        )


def _epsilon(folder: ClientFolder) -> list[str]:
    """What was spent in all runs together, by the owner's own ledgers and policy."""
    from fgrpo_secure.client import policy as client_policy

    limit = client_policy.read(folder.policy).privacy.epsilon
    spent = _epsilons(folder, lambda ledger: [ledger.spent()])
    return [f"epsilon spent {each:.3f} of {limit:g}, in all runs together" for each in spent]


def _epsilons(folder: ClientFolder, spent: Callable[["Ledger"], Sequence[Fraction]]) -> list[float]:
    """What the owner's policy reads from what `spent` takes from its ledger; nothing where nothing was charged."""
    from fgrpo_secure.client import policy as client_policy
    from fgrpo_secure.ledger.store import Ledgers

    policy = client_policy.read(folder.policy)
    if not folder.ledgers.is_file() or policy.privacy.epsilon is None:
        return []
    with closing(Ledgers.read(folder.ledgers)) as store:
        ledgers = [store.existing(owner) for owner in store.owners()]
        return [policy.reading(each, ledger.budget()) for ledger in ledgers for each in spent(ledger)]


def _table(rounds: Sequence["RoundView"]) -> Table:
    own = any(each.trainer for each in rounds)
    table = Table(*COLUMNS, *(OF_TRAINERS if own else ()))
    for each in rounds:
        row = (
            str(each.round),
            _known(each.reward, ".3g"),
            _known(each.reward_low, ".3g"),
            _known(each.reward_high, ".3g"),
            f"{_known(each.differing, 'd')} of {each.prompts}",
            _known(each.length, ".1f"),
            _known(each.cut_off, ".0%"),
            _known(each.entropy, ".2f"),
            _known(each.kl, ".3g"),
            _known(each.clip_ratio, ".1%"),
            f"{each.norm:.3g} / {each.clip_norm:g}",
        )
        table.add_row(*row, *((_known(each.reward_spread, ".3g"), _known(each.seconds, ".1f")) if own else ()))
    return table


def _known(figure: float | None, form: str) -> str:
    return "-" if figure is None else format(figure, form)
