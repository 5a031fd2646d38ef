"""How a client samples and learns: the table [grpo]. Names and semantics are TRL's, where TRL has them.

It travels in every round's signed plan: prompts, rollouts and gradients of all clients follow one table.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from fgrpo_secure.config.section import Count, Fraction01, Positive, Section

OF_THE_LIBRARY = (  # parameters of apply_chat_template, and what it gives every template itself
    "self", "conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length",
    "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "raise_exception",
    "strftime_now",
)  # fmt: skip
MOST_VARIABLES, LONGEST_VARIABLE, LARGEST_VARIABLE = 16, 256, 1_000_000
VARIABLES = (
    f"at most {MOST_VARIABLES} variables of the model's own template: names of at most 64 letters, texts of at most "
    f"{LONGEST_VARIABLE} characters, numbers up to {LARGEST_VARIABLE:,}"
)


class Grpo(Section):
    """A client's sampling and training in a round. Names and meaning are TRL's, where TRL has them."""

    of_several_lines: ClassVar[frozenset[str]] = frozenset({"stop", "system_prompt"})

    num_generations: Annotated[int, Field(ge=2, le=1_000_000_000)] = Field(
        8, description="completions of each prompt: its group"
    )
    prompts_per_step: Count = Field(
        4, description="prompts of a client in one step; of one subject, or one prompt group, where these are the unit"
    )
    loss_type: Literal["grpo", "dr_grpo", "bnpo", "dapo"] = Field(
        "dr_grpo", description="what a sum over tokens is divided by: each completion's length, a constant, all tokens"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="whose standard deviation divides advantages"
    )
    epsilon: Positive = Field(0.2, description="clip of the probability ratio; not the privacy budget")
    epsilon_high: Positive | None = Field(None, description="upper clip of the ratio; default: epsilon")
    beta: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of the KL to the model that the run started from: the base, or adapter.init_from on it"
    )
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token", description="whether a ratio belongs to a token or to a whole completion"
    )
    num_iterations: Count = Field(1, description="updates on the same completions")
    learning_rate: Positive = Field(4e-3, description="of the client's optimiser")
    optimizer: Literal["adam", "sgd"] = Field(
        "adam", description="of the client; it forgets between rounds, but for a client's keep_optimizer"
    )
    max_grad_norm: Positive | None = Field(1.0, description="limit of each step's gradient; it protects nobody")
    max_completion_length: Count = Field(8, description="tokens")
    temperature: Positive = Field(1.0, description="of sampling")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="completions are drawn from the likeliest tokens that hold this much probability"
    )
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="samples among so many likeliest tokens; 0: among all")
    min_p: Fraction01 | None = Field(
        None, description="samples among tokens of at least this share of the likeliest one's probability"
    )
    repetition_penalty: Positive = Field(1.0, description="above 1, tokens that were there before become less likely")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="a completion ends with any of these strings, as with an end token"
    )
    prompts: Literal["as_given", "chat"] = Field(
        "as_given",
        description="'as_given': strings as they stand, lists of messages by the tokenizer's chat template; 'chat': a "
        "string is a user's message, too",
    )
    system_prompt: str | None = Field(None, description="first message of those prompts that bring no system message")
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="what the chat template takes besides, such as enable_thinking"
    )
    mask_truncated_completions: bool = Field(False, description="leave completions without an end out of the loss")
    use_bias_correction_kl: bool = Field(True, description="weigh the KL by the probability ratio")

    @field_validator("chat_template_kwargs")
    @classmethod
    def variables_of_a_template(cls, given: dict[str, bool | int | float | str]) -> dict[str, bool | int | float | str]:
        """**Why** The server writes this table, and each owner's rows go through the template: one of the server's own
        in the pinned one's place would select parts of rows, or run for ever."""
        for name, value in given.items():
            if name in OF_THE_LIBRARY or name.endswith(("_token", "_tokens")):
                raise ValueError(f"'{name}' is no variable of a chat template, but the library's; remove it")
            size = len(value) if isinstance(value, str) else abs(value)
            most = LONGEST_VARIABLE if isinstance(value, str) else LARGEST_VARIABLE
            if not (name.isidentifier() and len(name) <= 64 and size <= most):
                raise ValueError(f"it may hold {VARIABLES}")
        if len(given) > MOST_VARIABLES:
            raise ValueError(f"it may hold {VARIABLES}")
        return given
