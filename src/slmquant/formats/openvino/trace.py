"""Trace a transformers model to an OpenVINO graph with a stateful KV cache.

OpenVINO's PyTorch frontend reads a TorchScript trace. The model is traced once, with a batch of two and three tokens
after four cached ones. transformers keeps lengths symbolic during tracing, so the graph works for all lengths: a
prefill, a continuation and a single token. A detour through ONNX would only add a second conversion with its own opset
rules.

During tracing
    * attention is replaced by a function of slmquant: one `scaled_dot_product_attention` with an explicit mask, which
      the CPU plugin fuses with the KV cache (transformers' own function branches on `q_length`, and a trace would
      record only one branch);
    * every layer's cache keeps all tokens, and sliding windows are left to the mask;
    * linears are plain ones, whose weights the caller replaces by name afterwards.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the usual name in torch programs
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import sdpa_mask

from slmquant.boundary import guarded, last_line
from slmquant.errors import RefusedError
from slmquant.formats.common.entries import as_stored
from slmquant.formats.openvino.runtime import import_openvino
from slmquant.model.compatibility.cache_content import caches_only_keys_and_values
from slmquant.model.compatibility.cache_names import cache_argument
from slmquant.model.compatibility.quiet import quiet_transformers
from slmquant.model.computing.linear import QuantizedLinear
from slmquant.model.linears import Linear

if TYPE_CHECKING:
    import openvino as ov

_ATTENTION = "slmquant_openvino"
_BATCH, _PAST, _NEW = 2, 4, 3
_INPUTS = ("input_ids", "attention_mask", "position_ids")


def cache_refusal(model: PreTrainedModel) -> str | None:
    """Why the state of `model` cannot become the graph's; None if it is only keys and values."""
    if not caches_only_keys_and_values(model):
        return f"{model.config.model_type} keeps states besides keys and values, which the graph cannot hold"
    return None


