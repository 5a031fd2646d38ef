"""The engine as the protocol's link: counts answers, notes that masks are asked for, and knows each step's deadline."""

from collections.abc import Callable, Iterator, Mapping

from fgrpo_secure import entropy
from fgrpo_secure.config.schema import Config
from fgrpo_secure.server.engine import Engine
from protocols.wire import Step

OnAnswer = Callable[[str, int, int], None]


class CountingLink:
    """One session's steps. `on_answer` hears how far a step is; `before_masks` is called before anybody is asked."""

    def __init__(
        self,
        engine: Engine,
        on_answer: OnAnswer,
        before_masks: Callable[[], None],
        config: Config,
    ) -> None:
        self._engine = engine
        self._on_answer = on_answer
        self._before_masks = before_masks
        self._config = config
        self.asked = False
        self.seconds_inside = 0.0  # processor time that is not the server's: hosts may live in this process

    def exchange(self, step: Step, outgoing: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """See `protocols.drive.Link`."""
        total, done = len(outgoing), 0
        if step is Step.MASK:
            self.asked = True
            self._before_masks()
        self._on_answer(step.value, 0, total)
        answers = iter(self._engine.exchange(step.value, outgoing, self._seconds(step)))
        while True:
            entered = entropy.processor_time()
            answer = next(answers, None)
            self.seconds_inside += entropy.processor_time() - entered
            if answer is None:
                return
            done += 1
            self._on_answer(step.value, done, total)
            yield answer

    def _seconds(self, step: Step) -> float:
        """Clients train before they announce themselves: that step ends after the training deadline."""
        training = self._config.training_deadline or 0 if step is Step.ANNOUNCE else 0
        return training + self._config.federation.step_seconds
