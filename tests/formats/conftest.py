"""Fixtures of formats: what is stored is the matter here, not what a model is made of."""

import pytest


@pytest.fixture(autouse=True)
def _known(known_relations: None) -> None:
    """Relations are discovered once for all models that are equal."""
