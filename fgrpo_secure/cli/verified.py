"""What commands need of a run that somebody else made: that it verifies, before anything is drawn or said from it."""

import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from fgrpo_secure.config.files import ConfigError
from fgrpo_secure.errors import CheckFailed
from fgrpo_secure.storage.run_directory import RunDirectory

if TYPE_CHECKING:  # reading plans and accounting takes a moment to import; other commands need not wait
    from fgrpo_secure.evidence.verify import Evidence, Trust

KEY_BYTES = 32
OF_A_RUN = ("config.toml", "opening.json", "manifest.json", "summary.json")


def verified(directory: Path, trust: "Trust", held: ExitStack) -> "Evidence":
    """What a run's files establish, for whoever draws from it. CheckFailed if one check does not hold."""
    from fgrpo_secure.evidence import verify as evidence

    check_directory(directory)
    found = evidence.Evidence(RunDirectory(directory), trust, held)
    if not found.directory.manifest.exists():
        raise ConfigError(
            f"{directory} has no finished run that could be verified: manifest.json is missing; continue the run with "
            "--resume (a baseline without secure aggregation never has one)"
        )
    try:
        for _ in evidence.steps(found):
            pass
    except evidence.Mismatch as mismatch:
        raise DoesNotVerify(f"{directory} does not verify, so nothing is drawn from it: {mismatch}") from None
    return found


class DoesNotVerify(CheckFailed, ValueError):
    """A run is not what its documents say."""


def measured_again(found: "Evidence") -> str:
    """Measure the pass rates of a verified run again; what was found, or Mismatch."""
    from fgrpo_secure.evidence.verify import Mismatch, need
    from fgrpo_secure.run import evaluation  # the model's libraries take seconds to import

    try:
        return evaluation.measure_again(found.directory, need(found.stated))
    except evaluation.Differs as problem:
        raise Mismatch("evaluation", str(problem)) from None


def measured_for_page(found: "Evidence") -> str:
    """The same, CheckFailed instead of Mismatch."""
    from fgrpo_secure.evidence.verify import Mismatch

    try:
        return measured_again(found)
    except Mismatch as mismatch:
        raise DoesNotVerify(
            f"{found.directory.root} does not verify, so nothing is drawn from it: {mismatch}"
        ) from None


def check_directory(directory: Path) -> None:
    """ConfigError if there is none, or nothing of a run in it."""
    if not directory.is_dir():
        raise ConfigError(f"{directory} is not a directory; give a run directory such as runs/quickstart")
    if not any((directory / name).exists() for name in OF_A_RUN):
        raise ConfigError(f"{directory} holds no run: none of {', '.join(OF_A_RUN)} is in it")


def key(text: str | None, option: str) -> bytes | None:
    """A public key from the command line; None if none was given."""
    return None if text is None else public_key(text, option)


def public_key(text: str, option: str) -> bytes:
    """A public key from the command line; ConfigError if the text is none."""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * KEY_BYTES}}}", text):
        raise ConfigError(f"{option} is not a public key; allowed are {2 * KEY_BYTES} hexadecimal digits")
    return bytes.fromhex(text)
