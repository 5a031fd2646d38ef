"""Small random models of three families with a tokenizer of single characters; small federations that are watched."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fgrpo_secure import entropy
from fgrpo_secure.client import round as client_round
from fgrpo_secure.client.owner import Owner
from fgrpo_secure.client.participant import Participant
from fgrpo_secure.config import files as config_file
from fgrpo_secure.config.schema import Adapter, Model
from fgrpo_secure.engines import enrolment
from fgrpo_secure.engines.embedded import Embedded
from fgrpo_secure.engines.faults import struck
from fgrpo_secure.learning import adapters, models
from fgrpo_secure.run import training
from fgrpo_secure.server.federation import Federation
from fgrpo_secure.storage.run_directory import RunDirectory

CHARACTERS = "0123456789+-=ab "
CONTEXT = 48
SHAPE: dict[str, Any] = {
    "vocab_size": len(CHARACTERS) + 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.5,  # far from uniform, so that differences show
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
TARGETS = {"llama": ("o_proj", "down_proj"), "qwen2": ("q_proj", "v_proj"), "gpt2": ("c_attn", "c_proj")}


def make_tokenizer():
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<eos>", *CHARACTERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def make_network(family):
    torch.manual_seed(5)
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**SHAPE))
    sizes: dict[str, Any] = {"intermediate_size": 24, "num_key_value_heads": 1}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE, **sizes, tie_word_embeddings=True))
    # The library gives every Qwen2 tokenizer an end token of its own beside the one that was saved.
    return Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"vocab_size": SHAPE["vocab_size"] + 1}, **sizes))


def save_model(folder, family):
    make_network(family).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: str(save_model(root / family, family)) for family in TARGETS}


@pytest.fixture
def make_adapted(model_folders):
    """A policy on a freshly loaded model, its factors moved away from the start unless `moved` is 0."""

    def make(family="llama", factors="full", moved=0.3, **settings):
        base = models.load(Model(path=model_folders[family]))
        settings = {"targets": TARGETS[family], "factors": factors} | settings
        adapted = adapters.attach(base, Adapter(**settings), seed=3)
        random = torch.Generator().manual_seed(11)
        state = adapted.full_state()
        for tensor in state.values():
            tensor += moved * torch.randn(tensor.shape, generator=random)
        adapted.load_full_state(state)
        return adapted

    return make


@pytest.fixture(params=sorted(TARGETS))
def family(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# ------------------------------------------------------------------------------------------------- whole federations

TASKS = ("add", "sub", "mul", "sort", "rev", "cnt", "mod", "minmax")
SMALL = "".join(f'[[client]]\nname = "{task}"\ntask = "{task}"\n' for task in TASKS) + (
    '[run]\nentropy = "seeded"\n[adapter]\nrank = 1\n[federation]\nrounds = 2\n'
    "[grpo]\nnum_generations = 4\nprompts_per_step = 2\n[evaluation]\nprompts = 4\nsamples = 1\nevery = 0\n"
    '[privacy]\nepsilon = 60.0\nreserved_sessions = 0\n[aggregation]\nadversary = "lying_server"\nmax_dropout = 0.25\n'
)


@dataclass
class LearnedThere:
    """What a client's data came to in one session, as it went into its vector."""

    update: Any = field(repr=False)
    gain: float = field(repr=False)
    weight: float = field(repr=False)
    baseline: Any = field(repr=False)


@dataclass
class Session:
    """What one session did inside its clients, by client, and on the wire, by (step, client)."""

    learned: dict[int, Any] = field(default_factory=dict)
    encoded: dict[int, Any] = field(default_factory=dict)
    noised: dict[int, Any] = field(default_factory=dict)
    down: dict[tuple[str, int], bytes] = field(default_factory=dict)
    up: dict[tuple[str, int], bytes] = field(default_factory=dict)
    refusals: dict[int, str] = field(default_factory=dict)
    result: Any = None

    @property
    def messages(self):
        return [*self.down.values(), *self.up.values()]

    @property
    def total(self):
        """Update and scores of the recovered sum, in one vector."""
        return np.concatenate([self.result.recovered.totals[name] for name in ("update", "scores")])


def watched(original, watching):
    return lambda *arguments: watching(original, *arguments)


