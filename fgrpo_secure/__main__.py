"""`python -m fgrpo_secure` is the command line."""

import os
import sys


def leave_working_folder() -> None:
    """Take the working folder, which `-m` puts first on the import path, away again: protocols.py of a user would hide
    ours. Where this package itself comes from there, it stays.
    """
    here = os.getcwd()
    if sys.path and sys.path[0] in ("", here) and os.path.dirname(os.path.dirname(os.path.abspath(__file__))) != here:
        del sys.path[0]


if __name__ == "__main__":
    leave_working_folder()
    from fgrpo_secure.cli import main

    main()
