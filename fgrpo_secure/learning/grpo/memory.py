"""How many completions of a step are trained on at once, so that the step's memory stays within bounds.

What a backward pass keeps grows with the tokens that are read and with what each layer makes of a token. The figures
are estimates from the model's own linear layers, on the safe side of what was measured; they decide nothing but memory.
"""

from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo.rollouts import Rollouts

STEP_BYTES = 1 << 30  # what one backward pass may keep, about: small steps go in one
LAYER_COPIES = 2  # of every linear layer's output: its own and what the next function makes of it
LOGIT_COPIES = 4  # the model's, those in float32 over the temperature, their log-softmax and their gradient
FLOAT = 4


def completions_at_once(adapted: AdaptedModel, rollouts: Rollouts) -> int:
    """A number that divides the step's completions into whole groups, or one group into equal pieces."""
    sequences, tokens = rollouts.ids.shape
    prompts, read = rollouts.prompt_ids.shape
    group, each = sequences // prompts, token_bytes(adapted)
    with_prompt = group * tokens + read
    if prompts * with_prompt * each <= STEP_BYTES:
        return sequences
    groups = int(STEP_BYTES // (with_prompt * each))
    if groups >= 1:
        return group * max(count for count in range(1, groups + 1) if prompts % count == 0)
    fitting = int((STEP_BYTES / each - read) // tokens)
    return max(count for count in range(1, max(1, fitting) + 1) if group % count == 0)


def token_bytes(adapted: AdaptedModel) -> int:
    """What one token's pass through the model keeps for its gradient, about."""
    embeddings = adapted.network.get_input_embeddings().weight
    layers = LAYER_COPIES * adapted.linear_outputs * embeddings.element_size()
    return int(layers + LOGIT_COPIES * embeddings.shape[0] * FLOAT)
