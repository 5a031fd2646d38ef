"""A conversation with a run's model: the whole of it is the prompt of each reply."""

from dataclasses import dataclass, field

from fgrpo_secure.config.grpo import Grpo
from fgrpo_secure.learning import models
from fgrpo_secure.learning.adapters import AdaptedModel
from fgrpo_secure.learning.grpo import rollouts
from fgrpo_secure.learning.grpo.draws import Streams
from fgrpo_secure.learning.grpo.prompts import Message, Prompt
from fgrpo_secure.run import released
from fgrpo_secure.storage.run_directory import RunDirectory


@dataclass
class Conversation:
    """Grows with every exchange. A model without a chat template is given each text alone, and continues it."""

    adapted: AdaptedModel
    settings: Grpo
    greedy: bool
    streams: Streams
    said: list[Message] = field(default_factory=list)

    @staticmethod
    def open(
        directory: RunDirectory, model: str | None, tokens: int | None, temperature: float | None
    ) -> "Conversation":
        """With the run's own way of sampling, unless `tokens` of a reply or a `temperature` are given; 0 is greedy."""
        config = released.configuration(directory, model)
        adapted = released.trained(directory, config, models.load(config.model))
        given: dict[str, object] = {"num_generations": 1}
        given |= {} if tokens is None else {"max_completion_length": tokens}
        given |= {} if not temperature else {"temperature": temperature}
        drawn = Streams(config.run.seed)
        return Conversation(adapted, config.grpo.model_copy(update=given), temperature == 0, drawn)

    def reply(self, text: str) -> str:
        """What the model says to `text`. Raises UnusablePrompt, for a conversation that has grown too long, too."""
        asked: Prompt = text
        if self.adapted.base.tokenizer.chat_template:
            self.said.append({"role": "user", "content": text})
            asked = self.said
        if self.greedy:
            made = rollouts.greedy(self.adapted, [asked], self.settings)
        else:
            made = rollouts.sample(self.adapted, [asked], self.settings, self.streams)
        answer = made.completions[0]
        self.said.append({"role": "assistant", "content": answer})
        return answer
