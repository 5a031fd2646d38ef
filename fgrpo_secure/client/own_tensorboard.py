"""An owner's own rounds for TensorBoard, in a folder of its own that nobody else reads. Never a server's.

TensorBoard is an extra: `pip install fgrpo-secure[tensorboard]`.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from fgrpo_secure.client.own_view import Completion, RoundView
from fgrpo_secure.storage.client_folder import PRIVATE_MODE, ClientFolderError

EVENTS = "events.out.tfevents.*"  # what TensorBoard's own writer calls its files
NUMBERS = (
    "reward", "reward_low", "reward_high", "prompts", "differing", "length", "cut_off", "entropy", "kl", "clip_ratio",
    "norm", "clip_norm", "reward_spread", "seconds",
)  # fmt: skip


class OwnTensorBoard:
    """A writer of event files in `folder`. What an earlier one wrote there is written anew."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ClientFolderError("TensorBoard is not installed; install the extra 'tensorboard'") from None
        try:
            folder.mkdir(mode=PRIVATE_MODE, exist_ok=True)
            folder.chmod(PRIVATE_MODE)
            for earlier in folder.glob(EVENTS):
                earlier.unlink()
            # A TensorBoard that shows the folder already forgets what it read before.
            self._writer = SummaryWriter(str(folder), purge_step=0)
            self._writer.flush()
            for file in folder.glob(EVENTS):
                file.chmod(0o600)
        except OSError as problem:
            raise ClientFolderError(f"{folder} cannot be written: {problem.strerror}") from None
        self._rounds = self._sessions = 0

    def add(self, rounds: Sequence[RoundView], epsilons: Sequence[float]) -> None:
        """Write what is new of all `rounds`, each at its place among them: a folder may hold several runs', which all
        count from 1. `epsilons`: spent when each session had ended, in all runs together."""
        for step, view in enumerate(rounds[self._rounds :], self._rounds + 1):
            for name in NUMBERS:
                if (value := getattr(view, name)) is not None:
                    self._writer.add_scalar(f"own/{name}", value, step)
            if view.completions:
                self._writer.add_text("own/completions", "\n\n".join(map(_as_text, view.completions)), step)
        for step, epsilon in enumerate(epsilons[self._sessions :], self._sessions + 1):
            self._writer.add_scalar("own/epsilon", epsilon, step)
        self._rounds, self._sessions = len(rounds), len(epsilons)
        self._writer.flush()

    def __enter__(self) -> "OwnTensorBoard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _as_text(said: Completion) -> str:
    """Indented: TensorBoard shows that as it stands, whatever a model wrote."""
    return f"    {said.prompt} -> {said.text or '(nothing)'}{' (cut off)' if said.cut_off else ''}: {said.reward:.3g}"
