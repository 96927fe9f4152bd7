"""The fixed prompts of the task `generation`: a dozen kinds of text that small models are used for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROMPTS", "Prompt"]


@dataclass(frozen=True)
class Prompt:
    """A text to continue, or a question to answer.

    Attributes:
        name: The kind of text.
        text: The beginning of a text, or a user's message.
        is_question: Whether it is a user's message; the model's chat template is then applied, if it has one.
    """

    name: str
    text: str
    is_question: bool = False


PROMPTS = (
    Prompt("story", "Once there was a clockmaker who lived between two rivers. Every morning she"),
    Prompt("list", "Things to pack for a week of walking in the mountains:\n1."),
    Prompt("explanation", "What is the difference between weather and climate?", is_question=True),
    Prompt("code", 'def is_prime(n):\n    """Return True if n is a prime number, else False."""\n'),
    Prompt("recipe", "Give me a simple recipe for a vegetable soup.", is_question=True),
    Prompt("letter", "Dear Ms. Okafor,\n\nThank you for your letter about the library. We have decided to"),
    Prompt("encyclopedia", "Photosynthesis is the process by which green plants"),
    Prompt(
        "arithmetic",
        "A train leaves at 9:40 and arrives at 11:15. How many minutes does the journey take? Explain each step.",
        is_question=True,
    ),
    Prompt("dialogue", '"Where did you find this map?" asked the captain.\n\n"'),
    Prompt("news", "The city council decided on Tuesday that the old bridge will be"),
    Prompt("advice", "I cannot fall asleep before midnight. What can I do?", is_question=True),
    Prompt("data", '[\n  {"city": "Oslo", "country": "Norway", "coastal": true},\n  {"city": "Lima",'),
)
