"""Wikipedia articles from a package: perplexity and divergence where WikiText-2 cannot be had."""

from slmquant.tasks.common.text import TextTask

TASK = TextTask(
    name="exl_wiki",
    description="Wikipedia articles from a package: perplexity and divergence without WikiText-2",
    corpus="exl_wiki_eval",
)
