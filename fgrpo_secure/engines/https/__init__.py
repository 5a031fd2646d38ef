"""The engine between organisations: HTTPS, a long poll, answers in pieces. No code ever travels."""
