"""What an owner reads before it agrees names what the run does to its rows."""

from fgrpo_secure.client import offer_in_words
from fgrpo_secure.config.grpo import Grpo


def test_an_owner_reads_which_variables_the_run_sets_of_its_models_template():
    said = offer_in_words.variables(Grpo(chat_template_kwargs={"enable_thinking": False, "style": "brief"}))
    assert said == "the run gives the model's own chat template enable_thinking = False, style = 'brief'"
