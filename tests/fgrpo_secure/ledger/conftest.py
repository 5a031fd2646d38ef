"""What tests of ledgers leave open is closed after them: from Python 3.13 on, sqlite3 warns where nobody does."""

import sqlite3

import pytest


@pytest.fixture(autouse=True)
def closed_afterwards(monkeypatch):
    opened, connect = [], sqlite3.connect

    def remembered(*arguments, **named):
        opened.append(connect(*arguments, **named))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", remembered)
    yield
    for each in opened:
        each.close()
