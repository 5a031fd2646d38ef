"""Prompts become tokens as transformers and TRL make them; what cannot be is refused, and nothing of it quoted."""

import inspect

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.learning.grpo import prompts
from fgrpo_secure.learning.grpo.prompts import PromptTooLong, UnknownSymbols, UnusablePrompt

WORDS = ["<s>", "</s>", "<unk>", "[system]", "[user]", "[assistant]", "be", "brief", "two", "and", "PLANTED"]
TEMPLATE = (
    "{{ bos_token }}{% if messages|selectattr('role', 'equalto', 'system')|list|length > 1 %}"
    "{{ raise_exception('two system messages') }}{% endif %}{% for m in messages %}"
    "{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no role ' + m.role) }}{% endif %}"
    " [{{ m.role }}] {{ m.content }}{% endfor %}"
    "{% if loud %} brief{% endif %}{% if add_generation_prompt %} [assistant]{% endif %}"
)
SYSTEM = {"role": "system", "content": "be"}
USER = [{"role": "user", "content": "two and two"}]


@pytest.fixture
def tokenizer():
    """Words, with a begin-of-sequence token that it puts before every text by itself, as Llama's does."""
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = TEMPLATE
    return made


def words(tokenizer, prompt, **settings):
    return [WORDS[index] for index in prompts.token_ids(tokenizer, prompt, Grpo(**settings))]


@pytest.mark.parametrize(
    ("prompt", "settings", "expected"),
    [
        ("two and two", {}, "<s> two and two"),
        ("<s> two and two", {}, "<s> two and two"),  # rendered before
        ("two", {"prompts": "chat"}, "<s> [user] two [assistant]"),
        (USER, {}, "<s> [user] two and two [assistant]"),
        (USER, {"system_prompt": "be brief"}, "<s> [system] be brief [user] two and two [assistant]"),
        ("two", {"prompts": "chat", "system_prompt": "be"}, "<s> [system] be [user] two [assistant]"),
        ([SYSTEM, *USER], {"system_prompt": "brief"}, "<s> [system] be [user] two and two [assistant]"),
        ([*USER, {"role": "assistant", "content": "two"}], {}, "<s> [user] two and two [assistant] two"),
        (USER, {"chat_template_kwargs": {"loud": True}}, "<s> [user] two and two brief [assistant]"),
    ],
)  # fmt: skip
def test_a_prompt_is_read_as_its_template_writes_it_with_one_begin_token(tokenizer, prompt, settings, expected):
    assert words(tokenizer, prompt, **settings) == expected.split()


def test_messages_become_the_librarys_own_tokens(tokenizer):
    theirs = tokenizer.apply_chat_template(USER, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert prompts.token_ids(tokenizer, USER, Grpo()) == theirs["input_ids"]


@pytest.mark.parametrize(
    ("prompt", "settings", "kind", "sentence"),
    [
        ("two PLANTED ten", {}, UnknownSymbols, "prompt 2 holds 1 symbols that the model's tokenizer has no token for"),
        ("PLANTED " * 30, {}, PromptTooLong, "31 tokens and 8 new ones do not fit the model's context of 16"),
        ([{"role": "PLANTED", "content": "two"}], {}, UnusablePrompt, "template refuses a prompt: TemplateError"),
        ([SYSTEM, SYSTEM], {}, UnusablePrompt, "template refuses a prompt: two system messages"),
        ("PLANTED", {"system_prompt": "be"}, UnusablePrompt, "would miss: set grpo.prompts = 'chat'"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_read_is_refused_before_a_round(tokenizer, prompt, settings, kind, sentence):
    asked = [prompt if settings else "two", prompt]
    with pytest.raises(kind) as refusal:
        prompts.check(tokenizer, asked, Grpo(**settings), 16)
    assert sentence in str(refusal.value)
    assert "PLANTED" not in str(refusal.value)


@pytest.mark.parametrize("form", [str, lambda text: [{"role": "user", "content": text}]])
def test_a_prompt_that_no_context_holds_is_refused_before_it_costs_time_or_memory(form):
    """No tokenizer meets it: for some millions of characters one takes seconds and gigabytes."""
    with pytest.raises(PromptTooLong, match="a prompt of 100,000 characters does not fit the model's context of 16"):
        prompts.check(None, [form("9" * 99_996 + "user" if form is str else "9" * 99_996)], Grpo(), 16)
    with pytest.raises(PromptTooLong, match="context of 2000 tokens"):
        prompts.check_size(form("9" * 130_000), 2000)
    prompts.check_size(form("9" * 120_000), 2000)


def test_messages_need_a_chat_template_and_a_template_that_fails_is_named_without_the_message(tokenizer):
    tokenizer.chat_template = "{{ messages[0].content + 1 }}"
    with pytest.raises(UnusablePrompt, match="refuses a prompt: TypeError") as refusal:
        prompts.token_ids(tokenizer, [{"role": "user", "content": "PLANTED"}], Grpo())
    assert "PLANTED" not in str(refusal.value)
    tokenizer.chat_template = None
    with pytest.raises(UnusablePrompt, match="no chat template"):
        prompts.token_ids(tokenizer, USER, Grpo())


def test_a_prompt_without_tokens_is_refused(tokenizer):
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(UnusablePrompt, match="has no tokens"):
        prompts.token_ids(tokenizer, " ", Grpo())


LIBRARYS = sorted(
    (set(inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters) - {"kwargs"})
    | set(PreTrainedTokenizerFast.SPECIAL_TOKENS_ATTRIBUTES)
    | {"messages", "image_token"}
)
TOO_MUCH = [
    {"loud": "x" * 257},
    {"loud": 10**30},
    {"loud": -1e300},
    {"not a name": True},
    {"n" * 65: True},
    {f"v{number}": True for number in range(17)},
]


@pytest.mark.parametrize("given", [*({name: "two"} for name in LIBRARYS), *TOO_MUCH], ids=lambda given: min(given)[:9])
def test_a_run_sets_variables_of_the_pinned_template_and_replaces_nothing(given):
    with pytest.raises(ValidationError, match="chat_template_kwargs"):
        Grpo(chat_template_kwargs=given)


def test_a_parameter_that_another_version_of_the_library_adds_is_no_variable_either(tokenizer, monkeypatch):
    theirs = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *given, loud=False, **more: theirs(*given, **more))
    with pytest.raises(UnusablePrompt, match="'loud' is the library's"):
        words(tokenizer, USER, chat_template_kwargs={"loud": True})
