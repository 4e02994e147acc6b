"""One ONNX network with one float input and one float output, checked before it is run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from policies.errors import InputError
from policies.processors import Float32

_FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}


def parse_onnx(model: bytes, what: str) -> onnx.ModelProto:
    """Parse a self-contained ONNX model.

    Args:
        model: content of the file.
        what: its name in error texts.

    Raises:
        InputError: not ONNX, or weights that are not finite or lie in other files.
    """
    try:
        proto = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's DecodeError is not importable under one name
        raise InputError(
            f"{what}: expected an ONNX model, but it cannot be parsed; export or copy it again"
        ) from error
    if not proto.graph.node:
        raise InputError(f"{what}: expected an ONNX model, got one without a graph")
    for tensor in _tensors(proto.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(
                f"{what}: expected all weights inside the file, but {tensor.name!r} lies in "
                "another one; export the model without external data"
            )
        if tensor.data_type in _FLOATS:
            bad = int(np.count_nonzero(~np.isfinite(numpy_helper.to_array(tensor))))
            if bad:
                raise InputError(
                    f"{what}: expected finite weights, got {bad} NaN or infinite values in "
                    f"{tensor.name!r}; the training diverged or the file is damaged"
                )
    return proto


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant tensor of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.FLOATS:
                yield numpy_helper.from_array(np.array(attribute.floats), name=node.name)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)


def io_sizes(proto: onnx.ModelProto, what: str) -> tuple[int, int]:
    """Number of values in the input and in the output of one inference (batch of 1).

    Raises:
        InputError: not exactly one float input and one float output.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    outputs = list(proto.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{what}: expected one input and one output, got inputs "
            f"{[v.name for v in inputs]} and outputs {[v.name for v in outputs]}; "
            "recurrent networks and state passed from outside are not supported"
        )
    for value in (inputs[0], outputs[0]):
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise InputError(f"{what}: expected float32 in {value.name!r}, got another type")
    return _size(inputs[0]), _size(outputs[0])


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Shape with free dimensions (the batch) set to 1."""
    return [max(int(dim.dim_value), 1) for dim in value.type.tensor_type.shape.dim]


def _size(value: onnx.ValueInfoProto) -> int:
    return int(np.prod(_shape(value), dtype=np.int64))


def open_session(model: bytes, what: str) -> ort.InferenceSession:
    """A session of ONNX Runtime on one thread.

    Args:
        model: content of the ONNX file.
        what: its name in error texts.

    Raises:
        InputError: ONNX Runtime cannot run it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Spinning workers would take the core that the control loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4  # what fails is raised below, in one sentence
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise InputError(
            f"{what}: expected a model that ONNX Runtime {ort.__version__} can run, but it "
            f"refuses it ({str(error).splitlines()[0]}); export it with a supported opset"
        ) from error


class OnnxNetwork:
    """A network in ONNX Runtime on one thread, with bound, preallocated input and output.

    Args:
        model: content of the ONNX file.
        what: its name in error texts.
        input: the array that :meth:`run` reads, (1, size) float32; it is bound, not copied.

    Raises:
        InputError: the model cannot be parsed or run, its weights are not finite, or its input
            has another size.
    """

    def __init__(self, model: bytes, what: str, input: Float32) -> None:
        proto = parse_onnx(model, what)
        self.input_size, self.output_size = io_sizes(proto, what)
        if self.input_size != input.size:
            raise InputError(
                f"{what}: expected an input of {input.size} values, which is what the observation "
                f"terms of config.json add up to, got a network with {self.input_size}; "
                "the network and the declared observation do not belong together"
            )
        self._session = open_session(model, what)
        self._input = input
        self.output: Float32 = np.zeros(self.output_size, dtype=np.float32)
        """What :meth:`run` writes, (output_size,) float32."""
        graph_in, graph_out = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self._binding = self._session.io_binding()
        self._binding.bind_input(
            graph_in.name, "cpu", 0, np.float32, _fixed(graph_in.shape), input.ctypes.data
        )
        self._binding.bind_output(
            graph_out.name, "cpu", 0, np.float32, _fixed(graph_out.shape), self.output.ctypes.data
        )
        try:
            self.run()
        except Exception as error:
            raise InputError(
                f"{what}: expected a model that runs on {self.input_size} values, but ONNX Runtime "
                f"stops with: {str(error).splitlines()[0]}"
            ) from error
        if not np.isfinite(self.output).all():
            raise InputError(
                f"{what}: expected finite outputs for an input of zeros, got NaN or infinity; "
                "the training diverged or the file is damaged"
            )

    def run(self) -> None:
        """One inference from the bound input to :attr:`output`."""
        self._session.run_with_iobinding(self._binding)


def _fixed(shape: list[int | str | None]) -> list[int]:
    return [dim if isinstance(dim, int) and dim > 0 else 1 for dim in shape]
