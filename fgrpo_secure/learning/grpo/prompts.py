"""From an owner's prompts to tokens: strings as they stand, lists of messages by the tokenizer's own chat template.

    row's prompt --conversation--> string or messages --token_ids--> tokens, one begin-of-sequence at most

Which of them a prompt is follows from that prompt alone. Nothing here quotes a prompt: errors say what is wrong with
how it is built, and how many tokens it has.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, TypeAlias

from jinja2 import TemplateError

from fgrpo_secure.config.schema import Grpo
from fgrpo_secure.errors import UnusableInput

ROLES = ("system", "user", "assistant", "tool")
LONGEST_TOKENS = 64  # characters of a token, on average over a whole prompt: of no language as many
SHORTEST_LIMIT = 1 << 16  # characters that are made into tokens whatever the context: it takes no time

Message: TypeAlias = dict[str, Any]
Prompt: TypeAlias = str | list[Message]


class UnusablePrompt(UnusableInput):
    """A prompt cannot be made into tokens; the sentence quotes nothing of it."""


class PromptTooLong(UnusablePrompt):
    """A prompt leaves no room for its completion in the model's context."""


class UnknownSymbols(UnusablePrompt):
    """A prompt holds something that the tokenizer has no token for: the model would not see it."""


def conversation(prompt: Prompt, settings: Grpo) -> Prompt:
    """The prompt as the model gets it: a string stays one unless `settings.prompts` is "chat"; messages begin with
    the run's system prompt, unless they bring one. Raises UnusablePrompt."""
    if isinstance(prompt, str):
        if settings.prompts == "as_given":
            if settings.system_prompt is not None:
                raise UnusablePrompt(
                    "a prompt is a string, which grpo.system_prompt would miss: set grpo.prompts = 'chat'"
                )
            return prompt
        prompt = [{"role": "user", "content": prompt}]
    if settings.system_prompt is None or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": settings.system_prompt}, *prompt]


def token_ids(tokenizer: Any, prompt: Prompt, settings: Grpo) -> list[int]:
    """What the model reads before a completion begins. Raises UnusablePrompt."""
    said = conversation(prompt, settings)
    ids = tokenizer(said)["input_ids"] if isinstance(said, str) else _rendered(tokenizer, said, settings)
    begin = tokenizer.bos_token_id
    if begin is not None and ids[:2] == [begin, begin]:
        ids = ids[1:]  # a string that was rendered before brings its own, and the tokenizer adds another
    if not ids:
        raise UnusablePrompt("a prompt has no tokens: the model needs one to begin from")
    return list(ids)


def check(tokenizer: Any, prompts: Sequence[Prompt], settings: Grpo, context_length: int) -> None:
    """Raises UnusablePrompt for the first prompt that is too long, or holds what the tokenizer has no token for."""
    for number, prompt in enumerate(prompts, start=1):
        check_size(prompt, context_length)
        ids = token_ids(tokenizer, prompt, settings)
        check_length(len(ids), settings.max_completion_length, context_length)
        unknown = tokenizer.unk_token_id
        # A string may name the unknown token itself; some tokenizers use it for padding or for the end as well.
        if unknown is not None and unknown in ids and unknown not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
            raise UnknownSymbols(
                f"prompt {number} holds {ids.count(unknown)} symbols that the model's tokenizer has no token for; "
                "write them another way, leave that row out, or take a model that knows them"
            )


def check_size(prompt: Prompt, context_length: int) -> None:
    """Raises PromptTooLong for a prompt that fits no context of `context_length` tokens, by its characters alone.

    **Why** A tokenizer takes seconds and gigabytes for some millions of them: one unit's prompt would cost all others
    of its client their round.
    """
    texts = [prompt] if isinstance(prompt, str) else [str(value) for said in prompt for value in said.values()]
    characters, most = sum(map(len, texts)), max(SHORTEST_LIMIT, LONGEST_TOKENS * context_length)
    if characters > most:
        raise PromptTooLong(
            f"a prompt of {characters:,} characters does not fit the model's context of {context_length} tokens"
        )


def check_length(length: int, max_new_tokens: int, context_length: int) -> None:
    """Raises PromptTooLong if a prompt of `length` tokens and its completion do not fit the model's context."""
    if length + max_new_tokens > context_length:
        raise PromptTooLong(
            f"a prompt of {length} tokens and {max_new_tokens} new ones do not fit the model's context of "
            f"{context_length}"
        )


def _rendered(tokenizer: Any, messages: Sequence[Message], settings: Grpo) -> list[int]:
    """As TRL renders them: an assistant's turn is opened; where the last message is one, it is gone on with."""
    if not tokenizer.chat_template:
        raise UnusablePrompt(
            "prompts are lists of messages, but the model's tokenizer has no chat template; give its folder one "
            "(chat_template.jinja), or write prompts as strings"
        )
    taken = signature(tokenizer.apply_chat_template).parameters.keys() & settings.chat_template_kwargs.keys()
    if taken:  # by this version of the library, or this tokenizer: the table's own rule knows only the tested one's
        raise UnusablePrompt(f"grpo.chat_template_kwargs: {min(taken)!r} is the library's, and no template's variable")
    goes_on = messages[-1]["role"] == "assistant"

    def render() -> str:
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            **settings.chat_template_kwargs,
        )
        return text

    # A template writes special tokens itself: the tokenizer adds none.
    ids: list[int] = tokenizer(_tried(render, messages), add_special_tokens=False)["input_ids"]
    return ids


def _tried(render: Callable[[], str], messages: Sequence[Message]) -> str:
    try:
        return render()
    except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as problem:
        raise UnusablePrompt(f"the tokenizer's chat template refuses a prompt: {_reason(problem, messages)}") from None


def _reason(problem: Exception, messages: Sequence[Message]) -> str:
    """What a template says by itself ("roles must alternate"), unless it repeats something of the messages."""
    lines = str(problem).splitlines()
    said = {str(value) for message in messages for value in message.values()} - set(ROLES)
    quoted = not lines or any(each in lines[0] for each in said)
    return lines[0] if isinstance(problem, TemplateError) and not quoted else type(problem).__name__
