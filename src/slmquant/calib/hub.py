"""Loads text from the Hugging Face hub, and checks whether the hub can be reached."""

from __future__ import annotations

import functools
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from slmquant.boundary import guarded
from slmquant.errors import DataError

_TIMEOUT_S = 4.0


@dataclass(frozen=True)
class HubText:
    """A column of text in a hub data set.

    Attributes:
        id: The data set, `owner/name`.
        config: Its configuration; None if it has only one.
        split: The split.
        start: First row taken.
        stop: End of the rows taken; None for all. A bounded range is streamed, not downloaded whole.
    """

    id: str
    config: str | None
    split: str
    start: int = 0
    stop: int | None = None


@functools.cache
def reachable() -> bool:
    """Whether the hub answers within seconds, checked once per process; False if `HF_HUB_OFFLINE` is set."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310  # the user's own endpoint
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Silence the `datasets` library's progress bars and remarks."""
    import datasets

    logger = logging.getLogger("datasets")
    level, bars = logger.level, datasets.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def load_rows(text: HubText) -> list[str]:
    """Load the rows' text.

    Raises:
        DataError: The hub cannot be reached, or does not have the data set.
    """
    if not reachable():
        raise DataError(f"cannot load {text.id}: the Hugging Face hub does not answer")
    import datasets

    streaming = text.stop is not None
    with guarded(lambda why: f"the hub's {text.id} could not be read: {why}", DataError), quiet_datasets():
        rows = datasets.load_dataset(text.id, text.config, split=text.split, streaming=streaming)
        return [row["text"] for row in islice(rows, text.start, text.stop)]
