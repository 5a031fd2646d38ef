"""Orders in sentences, and questions about one field of them: tasks for models that read English.

A small chat model half knows them: it answers in sentences about something else, and the field is in one of a few.
"""

from collections.abc import Mapping
from types import MappingProxyType

from fgrpo_secure.learning.tasks.draws import Draws

CUSTOMERS = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Greta", "Hugo")
ITEMS = ("lamps", "books", "chairs", "pens", "cups", "clocks")
CITIES = ("Berlin", "Paris", "Rome", "Madrid", "Oslo", "Vienna", "Lisbon", "Prague")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FORMS = (
    "{customer} orders {amount} {items}, to be sent to {city} on {day}.",
    "On {day} we send {amount} {items} to {city}, for {customer}.",
    "{amount} {items} for {customer}: they leave for {city} on {day}.",
)
"""Level n of difficulty has the first n of them."""

QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "customer": "Who is the customer?",
        "amount": "How many items?",
        "city": "Which city?",
        "day": "Which day?",
    }
)


def question(draws: Draws, difficulty: int, field: str) -> tuple[str, str]:
    """An order with a question about one of its fields, and the answer."""
    order = {
        "customer": draws.choice(CUSTOMERS),
        "amount": str(draws.between(2, 60)),
        "city": draws.choice(CITIES),
        "day": draws.choice(DAYS),
    }
    told = draws.choice(FORMS[:difficulty]).format(items=draws.choice(ITEMS), **order)
    return f"{told} {QUESTIONS[field]} Reply with one word.", order[field]
