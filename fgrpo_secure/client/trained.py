"""What training gives, as bytes: for the pipe between a client's own two processes. Secret, and never on disk."""

import msgspec
import numpy as np

from fgrpo_secure.client.round import Contribution, Learned
from fgrpo_secure.client.store import read_baseline, write_baseline
from fgrpo_secure.gain import Observation
from fgrpo_secure.privacy.clip import Update
from fgrpo_secure.privacy.noise import NoisedVector

Trained = Learned | Contribution


class _Learned(msgspec.Struct, tag="learned", array_like=True, frozen=True):
    update: bytes
    observation: tuple[float, float] | None
    seconds_rollouts: float
    moments: bytes

    def __repr__(self) -> str:
        return "_Learned(...)"  # secret


class _Contribution(msgspec.Struct, tag="contribution", array_like=True, frozen=True):
    vector: bytes
    bound: str
    share_variance: str
    baseline: str
    weight: float

    def __repr__(self) -> str:
        return "_Contribution(...)"  # secret


# Types, never pickles: the process at the other end ran the owner's rewards, and what it writes is only data.
_decoder = msgspec.msgpack.Decoder(_Learned | _Contribution)


def write(trained: Trained) -> bytes:
    """The bytes; every digit of every float stays."""
    if isinstance(trained, Learned):
        seen = trained.observation
        observed = None if seen is None else (float(seen.mean), float(seen.standard_error))
        return msgspec.msgpack.encode(
            _Learned(trained.update.values.tobytes(), observed, float(trained.seconds_rollouts), trained.moments)
        )
    vector = trained.vector
    written = _Contribution(
        vector.values.astype(np.int64, copy=False).tobytes(),
        str(vector.bound),
        str(vector.share_variance),
        write_baseline(trained.baseline),
        float(trained.weight),
    )
    return msgspec.msgpack.encode(written)


def read(data: bytes) -> Trained:
    """What was written; ValueError for anything else."""
    found = _decoder.decode(data)
    if isinstance(found, _Learned):
        observation = None if found.observation is None else Observation(*found.observation)
        # Copied: a view of the pipe's bytes is read-only, and would keep all of them.
        return Learned(Update(np.frombuffer(found.update).copy()), observation, found.seconds_rollouts, found.moments)
    values = np.frombuffer(found.vector, np.int64).copy()
    vector = NoisedVector(values, int(found.bound), int(found.share_variance))
    return Contribution(vector, read_baseline(found.baseline), found.weight)
