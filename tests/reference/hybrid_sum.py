"""Section 10 of protocols/SPEC.md, hybrid sessions, on top of the slow implementation of the others.

Encapsulation randomness is an argument here, so that a whole session has one answer.
"""

import importlib.util
from pathlib import Path

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_aead_chacha20poly1305_ietf_encrypt
from nacl.exceptions import CryptoError

HERE = Path(__file__).parent


def load(name):
    spec = importlib.util.spec_from_file_location(f"reference_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ref, mlkem = load("secure_sum"), load("mlkem")


class Pair:
    """Both key pairs of a 32-byte seed."""

    def __init__(self, seed):
        self.curve = ref.derive(seed, "key curve")
        d, z = (ref.derive(seed, "key kem", part) for part in ("d", "z"))
        public, self.kem = mlkem.key_gen(d, z)
        self.public = ref.x25519_base(self.curve) + public


def seal_pad(public, m, s1, low, high, pad):
    """[commitment, ciphertext, box]."""
    secret, ciphertext = mlkem.encaps(public, m)
    key = ref.derive(secret, "key pad box", s1, low, high, ciphertext)
    box = crypto_aead_chacha20poly1305_ietf_encrypt(pad, ref.encode("sealed pad", s1, low, high), bytes(12), key)
    return [ref.digest_of("commit pad", s1, low, high, pad), ciphertext, box]


def open_pad(private, s1, low, high, sealed):
    """The pad, or Fault(low)."""
    commitment, ciphertext, box = sealed
    ref.check(len(ciphertext) == 1088, low)
    key = ref.derive(mlkem.decaps(private, ciphertext), "key pad box", s1, low, high, ciphertext)
    try:
        pad = crypto_aead_chacha20poly1305_ietf_decrypt(box, ref.encode("sealed pad", s1, low, high), bytes(12), key)
    except (CryptoError, ValueError):
        raise ref.Fault(low) from None
    ref.check(ref.digest_of("commit pad", s1, low, high, pad) == commitment, low)
    return pad


class HybridClient(ref.Client):
    """`encapsulation` gives the 32 bytes of ML-KEM.Encaps for the n-th encapsulation of this client."""

    tag, leaf_tag, key_size = "hybrid plan", "hybrid leaf", 1216

    def __init__(self, *arguments, encapsulation):
        super().__init__(*arguments)
        self.encapsulation, self.count = encapsulation, 0

    def randomness(self, public, who):
        ref.check(mlkem.valid(public), who)
        self.count += 1
        return self.encapsulation(self.id, self.count)

    def public(self, secret):
        return Pair(secret).public

    def sealed_with(self, j):
        self.seal, self.mask_pair = Pair(self.seal_secret), Pair(self.mask_secret)
        return ref.exchange(self.seal.curve, self.announced[j][3][:32], j)

    def to_seal(self, holder):
        _, _, mask_key, seal_key, _ = self.announced[holder]
        secret, ciphertext = mlkem.encaps(seal_key[32:], self.randomness(seal_key[32:], holder))
        both = self.sealing[holder] + secret
        sealing = ref.derive(both, "key hybrid seal", self.s1, self.id, holder, ciphertext)
        pad = [b"", b"", b""]
        if self.id < holder:
            m = self.randomness(mask_key[32:], holder)
            pad = seal_pad(mask_key[32:], m, self.s1, self.id, holder, self.pad_for(holder))
        return sealing, [ciphertext, *pad]

    def pad_for(self, holder):
        return ref.derive(self.mask_secret, "key pad", self.s1, self.id, holder)

    def to_open(self, dealer, extra):
        secret = mlkem.decaps(self.seal.kem, extra[0])
        return ref.derive(self.sealing[dealer] + secret, "key hybrid seal", self.s1, dealer, self.id, extra[0])

    def receive(self, deliveries):
        self.pads = {}
        for _, dealer, leaf, _ in deliveries:
            if dealer < self.id:
                try:
                    fields = ref.unmsgpack(leaf, dealer)
                    ref.check(fields[0] == self.leaf_tag and len(fields) == 10, dealer)
                    self.pads[dealer] = open_pad(self.mask_pair.kem, self.s1, dealer, self.id, fields[7:])
                except ref.Fault:
                    return dealer
        return None

    def pair(self, j):
        curve = ref.exchange(self.mask_pair.curve, self.announced[j][2][:32], j)
        pad = self.pad_for(j) if self.id < j else self.pads[j]
        return pair_secret(curve, pad, self.s1, self.id, j)


def pair_secret(curve, pad, s1, one, other):
    return ref.derive(curve + pad, "key hybrid pair", s1, min(one, other), max(one, other))


def recovered_pair(s1, pads):
    """What `secure_sum.total` needs; `pads` maps (low, high) to [commitment, ciphertext, box]."""

    def pair(secret, dropped, j, announced):
        keys = Pair(secret)
        ref.check(keys.public == announced[dropped][2], dropped)
        low, high = min(dropped, j), max(dropped, j)
        if dropped == high:
            pad = open_pad(keys.kem, s1, low, high, pads[low, high])
        else:
            pad = ref.derive(secret, "key pad", s1, low, high)
            ref.check(ref.digest_of("commit pad", s1, low, high, pad) == pads[low, high][0], low)
        return pair_secret(ref.x25519(keys.curve, announced[j][2][:32]), pad, s1, low, high)

    return pair
