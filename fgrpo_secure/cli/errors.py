"""From an exception to one sentence and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fgrpo_secure.checkpoint import CheckpointError
from fgrpo_secure.config_file import ConfigError
from fgrpo_secure.engines.embedded import EngineError
from fgrpo_secure.grpo.rewards import RewardError
from fgrpo_secure.grpo.rollouts import PromptTooLong
from fgrpo_secure.identity_file import IdentityFileError
from fgrpo_secure.models import ModelError
from fgrpo_secure.privacy.ledger import BudgetExceeded, LedgerError
from fgrpo_secure.privacy.planner import InfeasiblePlan
from fgrpo_secure.run_directory import RunDirectoryError
from fgrpo_secure.tasks import UnusableData
from fgrpo_secure.training import RunStopped
from protocols.params import Infeasible

UNUSABLE = (
    CheckpointError,
    ConfigError,
    IdentityFileError,
    Infeasible,
    InfeasiblePlan,
    ModelError,
    PromptTooLong,
    RewardError,
    RunDirectoryError,
    UnusableData,
)
FAILED = (BudgetExceeded, EngineError, LedgerError, RunStopped)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn every error that a user can cause or meet into one line on standard error."""
    try:
        yield
    except UNUSABLE as problem:
        typer.echo(f"fgrpo: {problem}", err=True)
        raise typer.Exit(2) from None
    except FAILED as problem:
        typer.echo(f"fgrpo: {problem}", err=True)
        raise typer.Exit(1) from None
