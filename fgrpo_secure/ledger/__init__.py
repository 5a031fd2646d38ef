"""The record of what was charged, and the signatures of those who witnessed it."""
