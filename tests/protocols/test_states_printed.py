"""What a state shows of itself when it is printed: whom it is about, never a share or a key."""

from protocols.states import Held, Peer


def test_a_held_share_and_a_peer_print_their_number_alone():
    held, peer = Held(3, b"secret one", b"secret two"), Peer(4, b"mask key", b"sealing")
    assert (repr(held), held.__rich_repr__()) == ("Held(dealer=3)", [("dealer", 3)])
    assert (repr(peer), peer.__rich_repr__()) == ("Peer(id=4)", [("id", 4)])
