"""ML-KEM-768 from FIPS 203, slowly: for checking, not for use. Names follow the standard's algorithms.

Encapsulation takes its randomness, so that whole hybrid sessions have known answers.
"""

import hashlib
from functools import lru_cache

Q, N, RANK, ETA, DU, DV = 3329, 256, 3, 2, 10, 4
ZETAS = [pow(17, int(f"{i:07b}"[::-1], 2), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * int(f"{i:07b}"[::-1], 2) + 1, Q) for i in range(128)]


def g(data):
    out = hashlib.sha3_512(data).digest()
    return out[:32], out[32:]


def h(data):
    return hashlib.sha3_256(data).digest()


def byte_encode(values, d):
    total = sum(value << (d * i) for i, value in enumerate(values))
    return total.to_bytes(32 * d, "little")


def byte_decode(data, d):
    total = int.from_bytes(data, "little")
    values = [total >> (d * i) & (2**d - 1) for i in range(N)]
    return [value % Q for value in values] if d == 12 else values


def compress(values, d):
    return [(2**d * value * 2 + Q) // (2 * Q) % 2**d for value in values]


def decompress(values, d):
    return [(Q * value * 2 + 2**d) // 2 ** (d + 1) for value in values]


def sample_ntt(seed):
    data = hashlib.shake_128(seed).digest(3 * 1024)
    out = []
    for at in range(0, len(data), 3):
        a, b, c = data[at : at + 3]
        out += [value for value in (a + 256 * (b % 16), b // 16 + 16 * c) if value < Q]
    return out[:N]


def sample_cbd(key, count):
    bits = int.from_bytes(hashlib.shake_256(key + bytes([count])).digest(64 * ETA), "little")
    out = []
    for i in range(N):
        four = bits >> (4 * i) & 15
        out.append(((four & 1) + (four >> 1 & 1) - (four >> 2 & 1) - (four >> 3 & 1)) % Q)
    return out


def ntt(f):
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[i] * f[j + length] % Q
                f[j + length], f[j] = (f[j] - t) % Q, (f[j] + t) % Q
            i += 1
        length //= 2
    return f


def inverse_ntt(f):
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % Q, ZETAS[i] * (f[j + length] - t) % Q
            i -= 1
        length *= 2
    return [value * 3303 % Q for value in f]


def multiply(a, b):
    out = []
    for i in range(128):
        a0, a1, b0, b1 = a[2 * i], a[2 * i + 1], b[2 * i], b[2 * i + 1]
        out += [(a0 * b0 + a1 * b1 * GAMMAS[i]) % Q, (a0 * b1 + a1 * b0) % Q]
    return out


def add(*polynomials):
    return [sum(values) % Q for values in zip(*polynomials, strict=True)]


def dot(left, right):
    return add(*(multiply(a, b) for a, b in zip(left, right, strict=True)))


def key_gen(d, z):
    """(encapsulation key, decapsulation key): ML-KEM.KeyGen_internal."""
    rho, sigma = g(d + bytes([RANK]))
    matrix = _matrix(rho)
    s = [ntt(sample_cbd(sigma, i)) for i in range(RANK)]
    e = [ntt(sample_cbd(sigma, RANK + i)) for i in range(RANK)]
    t = [add(dot(matrix[i], s), e[i]) for i in range(RANK)]
    public = b"".join(byte_encode(row, 12) for row in t) + rho
    return public, b"".join(byte_encode(row, 12) for row in s) + public + h(public) + z


@lru_cache(maxsize=64)
def _matrix(rho):
    return [[sample_ntt(rho + bytes([j, i])) for j in range(RANK)] for i in range(RANK)]


def valid(public):
    """Section 7.2: length, and every coefficient below q."""
    rows = [public[384 * i : 384 * i + 384] for i in range(RANK)]
    return len(public) == 1184 and all(byte_encode(byte_decode(row, 12), 12) == row for row in rows)


def encrypt(public, m, r):
    t = [byte_decode(public[384 * i : 384 * i + 384], 12) for i in range(RANK)]
    matrix = _matrix(public[384 * RANK :])
    y = [ntt(sample_cbd(r, i)) for i in range(RANK)]
    e1 = [sample_cbd(r, RANK + i) for i in range(RANK)]
    e2 = sample_cbd(r, 2 * RANK)
    u = [add(inverse_ntt(dot([matrix[j][i] for j in range(RANK)], y)), e1[i]) for i in range(RANK)]
    v = add(inverse_ntt(dot(t, y)), e2, decompress(byte_decode(m, 1), 1))
    return b"".join(byte_encode(compress(row, DU), DU) for row in u) + byte_encode(compress(v, DV), DV)


def encaps(public, m):
    """(secret, ciphertext): ML-KEM.Encaps_internal."""
    secret, r = g(m + h(public))
    return secret, encrypt(public, m, r)


def decaps(private, ciphertext):
    """The secret: ML-KEM.Decaps_internal."""
    s = [byte_decode(private[384 * i : 384 * i + 384], 12) for i in range(RANK)]
    public, digest, z = private[1152:2336], private[2336:2368], private[2368:]
    u = [decompress(byte_decode(ciphertext[320 * i : 320 * i + 320], DU), DU) for i in range(RANK)]
    v = decompress(byte_decode(ciphertext[960:], DV), DV)
    noisy = inverse_ntt(dot(s, [ntt(row) for row in u]))
    m = byte_encode(compress([(a - b) % Q for a, b in zip(v, noisy, strict=True)], 1), 1)
    secret, r = g(m + digest)
    if encrypt(public, m, r) != ciphertext:
        return hashlib.shake_256(z + ciphertext).digest(32)
    return secret
