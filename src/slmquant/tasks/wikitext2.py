"""WikiText-2 (raw, test): perplexity in the GPTQ protocol, divergence from full precision."""

from slmquant.tasks.common.text import TextTask

TASK = TextTask(
    name="wikitext2",
    description="WikiText-2 (raw, test): perplexity in the GPTQ protocol, divergence from full precision",
    corpus="wikitext2_test",
)