class Trial(training.Observer):
    """Small federations in this process, whose every stage and message is written down in `sessions`.

    `lost` maps a step to clients that are gone from then on. Observes a run, too: `lines` is what a user would see.
    """

    text = SMALL

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.sessions: list[Session] = []
        self.lines: list[str] = []
        self.lost: dict[str, set[int]] = {}
        self.gone: set[int] = set()
        self.engines: list[Embedded] = []
        self._owner = -1
        for place, name, watching in (
            (Federation, "conduct", self._conduct),
            (Embedded, "exchange", self._exchange),
            (Participant, "_contribution", self._contribution),
            (client_round, "_weigh", self._weigh),
            (client_round, "_noised", self._noised),
        ):
            monkeypatch.setattr(place, name, watched(getattr(place, name), watching))

    def configure(self, *overrides, text=SMALL, name="run"):
        path = self.folder / f"{name}.toml"
        path.write_text(text)
        return config_file.load(str(path), overrides), RunDirectory(self.folder / name)

    def run(self, *overrides, **where):
        """A whole run, from the start; gives its directory."""
        config, directory = self.configure(*overrides, **where)
        training.start(config, directory, self)
        return directory

    def federation(self, *overrides, **where):
        """A federation that is ready for its first round, with no check of its data before."""
        config, directory = self.configure(*overrides, **where)
        directory = directory.with_owners(config.engine.owners)
        base = models.load(config.model)
        adapted = adapters.attach(base, config.adapter, config.run.seed)
        directory.create(config_file.dump(config))
        source = entropy.from_kind(config.run.entropy, config.run.seed)
        enrolment.enrol(directory, config, base, adapted, source.child("enrolment"))
        self.engines.append(Embedded.start(directory, config))
        return Federation.open(config, directory, base, adapted, struck(self.engines[-1], config))

    def restart(self, federation):
        """The federation's engine again, after its owners' files were edited."""
        self.engines.pop().close()
        self.engines.append(Embedded.start(federation.directory, federation.config))
        federation.engine = self.engines[-1]

    def conduct(self, federation, training_round=0, lost=None):
        """One session; gives its record."""
        self.lost = lost or {}
        federation.conduct(training_round, lambda *_: None)
        return self.sessions[-1]

    def say(self, line):
        self.lines.append(line)

    def _conduct(self, original, federation, *arguments):
        self.sessions.append(Session())
        self.gone = set()
        try:
            self.sessions[-1].result = original(federation, *arguments)
            return self.sessions[-1].result
        finally:
            self.sessions[-1].refusals = dict(federation.engine.refusals)

    def _exchange(self, original, engine, step, outgoing, seconds):
        session = self.sessions[-1]
        self.gone |= self.lost.get(step, set())
        reached = {client: outgoing[client] for client in outgoing if client not in self.gone}
        session.down |= {(step, client): message for client, message in reached.items()}
        for client, message in original(engine, step, reached, seconds):
            session.up[step, client] = message
            yield client, message

    def _contribution(self, original, participant, plan):
        self._owner = participant._owner.id
        return original(participant, plan)

    def _weigh(self, original, learned, *rest):
        weighed, hidden = original(learned, *rest)
        seen = LearnedThere(learned.update, weighed.gain, weighed.weight, weighed.baseline)
        self.sessions[-1].learned[self._owner] = seen
        return weighed, hidden

    def _noised(self, original, encoded, *rest):
        noised = original(encoded, *rest)
        self.sessions[-1].encoded[self._owner] = encoded
        self.sessions[-1].noised[self._owner] = noised
        return noised


@pytest.fixture
def trial(tmp_path, monkeypatch):
    made = Trial(tmp_path, monkeypatch)
    yield made
    for engine in made.engines:
        engine.close()


@pytest.fixture(scope="session")
def make_trial():
    """The class itself, for fixtures that live longer than one test."""
    return Trial


@pytest.fixture(scope="session")
def small():
    """The configuration that `trial` runs unless it is told otherwise, and the names of its eight clients."""
    return SMALL, TASKS


@pytest.fixture
def trains_once(monkeypatch):
    """What an owner learned in its first round serves it for all: these tests are about what happens to it after."""
    original, learned = Owner.train, {}

    def train(owner, *arguments):
        if owner.id not in learned:
            learned[owner.id] = original(owner, *arguments)
        return learned[owner.id]

    monkeypatch.setattr(Owner, "train", train)
