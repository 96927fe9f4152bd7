"""Backward passes that keep no activations inside blocks, but compute each block again when its gradients are due.

Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv 1604.06174. What stays in memory
are the inputs of all blocks and the activations of one; gradients are bit-identical, for one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputing(
    model: nn.Module, blocks: Sequence[str], again: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[None]:
    """Within this context backward passes compute the blocks again; forward hooks inside blocks then run twice.

    Args:
        model: The model.
        blocks: Names of its blocks.
        again: Context of the second computation, which may be in another thread; it must be that of the first.
    """
    modules = [model.get_submodule(name) for name in blocks]
    try:
        for block in modules:
            block.forward = partial(
                checkpoint,
                partial(_run, block.forward),
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), again()),
            )
        yield
    finally:
        for block in modules:
            vars(block).pop("forward", None)


def _run(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Run a block on new tensors with the same numbers.

    Modules that keep what they computed for their latest input know it by identity: in the second computation they
    would find the first one's result, which has no gradients.
    """
    return forward(*map(_same, arguments), **{name: _same(value) for name, value in named.items()})


def _same(value: Any) -> Any:
    return value.view_as(value) if isinstance(value, Tensor) else value
