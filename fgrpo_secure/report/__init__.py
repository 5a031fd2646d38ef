"""The report of a run: one self-contained page for people who did not make it."""
