"""What a user sees while a run goes on: a bar per round on a terminal, a line per evaluated round anywhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from fgrpo_secure.run_directory import RoundMetrics


class Progress:
    """Implements `training.Observer` on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._rounds = self._bars.add_task("rounds", total=None)
        self._clients = self._bars.add_task("", total=None, visible=False)

    def __enter__(self) -> "Progress":
        if self._console.is_interactive:  # rich would end bars that nobody sees with an empty line
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_interactive:
            self._bars.stop()

    def say(self, line: str) -> None:
        """One line of plain text."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def started(self, name: str, rounds: int, done: int) -> None:
        """The run `name` begins or continues after `done` rounds."""
        self._bars.update(self._rounds, description=f"{name}: rounds", total=rounds, completed=done)

    def step(self, step: str, done: int, total: int) -> None:
        """`done` of `total` clients have answered this step."""
        self._bars.update(self._clients, description=f"  {step}", completed=done, total=total, visible=True)

    def finished_round(self, metrics: RoundMetrics) -> None:
        """A round is in the checkpoint."""
        self._bars.update(self._rounds, advance=1)
        if metrics.pass_rate is None:
            return
        spent = "" if metrics.epsilon_spent is None else f", epsilon spent {metrics.epsilon_spent:.2f}"
        self.say(
            f"round {metrics.round}: pass rate {metrics.pass_rate:.3f} sampled, {metrics.pass_rate_greedy:.3f} greedy; "
            f"{metrics.survivors} clients, {metrics.dropped} dropped{spent}"
        )
