"""The one boundary around what an owner brings: its data, its rewards, what a tokenizer and training make of them.

Whatever fails inside, however it is called (a token beyond the embedding, a lone surrogate, too deep a recursion, no
memory left), ends here: the caller goes on with nothing in its place, which is zero and the whole noise, and the
reason goes to the owner alone. The sentence names a type and a place, never what an exception says: that may quote
a row.

Nor does anything inside speak: a warning or a line on a shared screen for one prompt among thousands would tell.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from fgrpo_secure.errors import UnusableInput
from fgrpo_secure.learning.grpo.reward_call import place

Made = TypeVar("Made")


class UnusableRound(ValueError):
    """This owner's data gave nothing to train on in this round; the reason is for its own log only."""


def contained(work: Callable[[], Made]) -> Made:
    """What `work` makes. Raises UnusableRound, and nothing else, whatever an owner's data or code does.

    Only an interrupt from the keyboard passes: that is the operator's. Owners' own functions cannot raise one here,
    since they run elsewhere.
    """
    # A reward that fails within `no_grad` would leave it set, and every later round's update at zero.
    grad = torch.is_grad_enabled()
    try:
        with silence():
            return work()
    except KeyboardInterrupt:
        raise
    except (UnusableInput, UnusableRound) as problem:  # our own sentences, which quote nothing
        raise UnusableRound(str(problem)) from None
    except BaseException as problem:  # noqa: BLE001 - an owner's data may raise anything, and none of it may show
        # `from None`: a chained exception would carry the row that it quotes to whoever prints it.
        raise UnusableRound(f"{type(problem).__name__}{place(problem)}") from None
    finally:
        torch.set_grad_enabled(grad)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing is logged, warned of or printed inside. Around several calls of `contained` it saves them time."""
    before = logging.root.manager.disable
    # Libraries warn of odd tokens and long prompts, on a terminal that others may see. Not twice: each change empties
    # the memory of every logger that libraries made, which was a tenth of a small model's training.
    changes = before < logging.CRITICAL
    if changes:
        logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        if changes:
            logging.disable(before)
