"""The two kinds of error that a user meets as one sentence, by the exit code that the command line ends with.

Errors derive from them where they are raised, so that whoever reports them needs to load none of that.
"""


class UnusableInput(ValueError):
    """Something the user gave cannot be used; exit code 2."""


class CheckFailed(Exception):
    """A check that a run rests on has failed, or its engine has; exit code 1."""
