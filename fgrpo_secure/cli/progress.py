"""What a user sees while a run goes on: bars on a terminal, a line per evaluated round anywhere, events for scripts."""

import json
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

from fgrpo_secure.storage.run_directory import RoundMetrics

LONGEST_ROUND = 24 * 3600.0  # seconds over which rounds are counted for an ETA


class Progress:
    """Implements `training.Observer` on a console: nothing but whole lines where nobody can see a bar move.

    With `emit` every fact that the run directory will hold is also given as a line of JSON, as soon as it is there.
    """

    def __init__(self, console: Console, emit: Callable[[str], None] | None = None) -> None:
        self._console = console
        self._emit = emit
        self._trains = False
        self._bars = Bars(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            expand=True,
            speed_estimate_period=LONGEST_ROUND,
        )
        self._rounds = self._bars.add_task("rounds", total=None)
        self._step = self._bars.add_task("", total=None, visible=False)
        self._shown = ""

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

    def event(self, name: str, **facts: Any) -> None:
        """One line for a script, where one listens."""
        if self._emit is not None:
            self._emit(json.dumps({"event": name, **facts}))

    def started(self, name: str, rounds: int, done: int) -> None:
        """The run `name` begins or continues after `done` rounds."""
        self._bars.update(self._rounds, description=f"{name}: rounds", total=rounds, completed=done)
        self.event("started", run=name, rounds=rounds, done=done)

    def step(self, step: str, done: int, total: int) -> None:
        """`done` of `total` clients, or problems of an evaluation, are through this step. No event: who answers when is
        in no file of the run."""
        self._trains |= step == "train"
        if self._trains and step == "announce":
            return  # clients announce themselves when they have trained, which a bar shows already, one by one
        if step != self._shown:
            self._shown = step
            self._bars.reset(self._step, description=f"  {step}", total=total, visible=True)
        self._bars.update(self._step, completed=done, total=total)

    def finished_round(self, metrics: RoundMetrics) -> None:
        """A round is in the checkpoint."""
        self._bars.update(self._rounds, advance=1)
        self.event("round", **asdict(metrics))
        if metrics.pass_rate is None:
            return
        spent = "" if metrics.epsilon_spent is None else f", epsilon spent {metrics.epsilon_spent:.2f}"
        self.say(
            f"round {metrics.round}: pass rate {metrics.pass_rate:.3f} sampled, {metrics.pass_rate_greedy:.3f} greedy; "
            f"{metrics.survivors} clients, {metrics.dropped} dropped{spent}"
        )
