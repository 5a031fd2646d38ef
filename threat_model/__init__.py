"""Adversaries that run: every claim of the project, an attack on it, and proof that the attack would work without the
mechanism that stops it. README.md is the table of claims; nothing here is imported by the packages that it attacks.
"""
