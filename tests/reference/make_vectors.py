"""Writes tests/vectors/*.json from the slow implementation alone; a test compares the result.

python tests/reference/make_vectors.py
"""

import importlib.util
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE.parent / "vectors"


def load(name):
    spec = importlib.util.spec_from_file_location(f"reference_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hybrid, hybrid_vectors, transcripts = load("hybrid_sum"), load("hybrid_vectors"), load("transcripts")
ref = hybrid.ref


def bytes_of(name, size=32):
    """Fixed bytes that stand for randomness."""
    return ref.stream(ref.digest_of("vector", name), size)


def hexed(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): hexed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [hexed(item) for item in value]
    return value


def primitives():
    s1, s2 = bytes_of("s1"), bytes_of("s2")
    key, secret = bytes_of("key"), bytes_of("secret")
    cohort = [3 * i + 1 for i in range(40)]
    leaves = [bytes([i]) * i for i in range(7)]
    hashes = [ref.leaf_hash(leaf) for leaf in leaves]
    alice, bob = bytes_of("alice"), bytes_of("bob")
    return {
        "encode": {
            "label": "hash list",
            "parts": [1, "text", "00ff"],
            "out": ref.encode("hash list", 1, "text", b"\0\xff"),
        },
        "hash": {
            "label": "hash upload",
            "parts": [b"one", b""],
            "out": ref.digest_of("hash upload", b"one", b""),
        },
        "derive": {
            "secret": secret,
            "label": "key seed",
            "s1": s1,
            "id": 7,
            "out": ref.derive(secret, "key seed", s1, 7),
        },
        "stream": {"key": key, "out": ref.stream(key, 50)},
        "x25519": {
            "secret": alice,
            "public": ref.x25519_base(bob),
            "out": ref.exchange(alice, ref.x25519_base(bob), 0),
        },
        "pair key": {
            "shared": secret,
            "s2": s2,
            "low": 2,
            "high": 9,
            "vector": "update",
            "out": ref.derive(secret, "key pair", s2, 2, 9, "update"),
        },
        "self key": {
            "seed": secret,
            "s2": s2,
            "client": 2,
            "vector": "update",
            "out": ref.derive(secret, "key self", s2, 2, "update"),
        },
        "shares": {
            "secret": secret,
            "key": key,
            "points": [1, 2, 5, 9, 1000],
            "threshold": 3,
            "out": ref.split(secret, [1, 2, 5, 9, 1000], 3, key),
        },
        "masks": [
            {"key": key, "length": 9, "bits": bits, "out": ref.mask(key, 9, bits)} for bits in (8, 20, 32, 33, 62)
        ],
        "packing": [
            {
                "bits": bits,
                "elements": ref.mask(key, 11, bits),
                "out": ref.pack(ref.mask(key, 11, bits), bits),
            }
            for bits in (8, 9, 20, 31, 32, 33, 57, 62)
        ],
        "merkle": {
            "leaves": leaves,
            "root": ref.tree_root(hashes),
            "paths": [ref.tree_path(i, hashes) for i in range(7)],
        },
        "graph": {
            "s1": s1,
            "cohort": cohort,
            "neighbours": 6,
            "announcers": cohort[2:],
            "holders": {id: ref.holders(cohort, 6, s1, cohort[2:], id) for id in cohort[2:]},
        },
        "shards": [
            {
                "cohort": cohort[:n],
                "shards": s,
                "roster_digest": s1,
                "round": at,
                "out": ref.shards(cohort[:n], s, s1, at),
            }
            for n, s, at in ((40, 3, 0), (40, 3, 1), (39, 4, 2**40), (7, 7, 5), (5, 1, 0))
        ],
        "shards of shards": {
            "cohort": cohort,
            "roster_digest": s1,
            "round": 5,
            "out": [part for shard in ref.shards(cohort, 2, s1, 5) for part in ref.shards(shard, 2, s1, 5)],
        },
        "named": [
            {"groups": groups, "colluders": c, "out": ref.named(groups, c)}
            for groups, c in (
                ([[1, 2], [1, 3]], 1),
                ([[1, 2], [1, 3]], 2),
                ([[1, 2], [1, 3], [1, 4]], 2),
                ([[7], [1, 2, 3, 4], [2, 3], [3, 9]], 2),
                ([[7], [1, 2, 3, 4], [2, 3], [3, 9]], 3),
                ([[1], [2]], 1),
                ([[1, 2, 3], [1, 4, 5], [1, 6, 7]], 2),
                ([[1, 2, 3], [1, 4, 5], [1, 6, 7]], 3),
                ([], 2),
            )
        ],
        "parameters": [
            {
                "lying": lying,
                "roster": roster,
                "cohort": n,
                "gamma": gamma,
                "delta": delta,
                "out": ref.parameters(lying, roster, n, gamma, delta),
            }
            for lying, roster, n, gamma, delta in (
                (True, 6, 6, "0.1", "0.34"),
                (True, 40, 20, "0.1", "0.1"),
                (False, 4, 4, "0.1", "0"),
                (False, 100, 100, "0.07", "0.29"),
                (False, 256, 256, "0.05", "0.1"),
                (False, 1000, 1000, "0.1", "0.1"),
                (False, 201, 201, "0.3", "0.2"),
                (True, 1000, 1000, "0.05", "0.2"),
            )
        ],
    }


IDS = [1, 4, 6, 300, 70000, 2**32 - 1]
LOST = {"mask": 6, "agree": 70000}
VALUES = {id: {"update": [id % 97 - 40, -(id % 11), 2**18 - 1, -(2**18)], "scores": [id % 5]} for id in IDS}


class Session:
    """Six clients, c = 1, a lying server, one lost in the mask step and one in the agree step."""

    ids, lost, tag, limits = IDS, LOST, "plan", (11, 6, 4)
    corrupt, dropout = "0.1", "0.34"

    def __init__(self):
        self.authority, self.server = bytes_of("authority"), bytes_of("server")
        self.seeds = {id: bytes_of(f"identity {id}") for id in self.ids}
        members = [[id, f"client {id}", ref.public(self.seeds[id]), 20_000 if id == 300 else None] for id in self.ids]
        self.roster_bytes, self.roster = ref.signed_roster(self.authority, 3, members, last_day=30_000)
        n = len(self.ids)
        c, quorum, t, k, floor = ref.parameters(True, n, n, self.corrupt, self.dropout)
        self.context = {"model": bytes_of("model"), "adapter": bytes_of("adapter")}
        self.plan = [
            self.tag,
            2,
            bytes_of("run", 16),
            12,
            self.roster["digest"],
            3,
            list(self.ids),
            [list(i) for i in self.context.items()],
            b'{"clip_norm":1}',
            [["update", 4], ["scores", 1]],
            20,
            "lying_server",
            c,
            quorum,
            t,
            floor,
            k,
        ]
        self.clients = {id: self.client(id) for id in self.ids}
        self.requests, self.answers = {}, {}

    def client(self, id, today=20_000):
        return ref.Client(
            id, self.seeds[id], self.roster, ref.public(self.server), (*self.limits, today, bytes_of("run", 16))
        )

    def signed_plan(self, plan):
        return ref.msgpack(["signed plan", plan, ref.sign(self.server, "sign plan", ref.msgpack(plan))])

    def deal(self):
        """The first two steps; what the server then sends to each."""
        clients, plan, answers = self.clients, self.plan, self.answers
        self.step(
            "announce",
            self.ids,
            lambda id: self.signed_plan(plan),
            lambda c, m: c.announce(m, self.context, bytes_of(f"announce {c.id}")),
        )
        session = clients[self.ids[0]].session
        message = ref.relay_announcements(session, answers["announce"])
        self.step("share", self.ids, lambda id: message, lambda c, m: c.share(m, bytes_of(f"share {c.id}")))
        return ref.relay_deals(session, answers["share"], dict.fromkeys(self.ids, self.ids))

    def run(self):
        clients, plan, answers = self.clients, self.plan, self.answers
        deliveries = self.deal()
        session = clients[self.ids[0]].session
        self.step("mask", self.ids, deliveries.get, lambda c, m: c.mask(m, VALUES[c.id]))
        survivors = sorted(answers["mask"])
        uploads = ref.relay_uploads(session, answers["mask"])
        self.step("agree", survivors, lambda id: uploads, lambda c, m: c.agree(m))
        quorum = ref.relay_agreements(session, answers["agree"], plan[13])
        self.step("unmask", sorted(answers["agree"]), lambda id: quorum, lambda c, m: c.unmask(m))
        self.totals = self.sum(clients[self.ids[0]])
        return self

    def sum(self, one):
        answers = self.answers
        return ref.total(self.plan, one.s2, answers["mask"], answers["unmask"], one.announced, lambda id: self.ids)

    def step(self, name, ids, request, answer):
        self.requests[name], self.answers[name] = {}, {}
        for id in ids:
            self.requests[name][id] = request(id)
            if self.lost.get(name) != id:
                self.answers[name][id] = answer(self.clients[id], request(id))


def session(kind=Session):
    done = kind().run()
    one = done.clients[done.ids[0]]
    return {
        "authority": done.authority,
        "server": done.server,
        "identities": done.seeds,
        "roster": done.roster_bytes,
        "roster_digest": done.roster["digest"],
        "context": done.context,
        "limits": {
            "last_session": 11,
            "today": 20_000,
            "min_cohort": done.limits[1],
            "min_survivors": done.limits[2],
            "max_corrupt": float(done.corrupt),
            "max_dropout": float(done.dropout),
        },
        "announce_randomness": {id: bytes_of(f"announce {id}") for id in done.ids},
        "share_randomness": {id: bytes_of(f"share {id}") for id in done.ids},
        "values": {id: VALUES[id] for id in done.ids},
        "session": one.session,
        "s1": one.s1,
        "s2": one.s2,
        "outcome": one.outcome,
        "requests": done.requests,
        "answers": done.answers,
        "transcript": ref.transcript(done.answers),
        "totals": done.totals,
        "survivors": one.survivors,
        "dropped": [done.lost["mask"]],
    }


def errors():
    """Requests that client 1 must refuse, with whom it blames."""
    done = Session().run()
    cases = []

    def case(name, step, data, today=20_000):
        client = Session().client(1, today)
        history = {"announce": 0, "share": 1, "mask": 2, "agree": 3, "unmask": 4}[step]
        acts = [
            lambda m: client.announce(m, done.context, bytes_of("announce 1")),
            lambda m: client.share(m, bytes_of("share 1")),
            lambda m: client.mask(m, VALUES[1]),
            client.agree,
            client.unmask,
        ]
        for before, act in zip(("announce", "share", "mask", "agree"), acts[:history], strict=False):
            act(done.requests[before][1])
        try:
            acts[history](data)
        except ref.Fault as fault:
            cases.append({"name": name, "step": step, "request": data, "today": today, "blames": str(fault.who)})
        else:
            raise AssertionError(f"the slow implementation accepts: {name}")

    def changed(step, change):
        value = ref.unmsgpack(done.requests[step][1], "test")
        change(value)
        return ref.msgpack(value)

    def plan_with(place, value):
        return done.signed_plan([*done.plan[:place], value, *done.plan[place + 1 :]])

    right = done.requests
    case("plan with a trailing byte", "announce", right["announce"][1] + b"\0")
    case("plan under another key", "announce", changed("announce", lambda v: v[1].__setitem__(3, 13)))
    case("old session number", "announce", plan_with(3, 11))
    case("session number too far ahead", "announce", plan_with(3, 11 + 1025))
    case("another run", "announce", plan_with(2, bytes(16)))
    case("protocol version 1", "announce", plan_with(1, 1))
    case("another roster version", "announce", plan_with(5, 4))
    case(
        "another model",
        "announce",
        plan_with(7, [["adapter", bytes_of("adapter")], ["model", bytes_of("x")]]),
    )
    case("cohort out of order", "announce", plan_with(6, IDS[::-1]))
    case("cohort without this client", "announce", plan_with(6, IDS[1:]))
    case("unknown member", "announce", plan_with(6, [1, 2, *IDS[1:]]))
    case("a cohort member's enrolment expired", "announce", right["announce"][1], 20_001)
    case("the roster expired", "announce", right["announce"][1], 30_001)
    case("announcement replaced", "share", changed("share", lambda v: v[2][1].__setitem__(2, bytes_of("mitm"))))
    case("own announcement missing", "share", changed("share", lambda v: v[2].pop(0)))
    case("announcement twice", "share", changed("share", lambda v: v[2].insert(1, v[2][1])))
    case("below the floor", "share", changed("share", lambda v: v.__setitem__(2, v[2][:3])))
    case("another session", "share", changed("share", lambda v: v.__setitem__(1, bytes(32))))
    case("leaf of another holder", "mask", _swapped(done))
    case("leaf missing", "mask", changed("mask", lambda v: v[3].pop()))
    case("path cut short", "mask", changed("mask", lambda v: v[3][2][3].pop()))
    case("own upload missing", "agree", changed("agree", lambda v: v[2].pop(0)))
    case("upload replaced", "agree", changed("agree", lambda v: v[2][1].__setitem__(2, bytes(32))))
    case("too few survivors", "agree", changed("agree", lambda v: v.__setitem__(2, v[2][:3])))
    case("no quorum", "unmask", changed("unmask", lambda v: v[2].pop()))
    case("one signer twice", "unmask", changed("unmask", lambda v: v[2].__setitem__(1, v[2][0])))
    case(
        "signature over another list",
        "unmask",
        changed("unmask", lambda v: v[2][1].__setitem__(2, bytes(64))),
    )
    return cases


def _swapped(done):
    """Client 1 gets what dealer 4 dealt to client 300."""
    mine, theirs = (ref.unmsgpack(done.requests["mask"][id], "test") for id in (1, 300))
    mine[3][1] = theirs[3][1]
    return ref.msgpack(mine)


def rosters():
    """A history of rosters, each the next one of the one before, and rosters that the last of them must not become."""
    seeds = {name: bytes_of(f"roster {name}") for name in ("first", "second", "server", "a", "b", "c", "d", "b again")}
    keys = {name: ref.public(seed) for name, seed in seeds.items()}

    def member(id, name, key=None, last_day=None):
        return [id, name, keys[key or name], last_day]

    def sign(by, version, members, revoked=(), retired=(), last_day=None, chain=()):
        gone = sorted(keys[name] for name in retired)
        return ref.signed_roster(seeds[by], version, members, revoked, gone, last_day, chain)[0]

    a, b, c, d = member(1, "a"), member(2, "b"), member(3, "c"), member(9, "d", last_day=21_000)
    rotated, chain = member(2, "b", "b again"), [ref.handover(seeds["first"], keys["second"])]
    past = (3,), ("b", "c", "first")
    history = {
        "three enrolled": sign("first", 1, [a, b, c]),
        "one revoked, one enrolled, an expiry": sign("first", 2, [a, b, d], (3,), ("c",), 22_000),
        "a key rotated": sign("first", 5, [a, rotated, d], (3,), ("b", "c")),
        "the authority handed over": sign("second", 6, [a, rotated, d], *past, None, chain),
    }
    kept = {
        "authority": keys["first"],
        "version": 0,
        "digest": b"",
        "keys": {},
        "names": {},
        "revoked": [],
        "retired": [],
    }
    after = []
    for data in history.values():
        kept = ref.next_roster(kept, data, keys["server"])
        after.append(
            {"roster": data, "version": kept["version"], "digest": kept["digest"], "authority": kept["authority"]}
        )
    members = [a, rotated, d]
    shown = {
        "an old version by an old authority": history["a key rotated"],
        "an old version under the new authority": sign("second", 5, members, *past),
        "signed by the authority that handed over": sign("first", 7, members, (3,), ("b", "c")),
        "signed by the server": sign("server", 7, members, *past),
        "signed by the server, handed over by the server": sign(
            "server", 7, members, *past, None, [*chain, ref.handover(seeds["server"], keys["server"])]
        ),
        "a hand-over by somebody else": sign(
            "server", 7, members, *past, None, [["handover", keys["second"], keys["server"], bytes(64)]]
        ),
        "another roster of the same version": sign("second", 6, members[:2], *past),
        "a revoked client under its old id": sign("second", 7, [a, rotated, [3, "c", keys["c"], None], d], (), past[1]),
        "a forgotten revocation": sign("second", 7, members, (), past[1]),
        "a forgotten retired key": sign("second", 7, members, (3,), ("b", "first")),
        "a client dropped without revocation": sign("second", 7, [a, rotated], *past),
        "a key replaced without retiring it": sign("second", 7, [member(1, "a", "server"), rotated, d], *past),
        "a client under another name": sign("second", 7, [member(1, "z", "a"), rotated, d], *past),
        "a retired key enrolled again": sign("second", 7, [*members, member(10, "c")], *past),
        "a revoked id enrolled again": sign("second", 7, [a, rotated, member(3, "c", "server"), d], *past),
        "the server enrolled": sign("second", 7, [*members, member(10, "server")], *past),
        "the authority enrolled": sign("second", 7, [*members, member(10, "second")], *past),
        "an authority replaced without retiring it": sign(
            "a", 7, [rotated, d], (1, 3), past[1], None, [*chain, ref.handover(seeds["second"], keys["a"])]
        ),
        "one byte more": history["the authority handed over"] + b"\0",
    }
    cases = []
    for name, data in shown.items():
        try:
            ref.next_roster(kept, data, keys["server"])
        except ref.Fault as fault:
            cases.append({"name": name, "roster": data, "blames": str(fault.who)})
        else:
            raise AssertionError(f"the slow implementation accepts: {name}")
    return {"pinned": keys["first"], "server": keys["server"], "history": after, "refused": cases}


def hybrid_document():
    """Primitives and one whole hybrid session."""
    kind = hybrid_vectors.session_class(hybrid, Session, bytes_of)
    return {
        "primitives": hybrid_vectors.primitives(hybrid, bytes_of),
        "session": {
            **session(kind),
            "encapsulation": {id: [bytes_of(f"encapsulation {id} {n}") for n in range(1, 11)] for id in kind.ids},
        },
        "complaint": hybrid_vectors.complaint(kind, VALUES),
    }


MAKERS = {
    "primitives.json": primitives,
    "session.json": session,
    "errors.json": errors,
    "rosters.json": rosters,
    "hybrid.json": hybrid_document,
    "transcripts.json": lambda: transcripts.document(ref, bytes_of, Session().plan),
}


def text(name):
    """What the file of that name must hold."""
    return json.dumps(hexed(MAKERS[name]()), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name in MAKERS:
        (FOLDER / name).write_text(text(name))
        sys.stdout.write(f"{name}: {(FOLDER / name).stat().st_size} bytes\n")
