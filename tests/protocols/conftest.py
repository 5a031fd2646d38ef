"""The enrolled clients and their server, links that misbehave, the slow second implementation."""

import importlib.util
import json
from pathlib import Path

import pytest

from fgrpo_secure.shared_verifier import SharedVerifier
from protocols.transcript import Recorder
from protocols.wire import Step
from threat_model import world
from threat_model.world import Wire

TESTS = Path(__file__).parent.parent


def build_world(*given, ring_bits=20, **fields):
    """The world of the attacks, in which each distinct signature is checked once: it is the same for every client."""
    return world.build(*given, ring_bits=ring_bits, verify=SharedVerifier(), **fields)


@pytest.fixture
def make_world():
    return build_world


@pytest.fixture
def make_link():
    return Wire


def load_module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def vector_maker():
    return load_module("reference_make_vectors", TESTS / "reference" / "make_vectors.py")


@pytest.fixture(scope="session")
def reference(vector_maker):
    return vector_maker.ref


@pytest.fixture(scope="session")
def vectors():
    return {path.stem: json.loads(path.read_text()) for path in (TESTS / "vectors").glob("*.json")}


@pytest.fixture
def steps():
    return tuple(Step)


@pytest.fixture(scope="session")
def replay():
    """See replay.py."""
    return load_module("replay", Path(__file__).parent / "replay.py")


@pytest.fixture(scope="session")
def liars():
    """See liars.py."""
    return load_module("liars", Path(__file__).parent / "liars.py")


@pytest.fixture(scope="session")
def shared_sessions():
    """(world, transcript of its session, transcript of the round before): honest clients, one lost when masking."""
    found = []
    for number in (1, 2):
        made, recorder = build_world(7, session_number=number), Recorder()
        made.run(Wire(made, {Step.MASK: {made.ids[2]}}), record=recorder)
        found.append(recorder.transcript.entries)
    return made, found[1], found[0]
