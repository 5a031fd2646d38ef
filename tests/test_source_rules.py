"""Rules that hold for every line of the shipped packages, and proof that each rule catches what it names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [name for name in ("fgrpo_secure", "protocols", "threat_model") if (ROOT / name).is_dir()]
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ENTROPY = ROOT / "fgrpo_secure" / "entropy.py"
# A data owner's data and rewards may raise anything, and none of it may show: it becomes a zero update in full noise.
RUNS_FOREIGN_CODE = {
    "fgrpo_secure/learning/grpo/reward_call.py": {"except BaseException"},
    "fgrpo_secure/learning/trainers/trainer_worker.py": {"except BaseException"},
    "fgrpo_secure/client/boundary.py": {"except BaseException"},
}

# Unpickling runs the sender's code; multiprocessing pickles whatever it passes.
PICKLING = (
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "multiprocessing",
    "torch.save",
)
CLOCKS = (
    "time",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
    "datetime.datetime.today",
    "datetime.date.today",
)
GENERATORS = (
    "os.urandom",
    "os.getrandom",
    "secrets",
    "random",
    "uuid.uuid1",
    "uuid.uuid4",
    "numpy.random",
    "nacl.utils.random",
    "nacl.bindings.randombytes",
    "ssl.RAND_bytes",
    "torch.manual_seed",
    "torch.seed",
    "torch.random",
    "torch.default_generator",
)
KEY_LIBRARIES = ("cryptography", "nacl")
KEY_MAKERS = (
    "generate",
    "generate_key",
    "generate_private_key",
)  # they ask the operating system behind our back
# OpenSSL's own generator: an ML-KEM encapsulation takes no randomness from outside. Nothing else may use it.
OPENSSL_DRAWS = {"protocols/kem.py": {"encapsulate drawn by a library"}}
SAMPLERS = (
    "rand",
    "randn",
    "randint",
    "randperm",
    "normal",
    "multinomial",
    "bernoulli",
    "rand_like",
    "randn_like",
)
SAMPLING_METHODS = ("normal_", "uniform_", "bernoulli_", "exponential_", "random_", "multinomial", "rvs")


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for, from every import of a file, wherever it is."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                names[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def full_name(node: ast.expr, names: dict[str, str]) -> str | None:
    """`np.random.default_rng` as `numpy.random.default_rng`; None for what was not imported."""
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, names)
        return None if owner is None else f"{owner}.{node.attr}"
    return names.get(node.id) if isinstance(node, ast.Name) else None


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported thing and every use of one: (line, full name)."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            yield from ((node.lineno, origin + alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute | ast.Name) and (name := full_name(node, names)):
            yield node.lineno, name


def matches(name: str, banned: tuple[str, ...]) -> bool:
    return any(name == entry or name.startswith(entry + ".") for entry in banned)


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, set[str]]]:
    """Every call: (node, full name or bare method name, keywords given)."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            bare = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield node, full_name(node.func, names) or bare, given


def ambient(source: str) -> set[str]:
    """Randomness or time that a piece of code takes from its surroundings instead of from its arguments."""
    tree = ast.parse(source)
    found = {name for _, name in uses(tree) if matches(name, CLOCKS + GENERATORS)}
    for node, name, given in calls(tree):
        library, _, last = name.partition(".")[0], *name.rpartition(".")[1:]
        if library in KEY_LIBRARIES and last in KEY_MAKERS:
            found.add(name)
        if last == "encapsulate" and not node.args and not given:
            found.add("encapsulate drawn by a library")
        if "generator" not in given and ((library == "torch" and last in SAMPLERS) or last in SAMPLING_METHODS):
            found.add(f"{name} without generator=")
    return found


def dangerous(keyword: ast.keyword) -> bool:
    """An option that runs foreign code, unless it is spelt out as False."""
    off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    return keyword.arg in ("allow_pickle", "trust_remote_code") and not off


