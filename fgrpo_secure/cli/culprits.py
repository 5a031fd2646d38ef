"""`fgrpo roster culprits`: whom the transcripts of spoiled sessions name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.config.files import ConfigError
from protocols.errors import BadSignature, Malformed, Refused
from protocols.roster import Roster, claimed_authority, open_roster

Corrupt = Annotated[
    float, typer.Option(min=0, max=0.999, help="Fraction of the roster that may lie together: aggregation.max_corrupt.")
]


def show(
    file: Annotated[Path, typer.Argument(metavar="ROSTER", help="The signed roster file.")],
    transcripts: Annotated[
        list[Path], typer.Argument(metavar="TRANSCRIPT...", help="Files from <run>.server/transcripts.")
    ],
    max_corrupt: Corrupt = 0.05,
) -> None:
    """Play spoiled sessions again from what their clients signed, and say whom they name. Exit 1 if nobody."""
    from fgrpo_secure.evidence import culprits

    with one_sentence():
        roster = _roster(file)
        spoiled = [culprits.read(path, roster.authority) for path in transcripts]
        for each in spoiled:
            groups = "; ".join(", ".join(map(str, sorted(group))) for group in sorted(each.groups, key=sorted))
            typer.echo(f"session {each.session.hex()[:16]}: {each.says}; one of: {groups or 'nobody in particular'}")
        found = culprits.named(spoiled, roster, max_corrupt)
    typer.echo(f"named: {', '.join(map(str, sorted(found))) or 'nobody'}")
    if not found:
        raise typer.Exit(1)


def require(client: int, roster: Roster, transcripts: Sequence[Path], max_corrupt: float) -> None:
    """Returns if the transcripts name the client. Raises NotNamed or UnusableTranscript."""
    from fgrpo_secure.evidence import culprits

    culprits.require_named(client, [culprits.read(path, roster.authority) for path in transcripts], roster, max_corrupt)


def _roster(file: Path) -> Roster:
    try:
        data = file.read_bytes()
        return open_roster(data, claimed_authority(data), 0)
    except OSError as problem:
        raise ConfigError(f"{file} cannot be read: {problem.strerror}") from None
    except (BadSignature, Malformed, Refused) as problem:
        raise ConfigError(f"{file} is not a usable roster: {problem}") from None
