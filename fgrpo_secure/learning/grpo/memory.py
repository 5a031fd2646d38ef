"""How many completions of a step are trained on at once, so that the step's memory stays within bounds.

What a backward pass keeps grows with the tokens that are read and with what each layer makes of a token. The figures
are estimates from the model's own linear layers, on the safe side of what was measured; they decide nothing but memory.
"""

from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo.forward import recomputable
from fgrpo_secure.learning.grpo.rollouts import Rollouts

STEP_BYTES = 1 << 30  # what one backward pass may keep, about: small steps go in one
LAYER_COPIES = 2  # of every linear layer's output: its own and what the next function makes of it
LOGIT_COPIES = 4  # the model's, those in float32 over the temperature, their log-softmax and their gradient
KEPT_LOGITS = 4  # each row's, all in one, their gradient and its pieces: the rest is computed piece by piece
FLOAT = 4


def completions_at_once(adapted: AdaptedModel, rollouts: Rollouts) -> int:
    """A number that divides the step's completions into whole groups, or one group into equal pieces."""
    sequences, tokens = rollouts.ids.shape
    prompts, read = rollouts.prompt_ids.shape
    group, each, again = sequences // prompts, token_bytes(adapted), adapted.base.settings.gradient_checkpointing
    whole = [group * count for count in range(1, prompts + 1) if prompts % count == 0]
    sizes = [*(count for count in range(1, group) if group % count == 0), *whole]

    def fits(size: int) -> bool:
        # What is computed twice is read without a cache: the prompt once for each completion.
        of_prompts = size if again else -(-size // group)
        return (size * tokens + of_prompts * read) * each <= STEP_BYTES

    return max((size for size in sizes if fits(size)), default=1)


def token_bytes(adapted: AdaptedModel) -> int:
    """What one token's pass through the model keeps for its gradient, about."""
    embeddings = adapted.network.get_input_embeddings().weight
    layers, words = LAYER_COPIES * adapted.linear_outputs * embeddings.element_size(), embeddings.shape[0] * FLOAT
    if not adapted.base.settings.gradient_checkpointing:
        return int(layers + LOGIT_COPIES * words)
    count = len(recomputable(adapted.network))  # each layer's input, and what one of them keeps while it is computed
    return int(count * embeddings.shape[1] * embeddings.element_size() + layers / count + KEPT_LOGITS * words)
