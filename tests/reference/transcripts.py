"""Whole sessions as known answers: who is lost when, and a digest of every message. make_vectors.py writes them.

Keys and randomness are `bytes_of(name)` = the first 32 bytes of Stream(H("vector", name)) for the names "authority",
"server", "identity <id>", "announce <id>" and "share <id>"; the values of client i for vector v are
(7 i + 3 j + len v) mod 101 - 50, j from 0. The plan is that of session.json but for what is written here.
"""

from hashlib import sha256

LYING = {"ids": [2, 5, 8, 300, 70000, 2**32 - 2], "lying": True, "gamma": "0.1", "delta": "0.34"}
CURIOUS = {**LYING, "lying": False}
SPARSE = {"ids": [5 * i + 3 for i in range(201)], "lying": False, "gamma": "0.004", "delta": "0.01"}
STEPS = ("announce", "share", "mask", "agree", "unmask")
CASES = {
    "nobody is lost": {**LYING, "lost": {}},
    "nobody is lost, honest-but-curious server": {**CURIOUS, "lost": {}},
    **{f"one is lost in {step}": {**LYING, "lost": {step: [8]}} for step in STEPS},
    **{f"two are lost, in {step} and mask": {**LYING, "lost": {step: [8], "mask": [300]}} for step in STEPS[:2]},
    "two are lost, in mask and unmask": {**LYING, "lost": {"mask": [2], "unmask": [300]}},
    "a wrong share is opened": {**LYING, "lost": {"mask": [8]}, "wrong": 5},
    "sparse graph, one lost in mask and one in agree": {**SPARSE, "lost": {"mask": [53], "agree": [503]}},
}
VECTORS = [["update", 3], ["scores", 1]]


def values_of(id):
    return {name: [(7 * id + 3 * j + len(name)) % 101 - 50 for j in range(length)] for name, length in VECTORS}


class Transcript:
    """One session between slow clients, with an honest server that writes down what passes."""

    def __init__(self, ref, bytes_of, template, case):
        self.ref, self.bytes_of, self.case, self.ids = ref, bytes_of, case, case["ids"]
        self.seeds = {id: bytes_of(f"identity {id}") for id in self.ids}
        members = [[id, f"client {id}", ref.public(self.seeds[id]), None] for id in self.ids]
        _, roster = ref.signed_roster(bytes_of("authority"), 3, members)
        n, self.context = len(self.ids), dict(map(tuple, template[7]))
        c, quorum, t, k, floor = ref.parameters(case["lying"], n, n, case["gamma"], case["delta"])
        self.quorum, self.k, self.t = quorum, k, t
        self.plan = list(template)
        self.plan[4], self.plan[6], self.plan[9] = roster["digest"], self.ids, VECTORS
        self.plan[11] = "lying_server" if case["lying"] else "honest_but_curious"
        self.plan[12:17] = [c, quorum, t, floor, k]
        server = ref.public(bytes_of("server"))
        limits = (self.plan[3] - 1, n, floor, 0, self.plan[2])
        self.clients = {id: ref.Client(id, self.seeds[id], roster, server, limits) for id in self.ids}
        self.down, self.up = {}, {}

    def run(self):
        ref, bytes_of = self.ref, self.bytes_of
        body = ref.msgpack(self.plan)
        opening = ref.msgpack(["signed plan", self.plan, ref.sign(bytes_of("server"), "sign plan", body)])
        self.ask(
            "announce", self.ids, lambda c: opening, lambda c, m: c.announce(m, self.context, self.fresh("announce", c))
        )
        session = self.clients[self.ids[0]].session
        keys = ref.relay_announcements(session, self.up["announce"])
        self.ask("share", self.up["announce"], lambda c: keys, lambda c, m: c.share(m, self.fresh("share", c)))
        self.s1 = next(self.clients[id].s1 for id in self.up["share"])
        near = {id: self.holders(id) for id in self.up["share"]}
        deals = ref.relay_deals(session, self.up["share"], near)
        self.ask("mask", self.up["share"], lambda c: deals[c.id], lambda c, m: c.mask(m, values_of(c.id)))
        uploads = ref.relay_uploads(session, self.up["mask"])
        self.ask("agree", self.up["mask"], lambda c: uploads, lambda c, m: c.agree(m))
        signed = ref.relay_agreements(session, self.up["agree"], self.quorum)
        self.ask("unmask", self.up["agree"], lambda c: signed, lambda c, m: self.opened(c, m))
        return self.document(near)

    def ask(self, step, ids, request, answer):
        """Every client that is still there is asked; the lost ones answer no more."""
        asked = {id: request(self.clients[id]) for id in sorted(ids)}
        lost = self.case["lost"].get(step, ())
        self.down[step] = asked
        self.up[step] = {id: answer(self.clients[id], m) for id, m in asked.items() if id not in lost}

    def fresh(self, step, client):
        return self.bytes_of(f"{step} {client.id}")

    def holders(self, id):
        return self.ref.holders(self.ids, self.k, self.s1, list(self.up["announce"]), id)

    def opened(self, client, message):
        """The opening; of the case's liar one with another first share, rightly signed."""
        ref, right = self.ref, client.unmask(message)
        if client.id != self.case.get("wrong"):
            return right
        _, _, entries, _ = ref.content_of(right)
        entries[0][2] = bytes(33)
        payload = client.outcome + client.id.to_bytes(8, "big") + ref.digest_of("hash opening", ref.msgpack(entries))
        return client.signed(
            5, ref.msgpack(["opening", client.id, entries, ref.sign(client.seed, "sign opening", payload)])
        )

    def document(self, near):
        ref, case = self.ref, self.case
        one = self.clients[next(iter(self.up["agree"]))]
        right = {id: data for id, data in self.up["unmask"].items() if id != case.get("wrong")}
        totals = ref.total(self.plan, one.s2, self.up["mask"], right, one.announced, near.get)
        same = {step: len(set(messages.values())) == 1 for step, messages in self.down.items()}
        return {
            **case,
            "plan": {"quorum": self.quorum, "threshold": self.t, "neighbours": self.k, "floor": self.plan[15]},
            "requests": {
                step: short(next(iter(messages.values()))) if same[step] else shorts(messages)
                for step, messages in self.down.items()
            },
            "answers": {step: shorts(messages) for step, messages in self.up.items()},
            "survivors": one.survivors,
            "dropped": [id for id in one.sharers if id not in one.survivors],
            "blamed": [case["wrong"]] if "wrong" in case else [],
            "totals": totals,
        }


def short(message):
    """Eight bytes of SHA-256 name a message."""
    return sha256(message).hexdigest()[:16]


def shorts(messages):
    """In ascending order of clients, as one text."""
    return " ".join(short(messages[id]) for id in sorted(messages))


def document(ref, bytes_of, template):
    """All cases, by name."""
    return {name: Transcript(ref, bytes_of, template, case).run() for name, case in CASES.items()}
