"""A slow second implementation of protocols/SPEC.md, for known answers. It imports nothing from the project.

Written for checking, not for use: Python integers everywhere, for every primitive another library than the
project uses where one exists (X25519 by hand, AES-CTR out of AES-ECB, HKDF out of HMAC, ChaCha20-Poly1305
out of libsodium, Ed25519 out of OpenSSL), its own MessagePack.
"""

import hashlib
import hmac
from fractions import Fraction
from functools import cache
from itertools import combinations, pairwise
from math import ceil, comb, floor

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

P = 2**256 + 297


class Fault(Exception):
    """`who` is "server", "either", "refused", or a client's id."""

    def __init__(self, who):
        super().__init__(str(who))
        self.who = who


def check(condition, who):
    if not condition:
        raise Fault(who)


# --- section 3: notation and primitives ---


def encode(label, *parts):
    out = b"fgrpo-aggregation/2"
    for part in (label, *parts):
        if isinstance(part, int):
            part = part.to_bytes(8, "big")
        if isinstance(part, str):
            part = part.encode()
        out += len(part).to_bytes(4, "big") + part
    return out


def digest_of(label, *parts):
    return hashlib.sha256(encode(label, *parts)).digest()


def derive(secret, label, *parts):
    prk = hmac.new(bytes(32), secret, "sha256").digest()
    return hmac.new(prk, encode(label, *parts) + b"\x01", "sha256").digest()


def stream(key, count):
    ecb = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = b"".join(i.to_bytes(16, "big") for i in range(count // 16 + 1))
    return ecb.update(blocks)[:count]


def sign(seed, label, payload):
    return Ed25519PrivateKey.from_private_bytes(seed).sign(encode(label, payload))


def public(seed):
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


@cache  # 201 clients check the same 201 signatures; a failure is not remembered
def verify(key, label, payload, signature, who):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, encode(label, payload))
    except InvalidSignature:
        raise Fault(who) from None


@cache
def x25519(secret, point):
    """RFC 7748, section 5: the Montgomery ladder."""
    q = 2**255 - 19
    k = (int.from_bytes(secret, "little") & ~7 & (2**255 - 1)) | 2**254
    u = int.from_bytes(point, "little") % 2**255
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in range(254, -1, -1):
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b = (x2 + z2) % q, (x2 - z2) % q
        c, d = (x3 + z3) * b % q, (x3 - z3) * a % q
        aa, bb = a * a % q, b * b % q
        e = aa - bb
        n2 = aa * bb % q, e * (bb + 121666 * e) % q
        n3 = (c + d) ** 2 % q, u * (c - d) ** 2 % q
        (x2, z2), (x3, z3) = n2, n3
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, q - 2, q) % q).to_bytes(32, "little")


def exchange(secret, point, who):
    shared = x25519(secret, point)
    check(any(shared), who)
    return shared


def x25519_base(secret):
    return x25519(secret, (9).to_bytes(32, "little"))


def split(secret, points, t, key):
    data = stream(key, 48 * (t - 1))
    coefficients = [int.from_bytes(data[48 * i : 48 * i + 48], "little") % P for i in range(t - 1)]
    coefficients.append(int.from_bytes(secret, "little"))
    degree = len(coefficients) - 1
    return [(sum(c * x ** (degree - i) for i, c in enumerate(coefficients)) % P).to_bytes(33, "little") for x in points]


def rebuild(points, shares):
    total = 0
    for i, share in enumerate(shares):
        weight = Fraction(1)
        for j, x in enumerate(points):
            if j != i:
                weight *= Fraction(x, x - points[i])
        total += int.from_bytes(share, "little") * weight.numerator * pow(weight.denominator, -1, P)
    return (total % P).to_bytes(32, "little")


def mask(key, length, bits):
    width = 4 if bits <= 32 else 8
    data = stream(key, width * length)
    return [int.from_bytes(data[width * i : width * i + width], "little") % 2**bits for i in range(length)]


