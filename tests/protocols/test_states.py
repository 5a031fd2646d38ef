"""What a state shows of itself when it is printed: whom it is about, never a share or a key. How large one may be."""

import pytest

from protocols import states
from protocols.errors import Malformed
from protocols.states import Held, Peer


def test_a_held_share_and_a_peer_print_their_number_alone():
    held, peer = Held(3, b"secret one", b"secret two"), Peer(4, b"mask key", b"sealing")
    assert (repr(held), held.__rich_repr__()) == ("Held(dealer=3)", [("dealer", 3)])
    assert (repr(peer), peer.__rich_repr__()) == ("Peer(id=4)", [("id", 4)])


@pytest.mark.parametrize(("size", "reason"), [(8, "not a client's state"), (9, "too large")])
def test_more_bytes_than_a_state_can_have_are_not_decoded(monkeypatch, size, reason):
    monkeypatch.setattr(states, "MAX_BYTES", 8)
    with pytest.raises(Malformed, match=reason):
        states.decode_state(bytes(size))
