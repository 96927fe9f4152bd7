"""A model is given its cache under the name that it knows, and gives it back."""

import warnings

import pytest
import torch
from transformers import DynamicCache

from slmquant.model.compatibility.cache_names import cache_argument, cache_of, takes_cache
from slmquant.testing.tiny import tiny


def newer(input_ids: object, cache: object = None) -> None: ...


def older(input_ids: object, past_key_values: object = None) -> None: ...


def neither(input_ids: object) -> None: ...


def test_each_function_is_given_the_name_it_knows() -> None:
    assert cache_argument(newer, 1) == {"cache": 1}
    assert cache_argument(older, 1) == {"past_key_values": 1}
    assert not takes_cache(neither)
    with pytest.raises(TypeError, match=r"neither accepts no key-value cache"):
        cache_argument(neither, 1)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma3_text", "gpt_neox"])
def test_a_real_model_takes_its_cache_without_a_warning_and_gives_it_back(name: str) -> None:
    model, cache = tiny(name), DynamicCache()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", FutureWarning)
        out = model(input_ids=torch.ones(1, 3, dtype=torch.long), use_cache=True, **cache_argument(model, cache))
        model.get_decoder()(
            input_ids=torch.ones(1, 2, dtype=torch.long), use_cache=True, **cache_argument(model.get_decoder(), cache)
        )

        assert cache_of(out) is cache
    assert cache.get_seq_length() == 5


def test_an_output_without_a_cache_has_none() -> None:
    assert cache_of(object()) is None
