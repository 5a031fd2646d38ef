"""Claims of this repository, each checked by one command: `python -m benchmarks NAME`."""
