"""The aggregation protocol: a server learns the sum of its clients' integer vectors, and nothing else.

Pure: every step maps a state and a peer's bytes to the next state and the bytes to send. No sockets, files,
clocks, logging or sources of randomness here. SPEC.md beside this file is normative.
"""