def unsafe(source: str) -> set[str]:
    """Code that could run a peer's bytes, or swallow an error nobody thought of."""
    tree = ast.parse(source)
    found = {name for _, name in uses(tree) if matches(name, PICKLING)}
    for node, name, given in calls(tree):
        if isinstance(node.func, ast.Name) and name in ("eval", "exec", "__import__"):
            found.add(name)
        if name == "torch.load" and "weights_only" not in given:
            found.add("torch.load without weights_only=")
        found |= {f"{keyword.arg} is not False" for keyword in node.keywords if dangerous(keyword)}
    return found | {
        text for handler in ast.walk(tree) if isinstance(handler, ast.ExceptHandler) for text in blind(handler)
    }


def blind(handler: ast.ExceptHandler) -> set[str]:
    """What a handler catches unseen; BaseException may be caught to undo something and raise again."""
    if handler.type is None:
        return {"bare except"}
    last = handler.body[-1]
    allowed = {"BaseException"} if isinstance(last, ast.Raise) and last.exc is None else set()
    caught = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return {f"except {name}" for name in (caught & {"Exception", "BaseException"}) - allowed}


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [path for path in SOURCES if path != ENTROPY], ids=ids)
def test_randomness_and_time_are_arguments_everywhere_but_in_entropy(path: Path) -> None:
    assert ambient(path.read_text("utf-8")) == OPENSSL_DRAWS.get(ids(path), set())


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_nothing_can_run_a_peers_bytes_or_swallow_an_unforeseen_error(path: Path) -> None:
    assert unsafe(path.read_text("utf-8")) == RUNS_FOREIGN_CODE.get(ids(path), set())


@pytest.mark.parametrize(
    "source",
    [
        "import os\nkey = os.urandom(32)",
        "from os import urandom as u\nkey = u(32)",
        "import secrets",
        "import random",
        "from time import perf_counter",
        "import time as clock\nnow = clock.time()",
        "from datetime import datetime, UTC\nnow = datetime.now(UTC)",
        "import datetime\nnow = datetime.datetime.utcnow()",
        "import numpy as np\nrng = np.random.default_rng()",
        "from numpy.random import default_rng",
        "import torch\ntorch.manual_seed(0)",
        "import torch\nx = torch.randn(3)",
        "import torch\nx = torch.empty(3).normal_()",
        "from cryptography.hazmat.primitives.asymmetric import x25519\nx25519.X25519PrivateKey.generate()",
        "from nacl.signing import SigningKey\nkey = SigningKey.generate()",
        "def f():\n    from uuid import uuid4\n    return uuid4()",
        "import nacl.bindings\nkey = nacl.bindings.randombytes(32)",
        "import ssl\nkey = ssl.RAND_bytes(32)",
        "from scipy.stats import norm\nnoise = norm.rvs(size=3)",
        "from somewhere import PublicKey\nsecret, sent = PublicKey.read(data).encapsulate()",
    ],
)
def test_the_entropy_rule_catches(source: str) -> None:
    assert ambient(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ndef f(g: torch.Generator): return torch.rand(3, generator=g)",
        "import torch\ng = torch.Generator().manual_seed(3)",
        "from datetime import UTC, datetime\ndef f(x: datetime): return x.isoformat()",
        "def f(time, entropy): return time + entropy.bytes(32)",
    ],
)
def test_the_entropy_rule_lets_pass(source: str) -> None:
    assert ambient(source) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from multiprocessing import Queue",
        "import torch\ntorch.save(x, 'f')",
        "import torch\ntorch.load('f')",
        "import numpy as np\nnp.load('f', allow_pickle=True)",
        "m = AutoModel.from_pretrained('f', trust_remote_code=flag)",
        "eval('1')",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    pass",
        "try:\n    f()\nexcept Exception:\n    raise",
        "try:\n    f()\nexcept:\n    raise",
    ],
)
def test_the_safety_rule_catches(source: str) -> None:
    assert unsafe(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nx = torch.load('f', weights_only=True)",
        "model.eval()",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "try:\n    f()\nexcept BaseException:\n    rollback()\n    raise",
    ],
)
def test_the_safety_rule_lets_pass(source: str) -> None:
    assert unsafe(source) == set()
