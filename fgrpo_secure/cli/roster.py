"""`fgrpo roster`: make, change, sign and show the signed list of who may take part.

There are no drafts: every change is checked in full, signed, and replaces the file whole as the next version.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from fgrpo_secure import entropy
from fgrpo_secure.cli import culprits
from fgrpo_secure.cli.errors import one_sentence
from fgrpo_secure.cli.verified import public_key
from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.storage import identity_file
from fgrpo_secure.storage.run_directory import RunDirectory, write_durably
from protocols.errors import BadSignature, Malformed, Refused
from protocols.identity import Identity
from protocols.roster import (
    Entry,
    Handover,
    Roster,
    claimed_authority,
    hand_over,
    handovers_of,
    open_roster,
    read_enrolment_line,
    sign_roster,
)

roster = typer.Typer(help="Make, change, sign and show the list of who may take part.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(metavar="ROSTER", help="The signed roster file.")]
By = Annotated[Path, typer.Option("--authority", help="The authority's secret identity file.")]


@roster.command()
def add(
    file: File,
    lines: Annotated[list[str], typer.Argument(help="Enrolment lines, or files of them.")],
    authority: By,
    replace_key: Annotated[bool, typer.Option("--replace", help="New keys for names that are enrolled.")] = False,
) -> None:
    """Enrol members and sign the next version; a roster that does not exist begins as version 1."""
    with one_sentence():
        signer = _authority(authority, file)
        known, handovers = _open(file, signer) if file.exists() else (None, ())
        later = known or Roster(0, signer.public, ())
        try:
            for name, key in (found for text in lines for found in _enrolments(text)):
                later = _rekeyed(later, name, key) if replace_key else _enrolled(later, name, key)
        except ValueError as problem:
            raise ConfigError(f"{file} stays as it was: {problem}") from None
        _sign(file, signer, known, later, handovers)


roster.command("culprits")(culprits.show)


@roster.command()
def revoke(
    file: File,
    client: Annotated[int, typer.Argument(metavar="ID", help="The member's id.", min=0)],
    authority: By,
    transcript: Annotated[
        list[Path] | None, typer.Option(help="Transcripts of spoiled sessions: revoke only if they name the member.")
    ] = None,
    max_corrupt: culprits.Corrupt = 0.05,
) -> None:
    """Revoke an id and retire its key, for ever, and sign the next version."""
    with one_sentence():
        signer = _authority(authority, file)
        known, handovers = _open(file, signer)
        if client not in known:
            raise ConfigError(f"client {client} is not enrolled in {file}; `fgrpo roster show {file}` lists who is")
        if transcript:
            culprits.require(client, known, transcript, max_corrupt)
        members = tuple(entry for entry in known.members if entry.id != client)
        retired = _with(known.retired, known.public(client))
        later = replace(known, members=members, revoked=tuple(sorted({*known.revoked, client})), retired=retired)
        _sign(file, signer, known, later, handovers)


@roster.command()
def sign(
    file: File,
    authority: By,
    last_day: Annotated[str | None, typer.Option(help="The roster's last valid day, YYYY-MM-DD (UTC).")] = None,
    hand_over_to: Annotated[Path | None, typer.Option(help="Identity file of the authority that follows.")] = None,
) -> None:
    """Sign the next version, with another last day or by another authority."""
    with one_sentence():
        signer = _authority(authority, file)
        known, handovers = _open(file, signer)
        later = known if last_day is None else replace(known, last_day=_day(last_day))
        if hand_over_to is not None:
            old, signer = signer, _authority(hand_over_to, file)
            try:
                handovers = (*handovers, hand_over(old, signer.public))
                later = replace(later, authority=signer.public, retired=_with(later.retired, old.public))
            except ValueError as problem:
                raise ConfigError(f"{hand_over_to} cannot follow as the authority: {problem}") from None
        _sign(file, signer, known, later, handovers)


@roster.command()
def show(
    file: File,
    authority: Annotated[str | None, typer.Option(help="The authority's public key (hex) that you know.")] = None,
) -> None:
    """Show a roster and whether its signature holds; exit 1 if it does not."""
    with one_sentence():
        data = _read(file)
        try:
            pinned = claimed_authority(data) if authority is None else public_key(authority, "--authority")
            shown = open_roster(data, pinned, 0)
        except (Malformed, Refused) as problem:
            raise ConfigError(f"{file} is not a usable roster: {problem}") from None
        except BadSignature as problem:
            typer.echo(f"fgrpo: the signature of {file} does not hold: {problem}", err=True)
            raise typer.Exit(1) from None
    expired = shown.last_day is not None and entropy.today() > shown.last_day
    typer.echo(f"version    {shown.version}\ndigest     {shown.digest.hex()}\nauthority  {shown.authority.hex()}")
    typer.echo(f"signature  holds; the authority is {'unchecked' if authority is None else 'the one you gave'}")
    typer.echo(f"last day   {_date(shown.last_day)}{' (expired)' if expired else ''}")
    for entry in shown.members:
        name = entry.name if re.fullmatch(identity_file.NAME, entry.name) else ascii(entry.name)
        typer.echo(f"member     {entry.id} {name} {entry.public.hex()} last day {_date(entry.last_day)}")
    typer.echo(f"revoked    {', '.join(map(str, shown.revoked)) or 'nobody'}")


def _sign(file: Path, signer: Identity, known: Roster | None, later: Roster, handovers: Sequence[Handover]) -> None:
    later = replace(later, version=later.version + 1)
    try:
        if known is not None:
            later.check_succeeds(known)
        write_durably(file, sign_roster(signer, later, handovers))
    except Refused as problem:
        raise ConfigError(f"{file} stays as it was: {problem}") from None
    except OSError as problem:
        raise ConfigError(f"{file} cannot be written: {problem.strerror}") from None
    typer.echo(f"{file}: version {later.version}, {len(later)} members, authority {later.authority.hex()}")


def _authority(path: Path, file: Path) -> Identity:
    """The signer; never the server, whose key lies beside a run in `<run>.server/server.key`."""
    signer, server = identity_file.read(path), RunDirectory(file.parent).server_key
    if path.name == server.name or (server.is_file() and identity_file.read(server).public == signer.public):
        raise ConfigError(f"{path} is the server's key; the authority must not be the server")
    return signer


def _open(file: Path, signer: Identity) -> tuple[Roster, tuple[Handover, ...]]:
    data = _read(file)
    try:
        return open_roster(data, signer.public, 0), handovers_of(data)
    except BadSignature:
        raise ConfigError(f"{file} is not signed by this authority; give the identity file that signed it") from None
    except (Malformed, Refused) as problem:
        raise ConfigError(f"{file} is not a usable roster: {problem}") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as problem:
        raise ConfigError(f"{file} cannot be read: {problem.strerror}") from None


def _enrolments(text: str) -> list[tuple[str, bytes]]:
    """Name and key of each line in a file, or of `text` itself. An unusable line is not quoted: it may be a secret."""
    try:
        lines = [text] if " " in text else Path(text).read_text().splitlines()
        found = [read_enrolment_line(line) for line in lines if line.strip()]
    except OSError as problem:
        raise ConfigError(f"{text} is no enrolment line and cannot be read as a file: {problem.strerror}") from None
    except (Malformed, BadSignature, UnicodeDecodeError):
        raise ConfigError("an enrolment line is not one that `fgrpo identity new` printed") from None
    if not found or not all(re.fullmatch(identity_file.NAME, name) for name, _ in found):
        raise ConfigError("no enrolment line, or a name of other than up to 64 letters, digits, '.', '_' and '-'")
    return found


def _enrolled(known: Roster, name: str, key: bytes) -> Roster:
    """With one more member, under an id that nobody ever had."""
    client = max((*(entry.id for entry in known.members), *known.revoked), default=-1) + 1
    return replace(known, members=(*known.members, Entry(client, name, key)))


def _rekeyed(known: Roster, name: str, key: bytes) -> Roster:
    old = next((entry for entry in known.members if entry.name == name), None)
    if old is None or old.public == key:
        raise ConfigError(f"{name} is not enrolled, or has this key already; --replace gives a member a new key")
    new = Entry(old.id, name, key, old.last_day)
    members = tuple(new if entry.id == old.id else entry for entry in known.members)
    return replace(known, members=members, retired=_with(known.retired, old.public))


def _with(retired: tuple[bytes, ...], key: bytes) -> tuple[bytes, ...]:
    return tuple(sorted({*retired, key}))


def _day(text: str) -> int:
    try:  # the form first: NumPy would take "today" too, and read the clock
        day = int(np.datetime64(text, "D").astype(int)) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else -1
    except ValueError:
        day = -1
    if day < 0:
        raise ConfigError("--last-day is not a day from 1970-01-01 on; write it as YYYY-MM-DD")
    return day


def _date(day: int | None) -> str:
    return "none" if day is None else str(np.datetime64(day, "D"))
