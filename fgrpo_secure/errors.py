"""What a user meets: two kinds of error, one sentence each, by the exit code that the command line ends with.

Errors derive from them where they are raised, so that whoever reports them needs to load none of that.
"""


class UnusableInput(ValueError):
    """Something the user gave cannot be used; exit code 2."""


class CheckFailed(Exception):
    """A check that a run rests on has failed, or its engine has; exit code 1."""


def printable(text: str) -> str:
    """`text` on one line, as it may stand on a person's screen or in a log: what cannot be printed is escaped.

    **Why** Models, prompts and peers write it: a terminal would obey some of its letters.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
