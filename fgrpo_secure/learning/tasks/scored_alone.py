"""Marks by libraries that read what a model wrote: each completion in a process of its own.

    a call's process (`reward_worker`) --- fork ---> one completion's mark, then gone
                                       <-- mark ---

Such a library may take forever over a text ("9^9^9^9"), also in C, where no signal's handler gets to run; and some of
them turn a text into code. A server that lies chooses the adapter and by it what a model writes: code that is read
from a completion would be the server's, within the owner's walls. So the kernel ends the process when its time is over,
and nothing that was made from a text runs there but arithmetic.
"""

import math
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from types import CodeType

SECONDS = 1.0  # of the processor for one completion, so that a mark does not depend on what else a machine does
OF_A_CALL = 0.8  # of its time is divided among the completions; the rest is for what they have in common
MEMORY = 1 << 30  # bytes for one completion
MARK = struct.Struct("<d")
CALLED = frozenset(  # by what sympy makes of an expression; none of them does anything to anything
    {
        "Abs", "Add", "E", "Float", "Function", "Integer", "Mul", "Pow", "Rational", "Symbol", "acos", "asin", "atan",
        "cos", "cosh", "exp", "factorial", "ln", "log", "pi", "sin", "sinh", "sqrt", "tan", "tanh",
    }
)  # fmt: skip
NAMES = compile("from sympy import *", "<string>", "exec")  # sympy's own, before it reads each expression


class CodeInText(Exception):
    """A library was about to run what a completion says."""


def share(call_seconds: float, completions: int) -> float:
    """The seconds on the clock that each of a call's completions may take.

    **Why** equal parts: with what others left over, one slow completion would change the marks of those that follow it,
    or end the whole call.
    """
    return OF_A_CALL * call_seconds / max(1, completions)


def mark(of_one: Callable[[], float], seconds: float = math.inf) -> float | None:
    """What the function returns, in a process that ends with it; None for what is not finite. 0 where it raises, takes
    longer than SECONDS of the processor or `seconds` on the clock, needs more memory than MEMORY or than the call may
    have, or would run a completion as code."""
    result, sink = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # The kernel's own action: a handler in Python would wait for a power in C to come to its end.
            for number in (signal.SIGPROF, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            if math.isfinite(seconds):
                signal.setitimer(signal.ITIMER_REAL, seconds)
            most, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY if most < 0 else min(MEMORY, most), hard))
            sys.addaudithook(_refuse_code)  # cannot be taken away again, and is gone with the process
            os.write(sink, MARK.pack(of_one()))
        finally:
            os._exit(0)
    os.close(sink)
    data = os.read(result, MARK.size)
    os.close(result)
    os.waitpid(child, 0)
    value = MARK.unpack(data)[0] if len(data) == MARK.size else 0.0
    return value if math.isfinite(value) else None


def _refuse_code(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook (PEP 578). Code comes from a file, or is arithmetic."""
    if event != "exec":
        return
    (code,) = arguments
    if isinstance(code, CodeType) and not (_of_a_file(code.co_filename) or _is_arithmetic(code)):
        raise CodeInText


def _of_a_file(name: str) -> bool:
    """Whether it is a module's code. No text chooses what it is compiled as: that would be code itself."""
    return not name.startswith("<") or name.startswith("<frozen ")


def _is_arithmetic(code: CodeType) -> bool:
    """Whether the code uses no names but those of numbers, symbols and functions of them: no attribute, no other call,
    no code within it. Or it is sympy's, which takes those names before it reads an expression."""
    if (code.co_code, code.co_names) == (NAMES.co_code, NAMES.co_names):
        return True
    names = all(name in CALLED or len(name) == 1 for name in code.co_names)
    return names and not any(isinstance(each, CodeType) for each in code.co_consts)
