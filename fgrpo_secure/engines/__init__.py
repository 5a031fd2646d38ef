"""Engines move bytes between clients and server; the round itself is the same in all of them."""
