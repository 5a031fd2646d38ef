"""Every name that a module of the protocol offers is there."""

import importlib
import pkgutil

import pytest

import protocols

OFFERING = [
    module.name
    for module in pkgutil.iter_modules(protocols.__path__, "protocols.")
    if hasattr(importlib.import_module(module.name), "__all__")
]


@pytest.mark.parametrize("name", OFFERING)
def test_a_module_has_all_that_it_offers(name):
    module = importlib.import_module(name)
    assert [offered for offered in module.__all__ if not hasattr(module, offered)] == []
