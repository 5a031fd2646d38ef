"""SHA-256 of files and of small folders."""

import hashlib
import json
from pathlib import Path


def of_file(path: Path) -> str:
    """Of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_folder(folder: Path) -> str:
    """Of a folder without folders inside, hex: over the name and the digest of each file."""
    inside = {path.name: of_file(path) for path in folder.iterdir() if path.is_file()}
    return hashlib.sha256(json.dumps(inside, sort_keys=True).encode()).hexdigest()
