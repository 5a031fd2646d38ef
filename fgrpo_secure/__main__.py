"""`python -m fgrpo_secure` is the command line."""

from fgrpo_secure.cli import main

main()
