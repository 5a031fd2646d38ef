"""A process that holds one owner's reward function: `python -m fgrpo_secure.learning.grpo.reward_worker`.

    owner's process --- request ---> worker (imports the owner's module once) --- fork ---> one call, then gone
                    <-- rewards ----        waits, at most so long               <- pipe --

Every call runs in a fork of its own that is killed afterwards with all it started, also where that left the call's
session. So a reward does not remember an earlier call by accident (what it learned from one unit would reach another),
and whatever it changes (folder, signals, threads, the random state, torch's modes, the places up to which it read files
that its module opened) is gone with it. It is its owner's own code, no adversary: files and shared memory that it
writes, and what passes through pipes and connections of its module's, are there in the next call, and an owner whose
units are smaller than itself must not use any. Nor does the worker remember: rows and rewards pass through one buffer
of a fixed size and are read in the fork and by the owner alone, for a heap that had grown with one unit's rows would
leave less of the limit to the next. Time and memory of a call are limited; what it prints goes nowhere: a warning per
prompt, on a screen, would tell.
"""

import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from fgrpo_secure import entropy
from fgrpo_secure.learning.grpo.reward_call import RewardError, RewardFunction, asked, call, load

HEADER = 8
LONGEST = 1 << 31
LONGEST_ANSWER = 1 << 26
MEBIBYTE = 1 << 20
PIECE = 1 << 16
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
CALL = struct.Struct("<dQQ")  # before each call's rows: its seconds, its mebibytes, how many bytes follow
ENDED = "the reward function ended its process, or needed more memory than it may have"
LOCKED = "a file that the reward function's module holds open cannot be opened again for a call of its own"
HOW_OPEN = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC | os.O_DIRECT | os.O_NOATIME


def main() -> int:
    """Serve until the pipe closes."""
    requests, replies = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    begin = read(requests)
    if begin is None:
        return 0
    # A process that leaves its call's session becomes this one's child when its parent ends, and is found by that.
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    opened = json.loads(begin)
    sys.path[:] = opened["path"]
    try:
        function = load(opened["spec"])
    except RewardError as problem:
        write(replies, {"error": str(problem)})
        return 0
    write(replies, {"asks": asked(function)})
    serve(function, requests, replies)
    return 0


def write(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    """Send one message. JSON in ASCII: it carries every string, lone surrogates too."""
    data = json.dumps(message).encode()
    send(stream.fileno(), memoryview(len(data).to_bytes(HEADER, "little") + data))


def write_call(stream: IO[bytes], arguments: Mapping[str, Any], seconds: float, memory_mib: int) -> None:
    """Send one call, whose limits the worker reads and whose rows only its fork does."""
    data = json.dumps(arguments).encode()
    send(stream.fileno(), memoryview(CALL.pack(seconds, memory_mib, len(data)) + data))


def read(stream: IO[bytes]) -> bytes | None:
    """The next message's bytes; None when the other side has closed the pipe."""
    header = _exactly(stream, HEADER)
    return None if header is None else _exactly(stream, int.from_bytes(header, "little"))


def serve(function: RewardFunction, requests: IO[bytes], replies: IO[bytes]) -> None:
    """One call after the other, until the pipe closes. Nothing here grows with what passes through."""
    rows, answer, piece = os.memfd_create("rows"), os.memfd_create("answer"), memoryview(bytearray(PIECE))
    while (control := _exactly(requests, CALL.size)) is not None:
        seconds, memory_mib, length = CALL.unpack(control)
        for kept in (rows, answer):
            os.ftruncate(kept, 0)
            os.lseek(kept, 0, os.SEEK_SET)
        if not _copied(requests.fileno(), rows, length, piece):
            return
        piece[:] = bytes(PIECE)  # the fork that comes has this memory: of its own rows it is told, of no others
        refused = _forked(function, (rows, answer, requests.fileno(), replies.fileno()), seconds, memory_mib, piece)
        if refused is None:
            length = os.lseek(answer, 0, os.SEEK_CUR)
            os.lseek(answer, 0, os.SEEK_SET)
            _copied(answer, replies.fileno(), length, piece)
        else:
            write(replies, {"error": refused})
        piece[:] = bytes(PIECE)


def send(sink: int, data: memoryview) -> None:
    """Write all of it."""
    while data:
        data = data[os.write(sink, data) :]


def _exactly(stream: IO[bytes], length: int) -> bytes | None:
    """The next `length` bytes; None if the other side closes the pipe before, or means more than there can be."""
    if length > LONGEST:
        return None
    data = b""
    while len(data) < length:
        piece = stream.read(length - len(data))
        if not piece:
            return None
        data += piece
    return data


def _copied(source: int, sink: int, length: int, piece: memoryview) -> bool:
    while length:
        count = os.readv(source, [piece[: min(length, PIECE)]])
        if not count:
            return False
        send(sink, piece[:count])
        length -= count
    return True


def _forked(
    function: RewardFunction, ours: tuple[int, ...], seconds: float, memory_mib: int, piece: memoryview
) -> str | None:
    """One call in a process of its own, whose answer, framed, is kept; or the sentence why there is none."""
    rows, answer = ours[:2]
    result, sink = os.pipe()
    before = _children()  # a module may have started some when it was loaded
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for descriptor in (*ours[1:], result):
                os.close(descriptor)
            _alone(function, rows, memory_mib, sink)
        finally:
            os._exit(0)  # whatever happened: a child that lived on would answer in the worker's place
    os.close(sink)
    try:
        return _awaited(result, answer, seconds, piece, ours[2])
    finally:
        os.close(result)
        end(child, before)


def _alone(function: RewardFunction, rows: int, memory_mib: int, sink: int) -> None:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, memory_mib * MEBIBYTE)
    with os.fdopen(rows, "rb") as stream:
        stream.seek(0)
        arguments = json.load(stream)
    try:
        _read_alone()
        answer: dict[str, Any] = {"rewards": call(function, arguments, len(arguments["completions"]))}
    except RewardError as problem:
        answer = {"error": str(problem)}
    with os.fdopen(sink, "wb", buffering=0) as result:
        write(result, answer)


