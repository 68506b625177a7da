"""Makes the input size of an ONNX graph symbolic, without any ONNX package.

An exported detector often declares the one picture size it was exported with, although nothing in
its graph depends on that size. A runtime believes the declaration and refuses any other picture.
This rewrites the declarations only: no node and no weight is touched, so that the result computes
what the original computes.

What changes, in the terms of onnx.proto:
  ModelProto.graph (7)
    GraphProto.input (11)       the named input's last two dimensions become `height` and `width`, the
                                first `batch` if it was exported for more than one picture at a time
                                removed: one that only names a weight. Old exporters list them all, and
                                a runtime must then expect other weights with each picture, and folds
                                none of them
    GraphProto.output (12)      the dimensions that depend on the picture become symbolic (the caller
                                says which: `symbolic_output_dims`)
    GraphProto.value_info (13)  removed: inferred for the old size, and only a hint to a runtime
Every other byte is copied, in its order, so the same input always gives the same output.
"""

GRAPH = 7
GRAPH_WEIGHT, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO = 5, 11, 12, 13
WEIGHT_NAME = 8
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR = 1
TENSOR_SHAPE = 2
SHAPE_DIM = 1
DIM_VALUE, DIM_PARAM = 1, 2

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class NotAnOnnxGraph(Exception):
    """The bytes are not the protobuf message that was expected there."""


def _read_varint(data, at):
    value, shift = 0, 0
    while True:
        if at >= len(data) or shift > 63:
            raise NotAnOnnxGraph("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data):
    """Yields (number, wire type, value, the field's own bytes), in order."""
    at = 0
    while at < len(data):
        start = at
        key, at = _read_varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _read_varint(data, at)
        elif wire == BYTES:
            length, at = _read_varint(data, at)
            value, at = data[at : at + length], at + length
        elif wire in (FIXED64, FIXED32):
            width = 8 if wire == FIXED64 else 4
            value, at = data[at : at + width], at + width
        else:
            raise NotAnOnnxGraph(f"field {number} has the unknown wire type {wire}")
        if at > len(data):
            raise NotAnOnnxGraph(f"field {number} is cut off")
        yield number, wire, value, data[start:at]


def _message(number, value):
    return _varint(number << 3 | BYTES) + _varint(len(value)) + value


def _rewrite(data, path, change):
    """Rewrites the sub-messages found along `path`, leaving every other byte as it is."""
    if not path:
        return change(data)
    out = bytearray()
    for number, wire, value, raw in _fields(data):
        if number == path[0] and wire == BYTES:
            out += _message(number, _rewrite(value, path[1:], change))
        else:
            out += raw
    return bytes(out)


def _name(message, field=VALUE_NAME):
    for number, wire, value, _ in _fields(message):
        if number == field and wire == BYTES:
            return value.decode()
    return ""


def _with_dims(value_info, rename):
    """`rename(index, declared size or None)` gives the symbol of a dimension, or None to keep it."""

    def shape(data):
        out, index = bytearray(), 0
        for number, wire, value, raw in _fields(data):
            if number == SHAPE_DIM and wire == BYTES:
                size = next((v for n, _, v, _ in _fields(value) if n == DIM_VALUE), None)
                symbol = rename(index, size)
                index += 1
                raw = raw if symbol is None else _message(SHAPE_DIM, _message(DIM_PARAM, symbol.encode()))
            out += raw
        return bytes(out)

    return _rewrite(value_info, [VALUE_TYPE, TYPE_TENSOR, TENSOR_SHAPE], shape)


def make_input_size_symbolic(model, input_name, symbolic_output_dims=(1,)):
    """Returns the model with the height and width of `input_name` (laid out NCHW) symbolic."""
    found = []

    def input_symbol(index, size):
        if index == 0:
            return None if size in (None, 1) else "batch"
        return {2: "height", 3: "width"}.get(index)

    def graph(data):
        out = bytearray()
        weights = {_name(value, WEIGHT_NAME) for number, _, value, _ in _fields(data) if number == GRAPH_WEIGHT}
        for number, wire, value, raw in _fields(data):
            if number == GRAPH_INPUT and _name(value) == input_name:
                found.append(input_name)
                raw = _message(number, _with_dims(value, input_symbol))
            elif number == GRAPH_INPUT and _name(value) in weights:
                continue
            elif number == GRAPH_OUTPUT:
                name = _name(value)
                raw = _message(
                    number,
                    _with_dims(value, lambda i, _, n=name: f"{n}_{i}" if i in symbolic_output_dims else None),
                )
            elif number == GRAPH_VALUE_INFO:
                continue
            out += raw
        return bytes(out)

    result = _rewrite(model, [GRAPH], graph)
    if not found:
        raise NotAnOnnxGraph(f"the graph has no input named {input_name!r}")
    return result