def trace(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> ov.Model:
    """Trace `model`: inputs `input_ids`, `attention_mask`, `position_ids`, `beam_idx`; output `logits` of all tokens.

    Inputs that the architecture does not read are removed. Keys and values are states of the graph, initially empty;
    `beam_idx` selects the row of the batch that each row continues. Constants of parameters have the parameters' names.
    They share memory with the model, which must outlive the graph.

    Args:
        model: A causal language model in float32; restored afterwards.
        weights: Module name → float32 weight `(out, in)` to trace instead of the module's own.

    Raises:
        RefusedError: OpenVINO lacks an operation of the architecture.
    """
    with torch.no_grad(), quiet_transformers(), _own_attention(model), plain_linears(model, weights):
        heads = _cached_shapes(model)
        graph = _converted(model, heads)
        _name_parameters_(graph, model)
    _name_ends_(graph, heads)
    _keep_cache_(graph, heads)
    return graph


@dataclass(frozen=True)
class _Shapes:
    """Cache shapes of one layer: (heads, channels per head) of keys and of values."""

    key: tuple[int, int]
    value: tuple[int, int]

    def example(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Example keys and values for `tokens` cached tokens."""
        sizes = ((_BATCH, heads, tokens, channels) for heads, channels in (self.key, self.value))
        key, value = (torch.full(size, 0.1) for size in sizes)
        return key, value


class _Stepwise(nn.Module):
    """The model as a function of tensors, with the KV cache as input and output."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, ...]:
        layers = [_filled(key, value) for key, value in past]
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **cache_argument(self.model, Cache(layers=[*layers])),
        )
        return (out.logits, *(tensor for layer in layers for tensor in _held(layer)))


def _filled(key: Tensor, value: Tensor) -> DynamicLayer:
    layer = DynamicLayer()
    layer.lazy_initialization(key, value)
    layer.keys, layer.values = key, value
    return layer


def _held(layer: DynamicLayer) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer that holds tokens."""
    assert layer.keys is not None  # noqa: S101  # for the type checker
    assert layer.values is not None  # noqa: S101
    return layer.keys, layer.values


def _attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention function for transformers' registry; see `model.computing.kv_cache`."""
    for name in ("s_aux", "position_bias"):
        if options.get(name) is not None:
            raise RefusedError(f"openvino: attention with {name!r} is not supported in graphs")
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (_repeat(states, int(repeats)) for states in (key, value))
    if softcap is None:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    else:
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = (scores / softcap).tanh() * softcap
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        out = scores.softmax(-1) @ value
    return out.transpose(1, 2).contiguous(), None


def _repeat(states: Tensor, repeats: int) -> Tensor:
    """Repeat each head of keys or values `repeats` times."""
    batch, heads, tokens, channels = states.shape
    return states[:, :, None].expand(batch, heads, repeats, tokens, channels).reshape(batch, -1, tokens, channels)


def _explicit_mask(*args: Any, **options: Any) -> Tensor | None:
    """The boolean mask of transformers, always explicit instead of a causal flag."""
    return sdpa_mask(*args, **(options | {"allow_is_causal_skip": False}))


@contextmanager
def _own_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use `_attend` for attention if the architecture supports transformers' registry."""
    if not model._can_set_attn_implementation():
        yield
        return
    AttentionInterface.register(_ATTENTION, _attend)
    AttentionMaskInterface.register(_ATTENTION, _explicit_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def plain_linears(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace every linear of `model`, except the head, by a float32 `nn.Linear` with `weights`; restored on exit."""
    head = model.get_output_embeddings()
    before = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Linear | QuantizedLinear) and module is not head
    }
    try:
        for name, module in before.items():
            weight = weights.get(name)
            if weight is None:
                weight = as_stored(model, f"{name}.weight", module.weight)
            model.set_submodule(name, _linear(weight, module.bias))
        yield
    finally:
        for name, module in before.items():
            model.set_submodule(name, module)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return linear


def _cached_shapes(model: PreTrainedModel) -> list[_Shapes]:
    """Cache shapes of all layers, found by running the model on one token."""
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    model(input_ids=torch.ones(1, 1, dtype=torch.long), use_cache=True, **cache_argument(model, cache))
    held = [_held(layer) for layer in cache.layers if isinstance(layer, DynamicLayer)]
    return [_Shapes((key.shape[1], key.shape[3]), (value.shape[1], value.shape[3])) for key, value in held]


def _converted(model: PreTrainedModel, shapes: list[_Shapes]) -> ov.Model:
    """The traced graph, its cache still an input and output; like `openvino.convert_model`, but without telemetry."""
    import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = {
        "input_ids": torch.ones(_BATCH, _NEW, dtype=torch.long),
        "attention_mask": torch.ones(_BATCH, _PAST + _NEW, dtype=torch.long),
        "position_ids": torch.arange(_PAST, _PAST + _NEW).repeat(_BATCH, 1),
        "past": [layer.example(_PAST) for layer in shapes],
    }
    frontend = FrontEndManager().load_by_framework("pytorch")
    with guarded(
        lambda why: f"openvino: cannot convert {model.config.model_type} to a graph: {why}", RefusedError, last_line
    ):
        with warnings.catch_warnings():  # torch warns of every length that becomes a constant, and of deprecations
            warnings.simplefilter("ignore")
            decoder = TorchScriptPythonDecoder(_Stepwise(model), example_input=example)
        return frontend.convert(frontend.load(decoder))


def _name_parameters_(graph: ov.Model, model: PreTrainedModel) -> None:
    """Name the constants of parameters after the parameters; a tied one after the embedding."""
    canonical = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {
        f"self.model.{name}": canonical[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    for node in graph.get_ops():
        if node.get_type_name() == "Constant" and (name := names.get(node.get_friendly_name())) is not None:
            node.set_friendly_name(name)


def _name_ends_(graph: ov.Model, shapes: list[_Shapes]) -> None:
    """Name inputs and outputs, declare their shapes and types, and remove unused inputs."""
    import openvino as ov

    parameters = graph.get_parameters()
    for name, parameter in zip(_INPUTS, parameters[: len(_INPUTS)], strict=True):
        if not parameter.output(0).get_target_inputs():
            graph.remove_parameter(parameter)
            continue
        _declare_(parameter, name, ov.Type.i64, [-1, -1])
    graph.output(0).set_names({"logits"})
    cached = iter(zip(parameters[len(_INPUTS) :], graph.outputs[1:], strict=True))
    for index, layer in enumerate(shapes):
        for kind, (heads, channels) in (("key", layer.key), ("value", layer.value)):
            parameter, output = next(cached)
            _declare_(parameter, f"past_key_values.{index}.{kind}", ov.Type.f32, [-1, heads, -1, channels])
            output.set_names({f"present.{index}.{kind}"})


def _declare_(parameter: ov.op.Parameter, name: str, element: ov.Type, shape: list[int]) -> None:
    import openvino as ov

    parameter.set_friendly_name(name)
    parameter.output(0).set_names({name})
    parameter.set_element_type(element)
    parameter.set_partial_shape(ov.PartialShape(shape))


def _keep_cache_(graph: ov.Model, shapes: list[_Shapes]) -> None:
    """Turn the cache into states, whose rows are reordered by `beam_idx` before they are read.

    The CPU plugin fuses exactly this pattern: state, gather of its rows, concatenation, attention.
    """
    from openvino import opset15 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    beam = ops.parameter([-1], dtype=np.int32, name="beam_idx")
    beam.output(0).set_names({"beam_idx"})
    pairs = {}
    for index in range(len(shapes)):
        for kind in ("key", "value"):
            name = f"past_key_values.{index}.{kind}"
            cached = graph.input(name)
            readers = cached.get_target_inputs()
            reordered = ops.gather(cached, beam, ops.constant(0, dtype=np.int64))
            for reader in readers:
                reader.replace_source_output(reordered.output(0))
            pairs[name] = f"present.{index}.{kind}"
    graph.add_parameters([beam])
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, pairs)
    tokens = ops.shape_of(graph.input("input_ids"), output_type="i64")
    batch = ops.gather(tokens, ops.constant(np.array([0])), ops.constant(0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, channels = (dimension.get_max_length() for dimension in node.get_output_partial_shape(0))
            shape = ops.concat([batch, ops.constant(np.array([heads, 0, channels]))], 0)
            node.set_arguments([ops.broadcast(ops.constant(0, dtype=np.float32), shape)])
    graph.validate_nodes_and_infer_types()