def _read_alone() -> None:
    """Open again what the module holds open, at the place where it was: a fork shares that place with all others, and
    what one call read would be missing in the next. RewardError for a file that cannot be."""
    for number in (int(each) for each in os.listdir("/proc/self/fd") if int(each) > 2):
        try:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                continue
        except OSError:  # what the listing itself had open
            continue
        try:
            place = os.lseek(number, 0, os.SEEK_CUR)
            own = os.open(f"/proc/self/fd/{number}", fcntl.fcntl(number, fcntl.F_GETFL) & HOW_OPEN)
        except OSError:
            raise RewardError(LOCKED) from None
        os.lseek(own, place, os.SEEK_SET)
        os.dup2(own, number, os.get_inheritable(number))
        os.close(own)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _awaited(result: int, answer: int, seconds: float, piece: memoryview, requests: int) -> str | None:
    """Keep what the child says before its time is over. It may close the pipe, or fill it with anything.

    **Why** `requests`: during a call nothing comes there but its end, when whoever asked was ended at a deadline. A
    call that went on would take the processor from what its owner answers next, and that would come late.
    """
    started, kept, wanted = entropy.stopwatch(), 0, HEADER
    while kept < wanted:
        left = seconds - (entropy.stopwatch() - started)
        ready = select.select([result, requests], [], [], left)[0] if left > 0 else []
        if requests in ready:
            return ENDED
        if not ready:
            return f"the reward function took longer than {seconds:g} seconds"
        count = os.readv(result, [piece[: min(wanted - kept, PIECE)]])
        if not count:
            return ENDED
        send(answer, piece[:count])
        kept += count
        if kept == HEADER:
            wanted += int.from_bytes(os.pread(answer, HEADER, 0), "little")
            if wanted > LONGEST_ANSWER:
                return ENDED
    return None


def end(child: int, before: set[int]) -> None:
    """The call's process and all that it started, in whatever session. `before` are children that it did not start."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)  # it may not have reached a session of its own
    os.waitpid(child, 0)
    while left := _children() - before:
        for each in left:
            os.kill(each, signal.SIGKILL)
        for each in left:
            os.waitpid(each, 0)


def _children() -> set[int]:
    """This process's children, those that were left to it included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # as nearly always: nobody needs to look through all processes for none
        return set()
    return {int(each) for each in os.listdir("/proc") if each.isdigit() and _parent(each) == os.getpid()}


def _parent(process: str) -> int:
    """The parent of a process by its number; 0 if it has just ended."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
