"""The same data twice: found where it can be found, on the one machine that has all files of a trial.

A row that two clients hold is in a sum twice, and what protects it is the guarantee of a group of two. Whoever measures
a model on rows that it was trained on publishes figures about those rows. Clients on machines of their own cannot be
compared without showing what they hold: there the statement says that nobody did.
"""

import hashlib
import json
from collections.abc import Iterator

from fgrpo_secure.config.schema import Config
from fgrpo_secure.learning.tasks import UnusableData
from fgrpo_secure.learning.tasks.files import Line, lines

DIGEST_BYTES = 16


def refuse(config: Config) -> None:
    """Returns if no row stands in two files. Raises UnusableData naming files and lines, and quoting nothing.

    Without differential privacy rows may be shared: nothing is claimed for them.
    """
    if config.privacy.unit == "none":
        return
    seen: dict[bytes, tuple[str, Line]] = {}
    prompts: dict[bytes, Line] = {}
    for client in (each for each in config.client if each.data is not None):
        for line, row, prompt in _digests(str(client.data)):
            name, other = seen.setdefault(row, (client.name, line))
            if name != client.name:
                raise UnusableData(
                    f"{line.path}, line {line.number} is also {other.path}, line {other.number}: clients {name!r} and "
                    f"{client.name!r} would hold one row twice, and privacy.epsilon would not be its guarantee"
                )
            prompts.setdefault(prompt, line)
    if config.evaluation.data == "tasks":
        return
    for line, _, prompt in _digests(config.evaluation.data):
        if prompt in prompts:
            other = prompts[prompt]
            raise UnusableData(
                f"evaluation.data {line.path}, line {line.number} has the prompt of {other.path}, line {other.number}: "
                "pass rates would tell about a row that is trained on; evaluate on prompts that no client holds"
            )


def _digests(path: str) -> Iterator[tuple[Line, bytes, bytes]]:
    """(line, digest of the row, digest of its prompt) of each line that can be read: how it is written does not
    matter, what it says does."""
    for line in lines(path):
        try:
            row = line.row()
            yield line, _digest(row), _digest(row["prompt"])
        except (UnusableData, RecursionError):
            continue  # refused, with its reason, where data is read


def _digest(said: object) -> bytes:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()[:DIGEST_BYTES]
