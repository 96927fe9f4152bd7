"""What an inspection found can be written, read again, and used as covariates of every weight."""

from __future__ import annotations

import pytest

from slmquant.store.anatomy import Anatomy, LayerFacts, RoleSize, SchemeSize
from slmquant.store.inspected import (
    AttentionFacts,
    InputFacts,
    Inspection,
    Lattice,
    MassiveActivation,
    Spread,
    StreamFacts,
    WeightFacts,
)
from slmquant.store.record import ModelCard

BLOCKS = 3
OFF_GRID = Lattice(on_grid="no", fit=0.2, fit_shuffled=0.15, z=1.0, ties=0.0, ties_shuffled=0.0)


def layer(number: int) -> LayerFacts:
    return LayerFacts(name=f"layers.{number}", positions="rotary", query_heads=6, key_heads=2, head_size=4, gated=True)


def weight(name: str, number: int | None, kurtosis: float) -> WeightFacts:
    return WeightFacts(
        name=name, layer=number, role="embedding" if number is None else "q", rows=8, columns=24, low=-4.0, high=2.0,
        rms=0.5, kurtosis=kurtosis, outlier_columns=0, worst_column=1.5, dtype="float32",
        lattice=None if number is None else OFF_GRID,
    )  # fmt: skip


def facts(name: str, number: int) -> InputFacts:
    return InputFacts(
        linears=(name,), layer=number, all=Spread(rms=1.0, largest=60.0, kurtosis=90.0),
        ordinary=Spread(rms=0.5, largest=4.0, kurtosis=6.0), outlier_tokens=0.01, outlier_energy=0.8, first_energy=0.7,
        outlier_channels=1, channel_energy=0.3, worst_channels=((7, 8.0), (2, 1.5)), effective_rank=12.0,
        effective_rank_all=1.6, channels=24,
    )  # fmt: skip


def stream(number: int) -> StreamFacts:
    massive = MassiveActivation(channel=3, value=-900.0, times_median=3000.0, tokens=("<s>",), first=1.0, count=8)
    return StreamFacts(
        layer=number, all=Spread(rms=2.0, largest=900.0, kurtosis=500.0), median=0.3, top=(900.0, 20.0, 10.0),
        massive=(massive,) if number else (),
    )  # fmt: skip


@pytest.fixture
def inspection() -> Inspection:
    return made_up()


def made_up() -> Inspection:
    """An inspection of a model of three layers."""
    names = [f"layers.{number}.q" for number in range(BLOCKS)]
    return Inspection(
        model="made up",
        model_sha256="0" * 64,
        card=ModelCard(architecture="llama", parameters=1000, embedding_share=0.2, provenance="original"),
        anatomy=Anatomy(
            architecture="llama",
            parameters=1000,
            hidden=24,
            vocabulary=8,
            context=None,
            tied=True,
            norms=("RMSNorm",),
            roles=(
                RoleSize(role="embedding", tensors=1, parameters=200, stored_bytes={"W16A16": 400}),
                RoleSize(role="head", tensors=0, parameters=0, stored_bytes={"W16A16": 0}),
                RoleSize(role="q", tensors=BLOCKS, parameters=800, stored_bytes={"W16A16": 1600}),
            ),
            schemes=(SchemeSize(scheme="W16A16", stored_bytes=2000, bpw=16.0),),
            layers=tuple(map(layer, range(BLOCKS))),
        ),
        weights=(
            weight("embedding", None, 9.0),
            *(weight(name, number, 3.0 + number) for number, name in enumerate(names)),
        ),
        inputs=tuple(facts(name, number) for number, name in enumerate(names)),
        stream=tuple(map(stream, range(BLOCKS))),
        attention=(AttentionFacts(layer=1, first_share=(0.2, 0.6), even_share=0.02),),
    )


def test_what_is_written_is_read_again(inspection: Inspection) -> None:
    assert Inspection.model_validate_json(inspection.model_dump_json()) == inspection


def test_covariates_join_a_weight_with_its_input_and_its_layer(inspection: Inspection) -> None:
    rows = inspection.covariates()

    assert list(rows) == [weight.name for weight in inspection.weights]
    assert rows["layers.2.q"]["weight_kurtosis"] == 5.0
    assert rows["layers.2.q"]["weight_peak"] == 8.0
    assert [rows[f"layers.{number}.q"]["depth"] for number in range(BLOCKS)] == [0.0, 0.5, 1.0]
    assert rows["layers.1.q"]["input_worst_channel"] == 8.0
    assert rows["layers.1.q"]["input_effective_rank_share"] == 0.5
    assert rows["layers.1.q"]["attention_on_first"] == pytest.approx(0.4)
    assert rows["layers.1.q"]["weight_grid_fit"] == pytest.approx(0.05)


def test_what_was_not_measured_is_no_covariate(inspection: Inspection) -> None:
    rows = inspection.covariates()

    assert "attention_on_first" not in rows["layers.0.q"]
    assert not rows["embedding"].keys() & {"depth", "input_kurtosis", "weight_grid_fit"}


def test_figures_follow_from_what_is_kept(inspection: Inspection) -> None:
    assert inspection.anatomy.embedding_share == 0.2
    assert inspection.anatomy.layers[0].group_size == 3
    assert inspection.attention[0].sink_heads == 1
    assert inspection.inputs[0].ordinary.peak == 8.0
