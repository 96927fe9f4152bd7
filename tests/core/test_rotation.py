"""Rotations rotate, keep what they promise to keep, and learning never leaves them."""

import pytest
import torch

from slmquant.core.hadamard import hadamard
from slmquant.core.rotation import (
    CayleyState,
    DenseRotation,
    Rotation,
    cayley,
    cayley_sgd_step,
    matrix_of,
    random_hadamard,
    random_orthogonal,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ROTATIONS: list[Rotation] = [
    hadamard(36),
    random_hadamard(40, generator()),
    random_hadamard(40, generator(), keeps_mean=True),
    random_hadamard(46, generator(), keeps_mean=True),
    DenseRotation(random_orthogonal(17, generator())),
]


@pytest.mark.parametrize("rotation", ROTATIONS, ids=lambda r: f"{type(r).__name__}-{r.order}")
def test_applied_and_undone_is_nothing_done(rotation: Rotation) -> None:
    x = torch.randn(2, 5, rotation.order, dtype=torch.float64, generator=generator(1))
    R = matrix_of(rotation)

    assert torch.allclose(R @ R.T, torch.eye(rotation.order, dtype=R.dtype), rtol=0, atol=1e-12)
    assert torch.allclose(rotation.apply(x), x @ R, rtol=0, atol=1e-12)
    assert torch.allclose(rotation.undo(x), x @ R.T, rtol=0, atol=1e-12)
    assert rotation.apply(x.float()).dtype == torch.float32


@pytest.mark.parametrize("order", [40, 46, 576])
def test_a_rotation_that_keeps_means_commutes_with_layer_norm(order: int) -> None:
    rotation = random_hadamard(order, generator(), keeps_mean=True)
    x = torch.randn(7, order, dtype=torch.float64, generator=generator(1)) + 0.5

    norm = torch.nn.functional.layer_norm
    assert torch.allclose(norm(rotation.apply(x), (order,)), rotation.apply(norm(x, (order,))), rtol=0, atol=1e-12)


def test_keeping_means_spreads_an_outlier_nearly_as_well() -> None:
    outlier = torch.zeros(576, dtype=torch.float64)
    outlier[5] = 1.0
    flat = random_hadamard(576, generator()).apply(outlier).abs().max()
    kept = random_hadamard(576, generator(), keeps_mean=True).apply(outlier).abs().max()

    assert float(kept) < 1.5 * float(flat)


def test_signs_decide_and_the_seed_decides_signs() -> None:
    first, again, other = (matrix_of(random_hadamard(64, generator(seed))) for seed in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_orthogonal_matrices_are_uniform_enough() -> None:
    """The trace of a uniform orthogonal matrix has mean 0 and variance 1."""
    draw = generator()
    traces = torch.stack([random_orthogonal(8, draw).trace() for _ in range(400)])

    assert abs(float(traces.mean())) < 0.2
    assert 0.7 < float(traces.var()) < 1.3


def test_the_cayley_curve_is_the_limit_of_the_papers_iteration() -> None:
    A = 0.1 * torch.randn(6, 6, dtype=torch.float64, generator=generator())
    W, X = A - A.T, random_orthogonal(6, generator(1))

    Y = X + W @ X
    for _ in range(200):
        Y = X + W @ (X + Y) / 2
    assert torch.allclose(cayley(W, X), Y, rtol=0, atol=1e-13)


@pytest.mark.parametrize("keeps_mean", [False, True])
def test_every_step_stays_orthogonal_and_goes_down(keeps_mean: bool) -> None:
    """Toy problem: turn a matrix towards another, `L = −tr(Aᵀ X)`, in a batch of three."""
    A = torch.randn(3, 12, 12, dtype=torch.float64, generator=generator())
    start = matrix_of(random_hadamard(12, generator(), keeps_mean=keeps_mean))
    state = CayleyState(start.expand(3, -1, -1), torch.zeros_like(A))

    losses = []
    for _ in range(300):
        losses.append(-(A * state.X).sum((-2, -1)))
        state = cayley_sgd_step(state, -A, lr=0.05, keeps_mean=keeps_mean)

    falling = torch.stack(losses)
    assert bool((falling[1:] <= falling[:-1] + 1e-12).all())
    assert torch.allclose(state.X @ state.X.mT, torch.eye(12, dtype=A.dtype).expand(3, -1, -1), rtol=0, atol=1e-11)
    if keeps_mean:
        assert torch.allclose(state.X.sum(-1), torch.ones(3, 12, dtype=A.dtype), rtol=0, atol=1e-11)
    else:  # with the right determinant the best orthogonal matrix is known: U Vᵀ of the SVD of A
        best = -torch.linalg.svdvals(A).sum(-1)
        smallest = torch.linalg.svdvals(A)[:, -1]
        assert bool((falling[-1] <= best + 2 * smallest + 0.05 * best.abs()).all())


def test_momentum_arrives_sooner() -> None:
    A = torch.randn(12, 12, dtype=torch.float64, generator=generator())

    def loss_after(steps: int, momentum: float) -> float:
        state = CayleyState(torch.eye(12, dtype=A.dtype), torch.zeros_like(A))
        for _ in range(steps):
            state = cayley_sgd_step(state, -A, lr=0.01, momentum=momentum)
        return -float((A * state.X).sum())

    assert loss_after(30, momentum=0.9) < loss_after(30, momentum=0.0)


def test_a_step_is_bounded_whatever_the_gradient() -> None:
    G = 1e6 * torch.randn(8, 8, dtype=torch.float64, generator=generator())
    start = torch.eye(8, dtype=torch.float64)
    after = cayley_sgd_step(CayleyState(start, torch.zeros_like(start)), G, lr=1.5).X

    assert float(torch.linalg.matrix_norm(after - start, ord=2)) <= 1.0
