"""C4: perplexity and divergence on 1000 web pages (sample b; sample a is for calibration)."""

from slmquant.tasks.common.text import TextTask

TASK = TextTask(
    name="c4",
    description="C4: perplexity and divergence on 1000 web pages (sample b; sample a is for calibration)",
    corpus="c4_train_b",
)