def pack(elements, bits):
    total = sum(element << (bits * i) for i, element in enumerate(elements))
    return total.to_bytes((bits * len(elements) + 7) // 8, "little")


def unpack(data, length, bits):
    total = int.from_bytes(data, "little")
    return [total >> (bits * i) & (2**bits - 1) for i in range(length)]


def leaf_hash(leaf):
    return hashlib.sha256(b"\x00" + leaf).digest()


def tree_root(hashes):
    if len(hashes) == 1:
        return hashes[0]
    half = 1
    while 2 * half < len(hashes):
        half *= 2
    return hashlib.sha256(b"\x01" + tree_root(hashes[:half]) + tree_root(hashes[half:])).digest()


def tree_path(index, hashes):
    if len(hashes) == 1:
        return []
    half = 1
    while 2 * half < len(hashes):
        half *= 2
    if index < half:
        return [*tree_path(index, hashes[:half]), tree_root(hashes[half:])]
    return [*tree_path(index - half, hashes[half:]), tree_root(hashes[:half])]


# --- section 4: parameters ---


def parameters(lying, roster, n, gamma, delta):
    """(c, quorum, t, k, floor) with gamma and delta as decimal text."""
    c = max(1, ceil(Fraction(gamma) * roster))
    d = floor(Fraction(delta) * n)
    quorum = (n + c) // 2 + 1
    k, t = n - 1, quorum if lying else max(2, c + 1)
    if not lying and n > 200:
        k, t = sparse(n, c, d) or (k, t)
    return c, quorum, t, k, n - d


def sparse(n, c, d):
    for k in range(2, min(n - 1, 1001), 2):
        for t in range(2, k + 1):
            if n * upper_tail(n - 1, c, k, t) > Fraction(1, 2**41):
                continue
            cut = Fraction(n * (n - k - 1), 2) * Fraction(comb(c + d, k), comb(n, k))
            if cut <= Fraction(1, 2**41) and n * upper_tail(n - 1, d, k, k - t + 1) <= Fraction(1, 2**30):
                return k, t
            break
    return None


def upper_tail(population, marked, draws, least):
    ways = sum(comb(marked, i) * comb(population - marked, draws - i) for i in range(least, draws + 1))
    return Fraction(ways, comb(population, draws))


def holders(cohort, k, s1, announcers, client):
    if k == len(cohort) - 1:
        return sorted(announcers)
    data = stream(derive(s1, "key graph"), 8 * len(cohort))
    tags = {i: int.from_bytes(data[8 * at : 8 * at + 8], "little") for at, i in enumerate(cohort)}
    ring = sorted(cohort, key=lambda i: tags[i])
    at = ring.index(client)
    near = {ring[(at + step) % len(ring)] for step in range(-(k // 2), k // 2 + 1)}
    return sorted(near & set(announcers))


def shards(cohort, s, roster_digest, round_number):
    if s == 1:
        return [list(cohort)]
    data = stream(digest_of("hash shards", roster_digest, round_number, s), 8 * len(cohort))
    tags = {i: int.from_bytes(data[8 * at : 8 * at + 8], "little") for at, i in enumerate(cohort)}
    line, n = sorted(cohort, key=lambda i: tags[i]), len(cohort)
    return [sorted(line[i * n // s : (i + 1) * n // s]) for i in range(s)]


# --- section 7: who is named ---


def named(groups, c):
    """By trying every set of at most c clients."""
    everybody = sorted({client for group in groups for client in group})
    sets = [
        set(chosen)
        for count in range(c + 1)
        for chosen in combinations(everybody, count)
        if all(set(group) & set(chosen) for group in groups)
    ]
    return [client for client in everybody if sets and all(client in chosen for chosen in sets)]


# --- section 5: messages ---


def msgpack(value):
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        raise TypeError("not in this protocol")
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        size = next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size))
        return bytes([{1: 0xCC, 2: 0xCD, 4: 0xCE, 8: 0xCF}[size]]) + value.to_bytes(size, "big")
    if isinstance(value, str):
        data = value.encode()
        if len(data) < 32:
            return bytes([0xA0 | len(data)]) + data
        return _sized(data, 0xD9)
    if isinstance(value, bytes):
        return _sized(value, 0xC4)
    if len(value) < 16:
        head = bytes([0x90 | len(value)])
    else:
        size = 2 if len(value) < 1 << 16 else 4
        head = bytes([0xDC if size == 2 else 0xDD]) + len(value).to_bytes(size, "big")
    return head + b"".join(msgpack(item) for item in value)


def _sized(data, code):
    at = next(at for at in range(3) if len(data) < 1 << (8 << at))
    return bytes([code + at]) + len(data).to_bytes(1 << at, "big") + data


def unmsgpack(data, who):
    """The value of canonical bytes, else Fault(who)."""
    try:
        value, end = _read(data, 0)
        right = end == len(data) and msgpack(value) == data
    except (IndexError, KeyError, UnicodeError, TypeError):
        right = False
    check(right, who)
    return value


def _read(data, at):
    code, at = data[at], at + 1
    if code < 0x80:
        return code, at
    if code == 0xC0:
        return None, at
    if 0x90 <= code <= 0x9F:
        return _read_list(data, at, code & 15)
    if 0xA0 <= code <= 0xBF:
        return data[at : at + (code & 31)].decode(), at + (code & 31)
    kind, size = {
        0xC4: ("bin", 1),
        0xC5: ("bin", 2),
        0xC6: ("bin", 4),
        0xD9: ("str", 1),
        0xDA: ("str", 2),
        0xCC: ("int", 1),
        0xCD: ("int", 2),
        0xCE: ("int", 4),
        0xCF: ("int", 8),
        0xDC: ("list", 2),
        0xDD: ("list", 4),
    }[code]
    number, at = int.from_bytes(data[at : at + size], "big"), at + size
    if kind == "int":
        return number, at
    if kind == "list":
        return _read_list(data, at, number)
    piece = data[at : at + number]
    return (piece.decode() if kind == "str" else piece), at + number


def _read_list(data, at, count):
    items = []
    for _ in range(count):
        item, at = _read(data, at)
        items.append(item)
    return items, at


read_once = cache(unmsgpack)  # what a server sends to all is read once; nobody changes it


def content_of(data):
    """The message in a client's envelope."""
    tag, body, signature = unmsgpack(data, "client")
    check(tag == "signed" and len(signature) == 64, "client")
    return unmsgpack(body, "client")


def message(data, tag, session, who="server"):
    value = read_once(data, who)
    check(isinstance(value, list) and value[0] == tag, who)
    if session is not None:
        check(value[1] == session, who)
    return value


def ascending(ids):
    return all(a < b for a, b in pairwise(ids))


# --- section 5: rosters over time ---


def known_roster(body):
    """What a client keeps of a roster."""
    _, _, version, authority, members, revoked, retired, last_day = unmsgpack(body, "server")
    return {
        "digest": digest_of("hash roster", body),
        "version": version,
        "authority": authority,
        "keys": {id: key for id, _, key, _ in members},
        "names": {id: name for id, name, _, _ in members},
        "last_days": {id: day for id, _, _, day in members},
        "revoked": revoked,
        "retired": retired,
        "last_day": last_day,
    }


def next_roster(kept, data, server_key):
    """What a client that keeps `kept` makes of a roster that the server shows."""
    _, body, signature, handovers = message(data, "signed roster", None)
    key = kept["authority"]
    check(len(handovers) <= 64, "server")
    for _, old, new, signed in handovers:
        if old == key:
            verify(old, "sign handover", old + new, signed, "server")
            key = new
    verify(key, "sign roster", body, signature, "server")
    roster = known_roster(body)
    ids, keys = list(roster["keys"]), list(roster["keys"].values())
    check(key == roster["authority"] and unmsgpack(body, "server")[1] == 2, "server")
    check(ascending(ids) and ascending(roster["revoked"]) and ascending(roster["retired"]), "server")
    check(len(set(keys)) == len(ids) and len(set(roster["names"].values())) == len(ids), "server")
    check(not set(ids) & set(roster["revoked"]) and key not in keys, "server")
    check(not {key, *keys} & set(roster["retired"]), "server")
    check(roster["version"] >= kept["version"], "refused")
    if roster["version"] == kept["version"]:
        check(roster["digest"] == kept["digest"], "refused")
    check(set(kept["revoked"]) <= set(roster["revoked"]), "refused")
    check(set(kept["retired"]) <= set(roster["retired"]), "refused")
    check(key == kept["authority"] or kept["authority"] in roster["retired"], "refused")
    for id, old in kept["keys"].items():
        check(id in ids or id in roster["revoked"], "refused")
        check(roster["keys"].get(id) == old or old in roster["retired"], "refused")
        check(id not in ids or roster["names"][id] == kept["names"][id], "refused")
    check(server_key not in (key, *keys), "refused")
    return roster


def expired(last_day, today):
    return last_day is not None and last_day < today


# --- section 6: the client ---


class Client:
    """One client's five steps; `limits` is (last session, least cohort, least floor, today, run)."""

    tag = "plan"
    key_size = 32

    def __init__(self, id, seed, roster, server_key, limits):
        self.id, self.seed, self.roster, self.server_key, self.limits = id, seed, roster, server_key, limits

    def announce(self, data, context, r):
        _, plan, signature = message(data, "signed plan", None)
        verify(self.server_key, "sign plan", msgpack(plan), signature, "server")
        check(plan[0] == self.tag, "refused")
        _, version, own_run, number, digest, roster_version, cohort, named, _, vectors, bits = plan[:11]
        c, quorum, t, floor_, k = plan[12:]
        check(version == 2, "refused")
        check(ascending(cohort) and vectors, "server")
        check((digest, roster_version) == (self.roster["digest"], self.roster["version"]), "refused")
        check(set(cohort) <= set(self.roster["keys"]) and self.id in cohort, "server")
        last, least_cohort, least_floor, today, run = self.limits
        check(not expired(self.roster["last_day"], today), "refused")
        check(not any(expired(self.roster["last_days"][id], today) for id in cohort), "refused")
        check(own_run == run and last < number <= last + 1024, "refused")
        check(len(cohort) >= least_cohort and floor_ >= least_floor, "refused")
        check(dict(named) == context, "refused")
        self.cohort, self.vectors, self.bits = cohort, vectors, bits
        self.c, self.quorum, self.t, self.floor, self.k = c, quorum, t, floor_, k
        self.session = digest_of("hash session", msgpack(plan), digest)
        self.mask_secret = derive(r, "key mask secret", self.session, self.id)
        self.seal_secret = derive(r, "key seal secret", self.session, self.id)
        mask_key, seal_key = self.public(self.mask_secret), self.public(self.seal_secret)
        payload = self.session + self.id.to_bytes(8, "big") + mask_key + seal_key
        self.own = [
            "announcement",
            self.id,
            mask_key,
            seal_key,
            sign(self.seed, "sign announcement", payload),
        ]
        return self.signed(1, msgpack(self.own))

    def signed(self, step, body, content=None):
        """A message in its envelope; `content` is what the signature covers instead of the message."""
        digest = digest_of("hash message", body if content is None else content)
        payload = self.session + self.id.to_bytes(8, "big") + step.to_bytes(8, "big") + digest
        return msgpack(["signed", body, sign(self.seed, "sign message", payload)])

    def public(self, secret):
        return x25519_base(secret)

    def share(self, data, r):
        _, _, entries = message(data, "announcements", self.session)
        ids = [entry[1] for entry in entries]
        check(ascending(ids) and set(ids) <= set(self.cohort), "server")
        check(self.own in entries and len(ids) >= self.floor, "server")
        for _, _, mask_key, seal_key, _ in entries:
            check(len(mask_key) == len(seal_key) == self.key_size, "server")
        self.s1 = digest_of("hash announced", data)
        self.announced = {entry[1]: entry for entry in entries}
        self.near = holders(self.cohort, self.k, self.s1, ids, self.id)
        for _, id, mask_key, seal_key, signature in entries:
            if id in self.near and id != self.id:
                payload = self.session + id.to_bytes(8, "big") + mask_key + seal_key
                verify(self.roster["keys"][id], "sign announcement", payload, signature, "server")
        check(len(self.near) >= self.t, "nobody")
        self.self_seed = derive(r, "key seed", self.s1, self.id)
        points = [self.cohort.index(holder) + 1 for holder in self.near]
        parts = {}
        for kind, secret in (("seed", self.self_seed), ("mask key", self.mask_secret)):
            key = derive(r, "key coefficients", self.s1, self.id, kind)
            parts[kind] = split(secret, points, self.t, key)
        self.sealing = {j: self.sealed_with(j) for j in self.near}
        leaves = [self._leaf(j, parts["seed"][at], parts["mask key"][at]) for at, j in enumerate(self.near)]
        root = tree_root([leaf_hash(leaf) for leaf in leaves])
        commitment = digest_of("commit seed", self.s1, self.id, self.self_seed)
        payload = self.s1 + self.id.to_bytes(8, "big") + root + commitment
        signature = sign(self.seed, "sign deal", payload)
        self.own = ["root", self.id, root, commitment, signature]
        return self.signed(2, msgpack(["deal", self.id, commitment, leaves, signature]))

    def sealed_with(self, j):
        return exchange(self.seal_secret, self.announced[j][3], j)

    def to_seal(self, holder):
        """(secret of the leaf to this holder, further fields of the leaf)."""
        return self.sealing[holder], []

    def to_open(self, dealer, extra):
        return self.sealing[dealer]

    def pair(self, j):
        return exchange(self.mask_secret, self.announced[j][2], j)

    def receive(self, deliveries):
        """Nothing besides the shares in a classical session. The dealer to accuse, if any."""

    leaf_tag = "leaf"

    def _leaf(self, holder, seed_share, key_share):
        sealing, extra = self.to_seal(holder)
        commitments, boxes = [], []
        for kind, part in (("seed", seed_share), ("mask key", key_share)):
            commitments.append(digest_of("commit share", self.s1, self.id, holder, kind, part))
        key = derive(sealing, "key seal", self.s1, self.id, holder, *commitments)
        for at, (kind, part) in enumerate((("seed", seed_share), ("mask key", key_share))):
            place = encode("sealed share", self.s1, self.id, holder, kind)
            boxes.append(crypto_aead_chacha20poly1305_ietf_encrypt(part, place, bytes(11) + bytes([at]), key))
        return msgpack([self.leaf_tag, holder, commitments[0], boxes[0], commitments[1], boxes[1], *extra])

    def mask(self, data, values):
        _, _, roots_bytes, deliveries = message(data, "deliveries", self.session)
        _, _, roots = message(roots_bytes, "roots", self.session)
        self.sharers = [root[1] for root in roots]
        check(ascending(self.sharers) and set(self.sharers) <= set(self.announced), "server")
        check(self.own in roots and len(roots) >= self.floor, "server")
        dealers = [j for j in self.near if j in self.sharers]
        for _, id, root, commitment, signature in roots:
            if id in dealers and id != self.id:
                payload = self.s1 + id.to_bytes(8, "big") + root + commitment
                verify(self.roster["keys"][id], "sign deal", payload, signature, "server")
        check([delivery[1] for delivery in deliveries] == dealers, "server")
        self.held = {j: self._held(j, leaf, path, roots) for _, j, leaf, path in deliveries}
        self.s2 = digest_of("hash dealt", self.s1, roots_bytes)
        accused = self.receive(deliveries)
        if accused is not None:
            return self.signed(3, msgpack(["complaint", self.id, accused, self.s2]))
        packed = []
        for name, length in self.vectors:
            total = [value % 2**self.bits for value in values[name]]
            masks = [(1, mask(derive(self.self_seed, "key self", self.s2, self.id, name), length, self.bits))]
            for j in dealers:
                if j != self.id:
                    key = derive(self.pair(j), "key pair", self.s2, min(self.id, j), max(self.id, j), name)
                    masks.append((1 if self.id < j else -1, mask(key, length, self.bits)))
            for sign_, one in masks:
                total = [(a + sign_ * b) % 2**self.bits for a, b in zip(total, one, strict=True)]
            packed.append(pack(total, self.bits))
        digest = digest_of("hash upload", *packed)
        signature = sign(self.seed, "sign upload", self.s2 + self.id.to_bytes(8, "big") + digest)
        self.own = ["upload digest", self.id, digest, signature]
        return self.signed(3, msgpack(["upload", self.id, packed, signature]), msgpack(self.own))

    def _held(self, dealer, leaf, path, roots):
        theirs = holders(self.cohort, self.k, self.s1, list(self.announced), dealer)
        root = next(root[2] for root in roots if root[1] == dealer)
        check(climb(leaf_hash(leaf), theirs.index(self.id), len(theirs), path) == root, "server")
        try:
            tag, _, seed_hash, seed_box, key_hash, key_box, *extra = unmsgpack(leaf, "dealer")
            check(tag == self.leaf_tag, "dealer")
            key = derive(self.to_open(dealer, extra), "key seal", self.s1, dealer, self.id, seed_hash, key_hash)
            parts = []
            for at, (kind, box, right) in enumerate((("seed", seed_box, seed_hash), ("mask key", key_box, key_hash))):
                place = encode("sealed share", self.s1, dealer, self.id, kind)
                part = crypto_aead_chacha20poly1305_ietf_decrypt(box, place, bytes(11) + bytes([at]), key)
                check(digest_of("commit share", self.s1, dealer, self.id, kind, part) == right, "dealer")
                check(len(part) == 33 and int.from_bytes(part, "little") < P, "dealer")
                parts.append(part)
        except (Fault, CryptoError, ValueError, TypeError):
            return b"", b""
        return tuple(parts)

    def agree(self, data):
        _, _, uploads = message(data, "uploads", self.session)
        self.survivors = [upload[1] for upload in uploads]
        check(ascending(self.survivors) and set(self.survivors) <= set(self.sharers), "server")
        check(self.own in uploads and len(uploads) >= self.floor, "server")
        for _, id, digest, signature in uploads:
            if id == self.id:
                continue
            payload = self.s2 + id.to_bytes(8, "big") + digest
            verify(self.roster["keys"][id], "sign upload", payload, signature, "either")
        dropped = [j for j in self.sharers if j not in self.survivors]
        alive = b"".join(upload[1].to_bytes(8, "big") + upload[2] for upload in uploads)
        self.outcome = digest_of("hash list", 2, self.s2, alive, b"".join(j.to_bytes(8, "big") for j in dropped))
        payload = self.outcome + self.id.to_bytes(8, "big")
        return self.signed(4, msgpack(["agreement", self.id, sign(self.seed, "sign agreement", payload)]))

    def unmask(self, data):
        _, _, agreements = message(data, "quorum", self.session)
        signers = [agreement[1] for agreement in agreements]
        check(
            ascending(signers) and set(signers) <= set(self.survivors) and len(signers) >= self.quorum,
            "server",
        )
        for _, id, signature in agreements:
            payload = self.outcome + id.to_bytes(8, "big")
            verify(self.roster["keys"][id], "sign agreement", payload, signature, "either")
        opened = [["opened", j, self.held[j][0 if j in self.survivors else 1]] for j in sorted(self.held)]
        payload = self.outcome + self.id.to_bytes(8, "big") + digest_of("hash opening", msgpack(opened))
        return self.signed(5, msgpack(["opening", self.id, opened, sign(self.seed, "sign opening", payload)]))


def climb(node, index, size, path):
    """The root that an RFC 6962 path leads to, or nothing if its length is wrong."""
    if size == 1:
        return node if not path else None
    if not path:
        return None
    half = 1
    while 2 * half < size:
        half *= 2
    inside = climb(node, index, half, path[:-1]) if index < half else climb(node, index - half, size - half, path[:-1])
    if inside is None:
        return None
    pair = inside + path[-1] if index < half else path[-1] + inside
    return hashlib.sha256(b"\x01" + pair).digest()


# --- section 6: what an honest server sends ---


def signed_roster(authority_seed, version, members, revoked=(), retired=(), last_day=None, handovers=()):
    """(bytes, what a client knows of it); members are [id, name, public key, last day]."""
    body = msgpack(["roster", 2, version, public(authority_seed), members, revoked, retired, last_day])
    signed = msgpack(["signed roster", body, sign(authority_seed, "sign roster", body), handovers])
    return signed, known_roster(body)


def handover(old_seed, new):
    old = public(old_seed)
    return ["handover", old, new, sign(old_seed, "sign handover", old + new)]


def relay_announcements(session, answers):
    entries = [content_of(answers[id]) for id in sorted(answers)]
    return msgpack(["announcements", session, entries])


def relay_deals(session, answers, client_holders):
    """Each sharer's message; `client_holders` maps dealers to their holders."""
    deals = {id: content_of(answers[id]) for id in sorted(answers)}
    roots, inbox = [], {id: [] for id in deals}
    for dealer, (_, _, commitment, leaves, signature) in deals.items():
        hashes = [leaf_hash(leaf) for leaf in leaves]
        roots.append(["root", dealer, tree_root(hashes), commitment, signature])
        for at, holder in enumerate(client_holders[dealer]):
            if holder in inbox:
                inbox[holder].append(["delivery", dealer, leaves[at], tree_path(at, hashes)])
    roots_bytes = msgpack(["roots", session, roots])
    return {id: msgpack(["deliveries", session, roots_bytes, inbox[id]]) for id in deals}


def relay_uploads(session, answers):
    entries = []
    for id in sorted(answers):
        _, _, vectors, signature = content_of(answers[id])
        entries.append(["upload digest", id, digest_of("hash upload", *vectors), signature])
    return msgpack(["uploads", session, entries])


def relay_agreements(session, answers, quorum):
    entries = [content_of(answers[id]) for id in sorted(answers)[:quorum]]
    return msgpack(["quorum", session, entries])


def transcript(answers):
    """A session's answers by step and client, in that order, as bytes for others (section 7)."""
    entries = [["entry", step, id, data] for step, given in answers.items() for id, data in given.items()]
    return msgpack(["transcript", entries])


def classical_pair(secret, dropped, j, announced):
    return x25519(secret, announced[j][2])


def total(plan, s2, uploads, openings, announced, near, pair=classical_pair):
    """The sum, as signed integers by vector name, from answers; `near` gives a client's holders."""
    cohort, vectors, bits, t = plan[6], plan[9], plan[10], plan[14]
    opened = {}
    for holder in sorted(openings):
        for _, dealer, part in content_of(openings[holder])[2]:
            opened.setdefault(dealer, []).append((cohort.index(holder) + 1, part))
    secrets = {}
    for dealer, parts in opened.items():
        points, shares = zip(*parts[:t], strict=True)
        secrets[dealer] = rebuild(points, shares)
    sums = {}
    for at, (name, length) in enumerate(vectors):
        columns = [unpack(content_of(data)[2][at], length, bits) for data in uploads.values()]
        result = [sum(column) for column in zip(*columns, strict=True)]
        for dealer, secret in secrets.items():
            if dealer in uploads:
                parts = [(-1, mask(derive(secret, "key self", s2, dealer, name), length, bits))]
            else:
                parts = []
                for j in near(dealer):
                    if j in uploads:
                        key = derive(
                            pair(secret, dealer, j, announced),
                            "key pair",
                            s2,
                            min(dealer, j),
                            max(dealer, j),
                            name,
                        )
                        parts.append((-1 if j < dealer else 1, mask(key, length, bits)))
            for sign_, one in parts:
                result = [a + sign_ * b for a, b in zip(result, one, strict=True)]
        half = 2 ** (bits - 1)
        sums[name] = [(value + half) % 2**bits - half for value in result]
    return sums
