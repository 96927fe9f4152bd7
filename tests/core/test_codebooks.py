"""Codebooks against looking at every vector with every sign, and feedback against its definition."""

import itertools

import pytest
import torch
from gguf import quants

from slmquant.core.affine import Grid
from slmquant.core.codebooks import CODEBOOKS, Codebook
from slmquant.core.elements import by_name
from slmquant.core.gptaq import gptaq
from slmquant.core.gptq import column_order, gptq
from slmquant.core.kquant import search
from slmquant.model.computing.grids import grid_of
from slmquant.schemes import parse
from tests.core.test_gptq import damped, loss, problem

BOOKS = list(CODEBOOKS.values())


def grid(book: Codebook) -> Grid:
    spec = parse(book.name).weights
    assert spec is not None
    return grid_of(spec)


def vectors(book: Codebook) -> torch.Tensor:
    """The list, from ggml's own reading."""
    ggml = getattr(quants, book.name)
    ggml.init_grid()
    return torch.tensor(ggml.grid).view(-1, book.length)


def every(book: Codebook) -> list[torch.Tensor]:
    """Every vector with all signs; of even signs, those of either parity apart."""
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=book.length)))
    signed = [signs[even] for even in ((signs < 0).sum(1) % 2 == 0, (signs < 0).sum(1) % 2 == 1)]
    parts = signed if book.even else [signs]
    return [(vectors(book)[:, None] * part).flatten(0, 1) for part in parts]


