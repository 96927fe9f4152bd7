from __future__ import annotations

import itertools
import re

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from slmquant.calib.corpora import Corpus
from slmquant.calib.windows import calibration_windows, spread_windows, text_tokens
from slmquant.errors import DataError
from slmquant.store.record import CalibrationSpec, DataCard
from tests.tasks.made_up import with_bos

NUMBERS = 1000


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Word `n` is token `n`, so that a window shows where it was taken from."""
    words = Tokenizer(models.WordLevel({str(n): n for n in range(NUMBERS)} | {"<s>": NUMBERS}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")


@pytest.fixture
def corpus() -> Corpus:
    card = DataCard(name="numbers", split="all", rows=2, sha256="0", licence="none", source="folder")
    halves = (range(NUMBERS // 2), range(NUMBERS // 2, NUMBERS))
    return Corpus(card, tuple(" ".join(map(str, half)) for half in halves), "\n")


def test_windows_are_stretches_of_the_corpus_and_never_overlap(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> None:
    windows = calibration_windows(tokenizer, corpus, num_samples=30, seq_len=32, seed=0)
    assert windows.shape == (30, 32) and windows.dtype == torch.long
    assert (windows.diff(dim=1) == 1).all()
    assert len(windows.unique()) == 30 * 32


def test_the_seed_decides_which_windows(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
    def drawn(seed: int) -> torch.Tensor:
        return calibration_windows(tokenizer, corpus, num_samples=5, seq_len=32, seed=seed)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_all_of_a_corpus_can_be_used(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
    windows = calibration_windows(tokenizer, corpus, num_samples=10, seq_len=100, seed=3)
    assert sorted(windows.flatten().tolist()) == list(range(1000))


def test_too_short_a_corpus_says_what_fits(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
    with pytest.raises(DataError, match=r"'numbers' has 1000 tokens, 11 windows of 100 need 1100; 10 such .* 11 of 90"):
        calibration_windows(tokenizer, corpus, num_samples=11, seq_len=100, seed=0)


def test_windows_begin_with_bos_where_the_model_needs_it(corpus: Corpus) -> None:
    words = Tokenizer(models.WordLevel({str(n): n for n in range(NUMBERS)} | {"<s>": NUMBERS}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    gemma = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    gemma.add_special_tokens({"additional_special_tokens": ["<start_of_turn>"]})
    windows = calibration_windows(gemma, corpus, num_samples=4, seq_len=32, seed=0)
    assert windows.shape == (4, 32)
    assert (windows[:, 0] == NUMBERS).all()
    assert (windows[:, 1:].diff(dim=1) == 1).all()


def test_a_tokenizer_that_adds_bos_itself_puts_none_inside_a_window(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus
) -> None:
    gemma = with_bos(tokenizer, every_window=True)
    assert gemma("1 2").input_ids == [NUMBERS, 1, 2]
    windows = calibration_windows(gemma, corpus, num_samples=32, seq_len=32, seed=0)
    assert (windows[:, 0] == NUMBERS).all() and not (windows[:, 1:] == NUMBERS).any()
    assert text_tokens(with_bos(tokenizer), "1 2").tolist() == [NUMBERS, 1, 2], "once, where windows need none"


@pytest.mark.parametrize(("available", "wanted"), [(148, 1), (148, 8), (148, 100), (148, 147), (17, 16)])
def test_a_sample_of_windows_is_spread_over_the_whole_text(available: int, wanted: int) -> None:
    taken = spread_windows("text", available, wanted)
    assert len(set(taken)) == wanted and list(taken) == sorted(taken) and taken[0] >= 0 and taken[-1] < available
    step = available / wanted
    assert all(step - 1 < b - a < step + 1 for a, b in itertools.pairwise(taken))
    assert taken[0] < step and taken[-1] >= available - step - 1
    assert taken == spread_windows("text", available, wanted)


def test_a_sample_of_all_windows_is_the_text_and_its_start_depends_on_the_text_alone() -> None:
    assert spread_windows("text", 12, 12) == spread_windows("text", 12, 99) == tuple(range(12))
    assert len({spread_windows(f"text {n}", 100, 5) for n in range(20)}) > 10


@pytest.mark.parametrize(
    ("samples", "length", "said"),
    [
        (128, 100, "10 such windows fit"),
        (100, 2000, "100 of 10 tokens fit"),
        (128, 2000, "one window of 1000 tokens fits"),
        (2, 900, "1 such windows fit, or 2 of 500"),
    ],
)
def test_what_is_advised_for_too_short_a_corpus_can_be_followed(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, samples: int, length: int, said: str
) -> None:
    with pytest.raises(DataError, match=f"; {said}") as error:
        calibration_windows(tokenizer, corpus, samples, length, seed=0)
    for count, tokens in re.findall(r"(\d+|one window) of (\d+)", str(error.value).split(";")[1]):
        advised = CalibrationSpec(num_samples=1 if count == "one window" else int(count), seq_len=int(tokens))
        calibration_windows(tokenizer, corpus, advised.num_samples, advised.seq_len, seed=0)


def test_a_corpus_of_a_few_words_is_too_short_for_anything(tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
    few = Corpus(corpus.card, ("1 2 3",), "\n")
    with pytest.raises(DataError, match="not even one window of 8 fits: give a longer text"):
        calibration_windows(tokenizer, few, 128, 512, seed=0)


@pytest.mark.parametrize(("samples", "length"), [(0, 512), (-3, 512), (4, 1), (4, 0)])
def test_no_windows_and_windows_of_nothing_are_refused(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, samples: int, length: int
) -> None:
    with pytest.raises(DataError, match="ask for at least one window of at least 2 tokens"):
        calibration_windows(tokenizer, corpus, samples, length, seed=0)
