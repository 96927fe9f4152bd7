"""A weight may get the types that its rows fit into."""

import pytest

from slmquant.mixing.sensitivity import fitting_types
from slmquant.model.discovery.relations import discover
from slmquant.store.record import Budget
from slmquant.testing.tiny import tiny

BUDGETS: tuple[Budget, Budget] = ("fast", "paper")


@pytest.mark.parametrize("kind", ["IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S"])
def test_super_blocks_are_for_rows_of_256(kind: str) -> None:
    model = tiny("llama", hidden_size=96, intermediate_size=256, num_attention_heads=6, num_key_value_heads=3)
    fitting = fitting_types(model, discover(model), "slmq", "paper")

    assert kind in fitting["model.layers.0.mlp.down_proj"]
    assert kind not in fitting["model.layers.0.mlp.up_proj"]
    assert "IQ4_NL" in fitting["model.layers.0.mlp.up_proj"]


def test_the_fast_budget_tries_no_codebooks() -> None:
    model = tiny("llama", hidden_size=256, intermediate_size=256, num_attention_heads=4, num_key_value_heads=2)
    relations = discover(model)
    fast, whole = (fitting_types(model, relations, "slmq", budget) for budget in BUDGETS)

    for name, kinds in whole.items():
        assert set(kinds) - set(fast[name]) == {"IQ3_S", "IQ3_XXS", "IQ2_S"}
