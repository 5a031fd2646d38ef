"""Vectors of hybrid sessions, from the slow implementation; make_vectors.py writes them with the others."""


def primitives(hybrid, bytes_of):
    ref, mlkem = hybrid.ref, hybrid.mlkem
    s1, seed, m = bytes_of("s1"), bytes_of("mask seed"), bytes_of("encapsulation")
    pair = hybrid.Pair(seed)
    secret, ciphertext = mlkem.encaps(pair.public[32:], m)
    spoilt = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    pad = ref.derive(bytes_of("low seed"), "key pad", s1, 3, 9)
    sealed = hybrid.seal_pad(pair.public[32:], m, s1, 3, 9, pad)
    return {
        "seed": seed,
        "s1": s1,
        "public": pair.public,
        "curve": pair.curve,
        "encapsulation": m,
        "secret": secret,
        "ciphertext": ciphertext,
        "implicit rejection": {"ciphertext": spoilt, "secret": mlkem.decaps(pair.kem, spoilt)},
        "low": 3,
        "high": 9,
        "low_seed": bytes_of("low seed"),
        "pad": pad,
        "sealed": sealed,
        "pair_secret": hybrid.pair_secret(bytes_of("curve"), pad, s1, 9, 3),
        "sealing_secret": ref.derive(bytes_of("curve") + secret, "key hybrid seal", s1, 9, 3, ciphertext),
        "curve_secret": bytes_of("curve"),
    }


def session_class(hybrid, base, bytes_of):
    """Five clients, the third lost in the mask step: the server needs pads from below and from above."""
    ref = hybrid.ref

    class HybridSession(base):
        ids = (1, 4, 300, 70000, 2**32 - 1)
        tag, lost, limits = "hybrid plan", {"mask": 300}, (11, 5, 4)
        corrupt, dropout = "0.1", "0.2"

        def client(self, id):
            return hybrid.HybridClient(
                id,
                self.seeds[id],
                self.roster,
                ref.public(self.server),
                (*self.limits, 20_000, bytes_of("run", 16)),
                encapsulation=lambda id, n: bytes_of(f"encapsulation {id} {n}"),
            )

        def sum(self, one):
            pads = {}
            for data in self.answers["share"].values():
                _, dealer, _, leaves, _ = ref.content_of(data)
                for leaf in leaves:
                    fields = ref.unmsgpack(leaf, "client")
                    pads[dealer, fields[1]] = fields[7:]
            pair = hybrid.recovered_pair(one.s1, pads)
            return ref.total(
                self.plan, one.s2, self.answers["mask"], self.answers["unmask"], one.announced,
                lambda id: self.ids, pair,
            )  # fmt: skip

    return HybridSession


def complaint(kind, values):
    """The first client seals the second one a pad that does not open; the second one's answer in the mask step."""
    done = kind()
    dealer, holder = (done.clients[id] for id in done.ids[:2])
    right = dealer.to_seal

    def to_seal(to):
        sealing, extra = right(to)
        return sealing, [*extra[:3], bytes([extra[3][0] ^ 1]) + extra[3][1:]] if to == holder.id else extra

    dealer.to_seal = to_seal
    requests = done.deal()
    return {
        "client": holder.id,
        "announcements": done.requests["share"][holder.id],
        "request": requests[holder.id],
        "answer": holder.mask(requests[holder.id], values[holder.id]),
    }
