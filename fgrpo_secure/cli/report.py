"""`fgrpo report`: the page of a run, or of several beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config_file import ConfigError
from fgrpo_secure.run_directory import RunDirectory, write_durably


def report(
    directories: Annotated[list[Path], typer.Argument(help="One run directory, or several to compare.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: report-<run>.html, or comparison.html.")
    ] = None,
) -> None:
    """Write a self-contained page. What a run left as report.html stays as it is: its manifest names it."""
    from fgrpo_secure.report import facts, page  # drawing takes a second to import; other commands need not wait

    with one_sentence():
        runs = [RunDirectory(directory) for directory in directories]
        read = [facts.read(run) for run in runs]
        if len(runs) == 1:
            place, text = out or Path(f"report-{read[0].name}.html"), page.render(runs[0], read[0])
        else:
            place, text = out or Path("comparison.html"), page.render_comparison(read)
        if any(place.resolve().is_relative_to(run.root.resolve()) for run in runs):
            raise ConfigError(
                f"{place} lies inside a finished run, whose manifest it would break; choose another --out"
            )
        write_durably(place, text.encode())
        typer.echo(f"{place}: {len(text) / 1000:.0f} kB")
