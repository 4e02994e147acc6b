"""From the ONNX file of an actor to a network that can be trained, and back."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from policies.actor.config import ActorConfig
from policies.actor.mlp import ACTIVATIONS, mlp_onnx
from policies.actor.onnx_model import io_sizes, parse_onnx
from policies.errors import InputError
from sim2real.rl.env import Float32
from sim2real.rl.networks import Mlp

_NAMES = {operator: name for name, operator in ACTIVATIONS.items()}


def read_actor(model: bytes, what: str) -> Mlp:
    """The perceptron in an ONNX file, with its weights.

    Args:
        model: content of the file.
        what: its name in error texts.

    Raises:
        InputError: the network is not a chain of affine layers with one kind of activation.
    """
    proto = parse_onnx(model, what)
    inputs, outputs = io_sizes(proto, what)
    constants = _constants(proto)
    source = next(v.name for v in proto.graph.input if v.name not in constants)
    weights: list[Float32] = []
    biases: list[Float32] = []
    activations: list[str] = []
    for node in proto.graph.node:
        if node.op_type == "Constant":
            continue
        if source not in node.input:
            raise _refused(what, f"{node.op_type} {node.name!r} beside the chain")
        others = [constants[name] for name in node.input if name in constants]
        if node.op_type in ("Gemm", "MatMul") and len(weights) == len(activations):
            weight, bias = _affine(node, others, source, what)
            weights.append(weight)
            biases.append(bias)
        elif node.op_type == "Add" and len(weights) > len(activations) and others:
            biases[-1] = (biases[-1] + others[0].reshape(-1)).astype(np.float32)
        elif node.op_type in _NAMES and len(weights) == len(activations) + 1:
            if any(a.name == "alpha" and a.f != 1.0 for a in node.attribute):
                raise _refused(what, f"{node.op_type} with another slope than 1")
            activations.append(_NAMES[node.op_type])
        else:
            raise _refused(what, f"{node.op_type} {node.name!r}")
        source = node.output[0]
    widths = [weights[0].shape[1] if weights else 0, *(len(bias) for bias in biases)]
    chained = all(w.shape == (b, a) for w, a, b in zip(weights, widths, widths[1:], strict=False))
    if len(weights) != len(activations) + 1 or len(set(activations)) > 1 or not chained:
        raise _refused(what, f"layers {widths} with activations {activations}")
    if (widths[0], widths[-1], source) != (inputs, outputs, proto.graph.output[0].name):
        raise _refused(what, f"{widths[0]} inputs and {widths[-1]} outputs of the chain")
    return Mlp.of(weights, biases, activations[0] if activations else "elu")


def write_actor(actor: Mlp) -> bytes:
    """The ONNX file of a perceptron."""
    weights, biases = actor.arrays()
    return mlp_onnx(weights, biases, activation=actor.activation)


def check_trainable(config: ActorConfig, what: str) -> None:
    """Refuse a policy whose action is not one position command a tick.

    Raises:
        InputError: another kind of action, or no motion length.
    """
    action = config.action
    if action.type != "position_offset_from_default" or action.horizon != 1:
        raise InputError(
            f"{what}: expected a policy that commands one position offset a tick, got "
            f"{action.type} with horizon {action.horizon}; such a policy cannot be fine-tuned yet"
        )
    if config.duration_s is None:
        raise InputError(
            f"{what}: expected a policy with a motion length (duration_s), got an endless one; "
            "motion tracking needs an end"
        )


def _constants(proto: onnx.ModelProto) -> dict[str, Float32]:
    tensors = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return {name: np.asarray(array, dtype=np.float32) for name, array in tensors.items()}


def _affine(
    node: onnx.NodeProto, others: list[Float32], source: str, what: str
) -> tuple[Float32, Float32]:
    """Weight (outputs, inputs) and bias (outputs,) of a Gemm or MatMul."""
    flags = {a.name: a.i if a.name.startswith("trans") else a.f for a in node.attribute}
    plain = all(flags.get(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    if not plain or flags.get("transA") or node.input[0] != source or not others:
        raise _refused(what, f"{node.op_type} {node.name!r} of another form than x W + b")
    weight = others[0] if flags.get("transB") else others[0].T
    if weight.ndim != 2:
        raise _refused(what, f"{node.op_type} {node.name!r} with weights {weight.shape}")
    bias = others[1].reshape(-1) if len(others) > 1 else np.zeros(len(weight), np.float32)
    return np.ascontiguousarray(weight), bias


def _refused(what: str, got: str) -> InputError:
    return InputError(
        f"{what}: expected a multi-layer perceptron (affine layers with one of "
        f"{sorted(ACTIVATIONS)} between them), got {got}; such a network cannot be fine-tuned"
    )
