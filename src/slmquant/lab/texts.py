"""The text that models are trained on: checked against what is judged on, tokenized once for all models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from slmquant.cache.entries import entry_path, is_sound, using
from slmquant.cache.write import About, writing
from slmquant.calib.corpora import Corpus, load_corpus
from slmquant.errors import DataError
from slmquant.lab.arms import END_OF_TEXT
from slmquant.places import Places
from slmquant.progress import Progress

_VERSION = 1
"""Version of how text is tokenized; part of the keys of texts and of models."""
_END = "<|endoftext|>"
_TOKENS = "tokens.safetensors"
_LONG = 100
"""Characters of a document that two corpora do not share by chance."""


@dataclass(frozen=True)
class TextJob:
    """Training text to be tokenized.

    Attributes:
        train: Corpora to train on.
        judge: Corpora to judge on.
        vocabulary: Number of tokens.
        places: Folders of data and cache.
    """

    train: tuple[str, ...]
    judge: tuple[str, ...]
    vocabulary: int
    places: Places


@dataclass(frozen=True)
class TrainingText:
    """Tokenized training text in the cache.

    Attributes:
        entry: Its entry: a tokenizer and the tokens.
        corpora: Corpus → SHA-256 of its text.
    """

    entry: Path
    corpora: dict[str, str]

    def read(self) -> tuple[PreTrainedTokenizerFast, Int[Tensor, " tokens"]]:
        """The tokenizer and all tokens.

        Raises:
            CacheError: The entry is gone or was damaged.
        """
        with using(self.entry):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(self.entry)
            return tokenizer, load_file(self.entry / _TOKENS)["tokens"].long()


def tokenized(job: TextJob, progress: Progress) -> TrainingText:
    """The tokenized text of a plan, from the cache if it is there.

    Raises:
        DataError: A corpus was not found, a text to judge on has documents of the training text, or the text is too
            short for the vocabulary.
    """
    progress.start("read and tokenize the training text", None)
    corpora = [load_corpus(name, job.places.data_dir, progress) for name in job.train]
    _check_apart(corpora, [load_corpus(name, job.places.data_dir, progress) for name in job.judge])
    hashes = {corpus.card.name: corpus.card.sha256 for corpus in corpora}
    key = [_VERSION, version("tokenizers"), job.vocabulary, list(hashes.values())]
    entry = entry_path(job.places.cache_dir, "training_text", key)
    if not is_sound(entry):
        documents = [document for corpus in corpora for document in corpus.documents if document.strip()]
        tokenizer = _trained(documents, job.vocabulary)
        ids = [[*encoding.ids, END_OF_TEXT] for encoding in tokenizer.encode_batch(documents)]
        tokens = torch.tensor([token for document in ids for token in document], dtype=torch.int32)
        with writing(entry, About("-", f"{len(tokens):,} tokens of {', '.join(job.train)}")) as temporary:
            fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END)
            fast.save_pretrained(temporary)
            save_file({"tokens": tokens}, temporary / _TOKENS)
    return TrainingText(entry, hashes)


def _check_apart(train: Sequence[Corpus], judge: Sequence[Corpus]) -> None:
    """Refuse to judge on documents that are trained on, whatever their corpora are called."""
    known = {document.strip() for corpus in train for document in corpus.documents if len(document) >= _LONG}
    for corpus in judge:
        if shared := sum(document.strip() in known for document in corpus.documents):
            raise DataError(
                f"{shared} of {len(corpus.documents)} documents of {corpus.card.name}, which is judged on, are also in "
                f"the training text; train on other corpora (slmquant tasks --corpora lists them)"
            )


def _trained(documents: Sequence[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE tokenizer of the documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[_END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    if (found := tokenizer.get_vocab_size()) != vocabulary:
        raise DataError(f"the training text gives {found} tokens, not {vocabulary}; add corpora, or lower 'vocabulary'")
    return tokenizer
