"""A multi-layer perceptron as an ONNX file, written node by node (no tracing, no torch)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from policies.errors import InputError

_OPSET = 17
_IR_VERSION = 8  # what opset 17 came with: readable by ONNX Runtime from 1.12 on
ACTIVATIONS = {"elu": "Elu", "relu": "Relu", "tanh": "Tanh"}


def mlp_onnx(
    weights: Sequence[NDArray[np.float32]],
    biases: Sequence[NDArray[np.float32]],
    *,
    activation: str = "elu",
    producer: str = "realign",
) -> bytes:
    """ONNX model of ``x -> W_L act(... act(W_1 x + b_1) ...) + b_L``.

    The same arrays give the same bytes.

    Args:
        weights: matrices (outputs, inputs), first layer first.
        biases: vectors (outputs,), first layer first.
        activation: a key of :data:`ACTIVATIONS`, after each layer but the last.
        producer: producer name stored in the file.

    Returns:
        Content of an ONNX file: input ``observation`` (1, inputs), output ``action``
        (1, outputs), float32.

    Raises:
        InputError: shapes do not chain, or the activation is unknown.
    """
    if activation not in ACTIVATIONS:
        raise InputError(f"expected an activation out of {sorted(ACTIVATIONS)}, got {activation!r}")
    if not weights or len(weights) != len(biases):
        raise InputError(f"expected as many biases as weights, got {len(biases)}, {len(weights)}")
    nodes, initializers, source = [], [], "observation"
    width = weights[0].shape[1]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.shape != (len(bias), width):
            raise InputError(
                f"layer {i}: expected weights of shape {(len(bias), width)}, got {weight.shape}"
            )
        width = len(bias)
        last = i == len(weights) - 1
        initializers += [
            numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name)
            for name, array in ((f"weight_{i}", weight), (f"bias_{i}", bias))
        ]
        out = "action" if last else f"linear_{i}"
        inputs = [source, f"weight_{i}", f"bias_{i}"]
        nodes.append(helper.make_node("Gemm", inputs, [out], name=f"gemm_{i}", transB=1))
        if not last:
            source = f"hidden_{i}"
            nodes.append(
                helper.make_node(ACTIVATIONS[activation], [out], [source], name=f"activation_{i}")
            )
    graph = helper.make_graph(
        nodes,
        "actor",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, [1, weights[0].shape[1]])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, [1, width])],
        initializers,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name=producer
    )
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
