"""Models, rosters and sums in the database, by their digests, in pieces that no memory minds."""

import hashlib
from pathlib import Path

from fgrpo_secure.engines.https.signing import PIECE
from fgrpo_secure.engines.workers.database import Cursor, Database
from fgrpo_secure.engines.workers.seats import Fence
from fgrpo_secure.errors import CheckFailed

KEPT = 3  # files at a worker beside the newest: a round has a model and a roster


def put(database: Database, run: bytes, fence: Fence, data: bytes) -> bytes:
    """Keep `data`; its digest."""
    digest, view = hashlib.sha256(data).digest(), memoryview(data)

    def piece(start: int) -> None:
        def act(cursor: Cursor) -> None:
            fence.hold(cursor)
            cursor.execute(
                "INSERT INTO fgrpo_blob VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [run, digest, start, bytes(view[start : start + PIECE])],
            )

        database.transact(act)

    for start in range(0, max(1, len(data)), PIECE):
        piece(start)
    return digest


def keep_only(database: Database, run: bytes, fence: Fence, digests: list[bytes]) -> None:
    """Forget all but these."""

    def act(cursor: Cursor) -> None:
        fence.hold(cursor)
        cursor.execute("DELETE FROM fgrpo_blob WHERE run = %s AND NOT digest = ANY(%s)", [run, digests])

    database.transact(act)


def get(database: Database, run: bytes, digest: bytes) -> bytes | None:
    """What has this digest; None if it is not there, or not all of it."""
    pieces: list[bytes] = []
    while (piece := database.transact(lambda cursor: _piece(cursor, run, digest, len(pieces) * PIECE))) is not None:
        pieces.append(piece)
        if len(piece) < PIECE:
            break
    data = b"".join(pieces)
    return data if hashlib.sha256(data).digest() == digest else None


def need(database: Database, run: bytes, digest: bytes) -> bytes:
    """What has this digest; CheckFailed if the database lost it."""
    data = get(database, run, digest)
    if data is None:
        raise CheckFailed("the database lost a model, a roster or a sum that it was given; put its newest copy back")
    return data


def file_of(database: Database, run: bytes, name: str, folder: Path) -> Path | None:
    """The file in `folder` of what has this digest (hex), fetched if need be; None if nothing has."""
    path = folder / name
    if not path.exists():
        data = get(database, run, bytes.fromhex(name))
        if data is None:
            return None
        kept = sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime)
        for old in kept[:-KEPT]:  # of rounds that are over
            old.unlink()
        aside = folder / f".{name}"
        aside.write_bytes(data)
        aside.replace(path)
    return path


def _piece(cursor: Cursor, run: bytes, digest: bytes, start: int) -> bytes | None:
    cursor.execute("SELECT data FROM fgrpo_blob WHERE run = %s AND digest = %s AND start = %s", [run, digest, start])
    found = cursor.fetchone()
    return None if found is None else bytes(found[0])