def numbers(book: Codebook, rows: int, seed: int = 0) -> torch.Tensor:
    """Blocks as large as the book's vectors."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, book.block, generator=generator) * vectors(book).square().mean().sqrt()


def least(x: torch.Tensor, book: Codebook) -> float:
    """The least squared error of a block, by looking at all."""
    if not book.even:
        return float((x - every(book)[0]).square().sum(1).min())
    halves = [[float((half - part).square().sum(1).min()) for part in every(book)] for half in x.split(book.length)]
    return float(min(first + second for first, second in zip(*halves, strict=True)))  # both even, or both odd


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_the_nearest_of_all_vectors_is_found(book: Codebook) -> None:
    x = numbers(book, 12)

    errors = (x - book.nearest(x)).square().sum(1)

    assert torch.allclose(errors, torch.tensor([least(row, book) for row in x]), rtol=1e-4)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_each_block_of_a_row_is_chosen_by_itself(book: Codebook) -> None:
    x = numbers(book, 24)

    assert torch.equal(book.nearest(x.view(2, 3, -1)), book.nearest(x).view(2, 3, -1))


@pytest.mark.parametrize("book", [book for book in BOOKS if not book.even], ids=lambda book: book.name)
def test_of_dependent_errors_nearly_the_best_is_found(book: Codebook) -> None:
    """Against every vector with every sign, under the metrics of correlated inputs."""
    excess = []
    for seed in range(6):
        H = problem(1, book.block, seed)[1]
        spread = torch.linalg.cholesky(H + H.trace() / book.block * torch.eye(book.block))
        x = numbers(book, 6, seed)
        found = ((x - book.closest(x, spread)) @ spread).square().sum(1)
        nearest = ((x - book.nearest(x)) @ spread).square().sum(1)
        best = torch.stack([((row - every(book)[0]) @ spread).square().sum(1).min() for row in x])
        assert (found >= best * (1 - 1e-4)).all()
        assert found.sum() <= nearest.sum()
        excess.append(float(found.sum() / best.sum()) - 1)

    assert sum(excess) / len(excess) < 0.05


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_the_best_of_independent_errors_is_found_by_their_weights(book: Codebook) -> None:
    x, weights = numbers(book, 40), torch.rand(book.block) + 0.1

    def error(codes: torch.Tensor) -> torch.Tensor:
        return ((x - codes).square() * weights).sum(1)

    assert (error(book.closest(x, weights.sqrt().diag())) <= error(book.nearest(x)) * (1 + 1e-5)).all()


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
@pytest.mark.parametrize("size", [8, 64, 256])
def test_packing_gives_codes_back_in_the_bytes_that_it_says(book: Codebook, size: int) -> None:
    codes = book.nearest(numbers(book, 3 * size // book.block).view(3, size)).to(torch.int8)
    packed = book.pack(codes)

    assert packed.shape == (3, book.row_bytes(size))
    assert torch.equal(book.unpack(packed, size), codes)
    assert by_name(book.name) == book


@pytest.mark.parametrize(
    ("name", "codes", "said"),
    [
        ("IQ3_S", [2] * 8, "the codes are no vectors of IQ3_S"),
        ("IQ3_XXS", [-4, *[4] * 7], "an even number of minus signs in every 8 codes"),
        ("IQ2_S", [8] * 12, "chooses 8 codes at a time; rows of 12"),
        ("IQ3_XXS", [4] * 4, "chooses 8 codes at a time; rows of 4"),
    ],
)
def test_codes_that_no_file_holds_are_not_packed(name: str, codes: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CODEBOOKS[name].pack(torch.tensor([codes], dtype=torch.int8))


def test_a_row_of_another_length_is_not_unpacked() -> None:
    with pytest.raises(ValueError, match="cannot hold 16 codes of IQ3_S"):
        CODEBOOKS["IQ3_S"].unpack(torch.zeros(1, 3, dtype=torch.uint8), 16)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_the_search_comes_near_the_best_scale(book: Codebook) -> None:
    """Against 400 scales for the blocks of each group, before scales are stored."""
    size = grid(book).group_size
    W = 0.02 * torch.randn(12, size, generator=torch.Generator().manual_seed(0))
    found = search(W, torch.ones_like(W), grid(book))  # a super-block of one group: its scale is kept
    best = []
    for row in W:
        scales = row.abs().max() / book.high * torch.linspace(0.6, 2, 400)[:, None]
        best.append(float((row - book.nearest(row / scales) * scales).square().sum(1).min()))

    assert float((W - grid(book).rounded(W, found)).square().sum()) < 1.1 * sum(best)


def by_definition(W: torch.Tensor, H: torch.Tensor, grid: Grid, book: Codebook, order: list[int]) -> torch.Tensor:
    """Fix one block of columns after another, and refit all others by least squares each time."""
    W, H = W.double(), H.double()
    scale = grid.fit(W.float()).scale.double()
    current, done = W.clone(), list[int]()
    for first in order[:: book.block]:
        block = list(range(first, first + book.block))
        done += block
        free = [index for index in order if index not in done]
        cost = H[block][:, block]
        if free:
            cost = cost - H[block][:, free] @ torch.linalg.inv(H[free][:, free]) @ H[free][:, block]
        each = scale[:, first // grid.group_size, None]
        current[:, block] = each * book.closest(current[:, block] / each, torch.linalg.cholesky(cost))
        if free:
            moved = (current[:, done] - W[:, done]) @ H[done][:, free]
            current[:, free] = W[:, free] - moved @ torch.linalg.inv(H[free][:, free])
    return current


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_feedback_equals_refitting_by_least_squares(book: Codebook, act_order: bool) -> None:
    W, H = problem(5, 160, 0)  # more than a panel
    order = column_order(W, H, act_order, book.block).tolist()

    found = gptq(W, H, grid(book), damp=0.05, act_order=act_order).dequantize()

    assert torch.allclose(found.double(), by_definition(W, damped(H, 0.05), grid(book), book, order), atol=1e-4)


def test_blocks_are_ordered_by_what_they_cost_together() -> None:
    diagonal = torch.tensor([1.0, 9, 1, 1, 4, 4, 4, 4, 2, 2, 2, 2])

    order = column_order(torch.zeros(1, 12), diagonal.diag(), True, 4)

    assert order.tolist() == [4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="12 inputs has no whole blocks of 8"):
        column_order(torch.zeros(1, 12), diagonal.diag(), True, 8)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_feedback_lowers_the_error_of_the_output(book: Codebook) -> None:
    W, H = problem(24, 64, 3)
    searched = grid(book).quantize(W, search(W, H.diagonal()[None], grid(book))).dequantize()

    assert loss(W, gptq(W, H, grid(book), act_order=True, scales="loss").dequantize(), H) < 0.8 * loss(W, searched, H)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.name)
def test_vectors_compensate_errors_of_blocks_before(book: Codebook) -> None:
    """The output on `X` comes nearer to that on `X + D`, as with columns."""
    generator = torch.Generator().manual_seed(1)
    W, mix = torch.randn(16, 64, generator=generator), torch.randn(64, 64, generator=generator)
    X = torch.randn(512, 64, generator=generator) @ mix
    D = 0.3 * X + 0.3 * torch.randn(512, 64, generator=generator) @ mix
    H, cross = X.T @ X / 512, D.T @ X / 512

    def error(strength: float) -> float:
        rounded = gptaq(W, H, cross, grid(book), act_order=True, scales="loss", strength=strength)
        return float((X @ rounded.dequantize().T - (X + D) @ W.T).square().mean())

    assert error(1.0) < 0.95 * error(0.0)
