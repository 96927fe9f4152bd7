"""Divisions of all that a model rounds into parts: by operand, by class of linears, by depth."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from slmquant.diagnosis.switches import Rounded, Switches
from slmquant.mixing.extension import kind_of
from slmquant.model.structure import Relations
from slmquant.store.experiments import OPERAND_NAMES
from slmquant.store.explanations import Family

_EIGHTHS = 8
EMBEDDINGS, CACHE = OPERAND_NAMES["embeddings"], OPERAND_NAMES["cache"]


def divisions(switches: Switches, relations: Relations) -> dict[Family, dict[str, Rounded]]:
    """Family → name → part, for all families; the parts of a family have nothing in common and make up everything."""
    return {
        "operands": _present({name: switches.of(operand) for operand, name in OPERAND_NAMES.items()}),
        "classes": _present(_classes(switches)),
        "depth": _present(_depth(switches, relations)),
    }


def _classes(switches: Switches) -> dict[str, Rounded]:
    """Weights of each kind of linear, inputs of each kind, the cache, embedding and head."""
    everything, embeddings = switches.everything, switches.of("embeddings")
    weights, inputs = dict[str, set[str]](), dict[str, set[str]]()
    for name in sorted(everything.weights - embeddings.weights):
        weights.setdefault(kind_of(name), set()).add(name)
    for linears in switches.quantizers:
        inputs.setdefault(" ".join(map(kind_of, linears)), set()).update(linears)
    return {
        **{name: Rounded(weights=frozenset(several)) for name, several in weights.items()},
        **{f"inputs of {name}": Rounded(inputs=frozenset(several)) for name, several in inputs.items()},
        CACHE: switches.of("cache"),
        **{kind_of(name): Rounded(weights=frozenset({name})) for name in sorted(embeddings.weights)},
    }


def _depth(switches: Switches, relations: Relations) -> dict[str, Rounded]:
    """All that is rounded in each eighth of the blocks, or in each block of a model of at most eight."""
    blocks, everything = relations.blocks, switches.everything
    parts = min(_EIGHTHS, len(blocks))
    edges = [part * len(blocks) // parts for part in range(parts + 1)]
    found: dict[str, Rounded] = {}
    for start, stop in itertools.pairwise(edges):
        prefixes = tuple(f"{block}." for block in blocks[start:stop])
        name = f"block {start}" if stop - start == 1 else f"blocks {start} to {stop - 1}"
        found[name] = Rounded(
            *(
                frozenset(name for name in names if name.startswith(prefixes))
                for names in (everything.weights, everything.inputs, everything.caches)
            )
        )
    return {**found, EMBEDDINGS: switches.of("embeddings")}


def _present(parts: Mapping[str, Rounded]) -> dict[str, Rounded]:
    return {name: part for name, part in parts.items() if part}
