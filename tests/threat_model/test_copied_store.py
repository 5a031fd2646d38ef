"""A copy of a client's store, taken after its vector left, that runs beside the original: it counts as a colluder."""

import copy

import pytest

from threat_model import world
from threat_model.attacks.split_views import SplitView


@pytest.mark.parametrize("colludes", [False, True])
def test_a_copy_that_signs_another_list_is_borne_as_a_colluder_is_and_no_further(colludes):
    """docs/how-to/many-machines.md states the limit. One colluder is what this plan allows for: with the copy in its
    place the server gets nothing, with both it reads a third client's vector."""
    at = world.build()
    assert at.plan.colluders == 1
    split = SplitView(at, at.ids[2])
    copied, *others = [client for client in at.ids if client not in (split.victim, at.colluder)]
    kept = copy.deepcopy(at.stores[copied])
    if colludes:
        split.collude(at.colluder)
    else:
        others.append(at.colluder)
    for told, group in enumerate(([split.victim, copied, others[0]], [copied, *others[1:]])):
        if told:
            at.stores[copied] = at.drivers[copied]._store = kept
        signed = split.agree(group, told) + ([split.sign_as(at.colluder, told)] if colludes else [])
        split.open(group, told, sorted(signed, key=lambda agreement: agreement.signer)[: at.plan.quorum])
    assert split.outcome().succeeded is colludes
