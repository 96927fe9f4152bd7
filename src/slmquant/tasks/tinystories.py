"""TinyStories: perplexity and divergence, for models that speak little else."""

from slmquant.tasks.common.text import TextTask

TASK = TextTask(
    name="tinystories",
    description="TinyStories: perplexity and divergence, for models that speak little else",
    corpus="tinystories",
)
