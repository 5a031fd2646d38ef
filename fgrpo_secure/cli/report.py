"""`fgrpo report`: the page of a run, or of several beside each other, drawn from what was verified first."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli import verified
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.storage.run_directory import write_durably


def report(
    directories: Annotated[list[Path], typer.Argument(help="One run directory, or several to compare.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: report-<run>.html, or comparison.html.")
    ] = None,
    authority: Annotated[
        list[str] | None, typer.Option(help="The authority's public key (hex) that you know; one for each directory.")
    ] = None,
    server: Annotated[
        list[str] | None, typer.Option(help="The server's public key (hex) that you know; one for each directory.")
    ] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Measure pass rates again; loads the model.")] = False,
) -> None:
    """Verify, then write a self-contained page. What a run left as report.html stays: its manifest names it."""
    # Drawing and accounting take a second to import; other commands need not wait.
    from fgrpo_secure.evidence.verify import Trust
    from fgrpo_secure.report import facts, page

    with one_sentence(), ExitStack() as held:
        authorities = _keys(authority, "--authority", len(directories))
        servers = _keys(server, "--server", len(directories))
        read = []
        for directory, one, other in zip(directories, authorities, servers, strict=True):
            found = verified.verified(directory, Trust(one, other), held)
            read.append(facts.of_verified(found, verified.measured_for_page(found) if evaluate else None))
        if len(read) == 1:
            place, text = out or Path(f"report-{read[0].name}.html"), page.render(read[0])
        else:
            place, text = out or Path("comparison.html"), page.render_comparison(read)
        if any(place.resolve().is_relative_to(directory.resolve()) for directory in directories):
            raise ConfigError(
                f"{place} lies inside a finished run, whose manifest it would break; choose another --out"
            )
        write_durably(place, text.encode())
        typer.echo(f"{place}: {len(text) / 1000:.0f} kB, from what verified")


def _keys(given: list[str] | None, option: str, directories: int) -> list[bytes | None]:
    if given and len(given) != directories:
        raise ConfigError(f"{option} is given {len(given)} times for {directories} directories; give one for each")
    return [verified.key(text, option) for text in given] if given else [None] * directories
