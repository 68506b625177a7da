//! Generated ONNX models that find coloured squares: each in the shape that one of the decoders reads.
//!
//! A cell of 8x8 pixels is a box. How red and how blue it is on average is how sure the model is of
//! `red` and `blue`. So the boxes are known from the picture alone, and a wrong order of colours, scale,
//! place or shape shows. The bytes are written here as onnx.proto says; ONNX Runtime checks them.

/// Width and height of the model's picture.
pub const SIDE: usize = 64;
/// Width and height of a cell.
const CELL: usize = 8;
const COLUMNS: usize = SIDE / CELL;
const CELLS: usize = COLUMNS * COLUMNS;

const FLOAT32: u64 = 1;
const INT64: u64 = 7;
const FLOAT16: u64 = 10;

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7F {
        out.push(value as u8 & 0x7F | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn message(field: u64, parts: &[Vec<u8>]) -> Vec<u8> {
    bytes(field, &parts.concat())
}

fn value_info(field: u64, name: &str, kind: u64, dims: &[i64]) -> Vec<u8> {
    let dims: Vec<Vec<u8>> = dims.iter().map(|dim| message(1, &[number(1, *dim as u64)])).collect();
    let tensor = message(1, &[number(1, kind), message(2, &dims)]);
    message(field, &[bytes(1, name.as_bytes()), message(2, &[tensor])])
}

fn weight(name: &str, kind: u64, dims: &[usize], data: Vec<u8>) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = dims.iter().map(|dim| number(1, *dim as u64)).collect();
    parts.extend([number(2, kind), bytes(8, name.as_bytes()), bytes(9, &data)]);
    message(5, &parts)
}

fn floats(name: &str, dims: &[usize], values: &[f32]) -> Vec<u8> {
    weight(name, FLOAT32, dims, values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn integers(name: &str, values: &[i64]) -> Vec<u8> {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    weight(name, INT64, &[values.len()], data)
}

/// An attribute that is a list of whole numbers.
fn list(name: &str, values: &[u64]) -> Vec<u8> {
    let mut parts = vec![bytes(1, name.as_bytes()), number(20, 7)];
    parts.extend(values.iter().map(|value| number(8, *value)));
    message(5, &parts)
}

/// An attribute that is a whole number.
fn integer(name: &str, value: u64) -> Vec<u8> {
    message(5, &[bytes(1, name.as_bytes()), number(20, 2), number(3, value)])
}

fn node(kind: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = inputs.iter().map(|input| bytes(1, input.as_bytes())).collect();
    parts.extend([bytes(2, output.as_bytes()), bytes(4, kind.as_bytes())]);
    parts.extend_from_slice(attributes);
    message(1, &parts)
}

fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    let opset = message(8, &[number(2, 11)]);
    [number(1, 6), opset, message(7, graph)].concat()
}

/// What each cell's numbers are computed from: `sure`, 1 x 2 x cells, how red and how blue.
fn sureness() -> Vec<Vec<u8>> {
    let cell = CELL as u64;
    let sizes = [list("kernel_shape", &[cell, cell]), list("strides", &[cell, cell])];
    vec![
        bytes(2, b"squares"),
        node("AveragePool", &["images"], "pooled", &sizes),
        node("Gather", &["pooled", "red_blue"], "colours", &[integer("axis", 1)]),
        node("Reshape", &["colours", "flat"], "sure", &[]),
        integers("red_blue", &[0, 2]),
        integers("flat", &[1, 2, CELLS as i64]),
    ]
}

fn side() -> [i64; 4] {
    [1, 3, SIDE as i64, SIDE as i64]
}

/// The same number of values for each cell, value by value.
fn by_value(of: impl Fn(f32, f32) -> Vec<f32>) -> (usize, Vec<f32>) {
    let cells: Vec<Vec<f32>> = (0..CELLS)
        .map(|cell| of((cell % COLUMNS * CELL) as f32, (cell / COLUMNS * CELL) as f32))
        .collect();
    let width = cells[0].len();
    (width, (0..width).flat_map(|value| cells.iter().map(move |cell| cell[value])).collect())
}

/// A graph whose output is `constants` and `sure` side by side, `transposed` to a row for each cell.
fn of_constants(constants: (usize, Vec<f32>), transposed: bool) -> Vec<u8> {
    let (width, values) = constants;
    let mut graph = sureness();
    graph.push(floats("constants", &[1, width, CELLS], &values));
    let (cells, all) = (CELLS as i64, width as i64 + 2);
    let inputs = ["constants", "sure"];
    if transposed {
        graph.push(node("Concat", &inputs, "columns", &[integer("axis", 1)]));
        graph.push(node("Transpose", &["columns"], "output0", &[list("perm", &[0, 2, 1])]));
        graph.push(value_info(12, "output0", FLOAT32, &[1, cells, all]));
    } else {
        graph.push(node("Concat", &inputs, "output0", &[integer("axis", 1)]));
        graph.push(value_info(12, "output0", FLOAT32, &[1, all, cells]));
    }
    graph.push(value_info(11, "images", FLOAT32, &side()));
    model(&graph)
}

/// 1 x (4 + 2) x 64.
pub fn yolov8() -> Vec<u8> {
    let cell = CELL as f32;
    of_constants(by_value(|x, y| vec![x + cell / 2.0, y + cell / 2.0, cell, cell]), false)
}

/// 1 x 64 x (5 + 2), each cell half sure that there is a thing.
pub fn yolov5() -> Vec<u8> {
    let cell = CELL as f32;
    of_constants(by_value(|x, y| vec![x + cell / 2.0, y + cell / 2.0, cell, cell, 0.5]), true)
}

/// 1 x (64 + 16 + 4) x (5 + 2); only the cells of 8 pixels find anything.
pub fn yolox() -> Vec<u8> {
    let mut graph = sureness();
    let (_, values) = by_value(|_, _| vec![0.5, 0.5, 0.0, 0.0, 1.0]);
    graph.extend([
        floats("constants", &[1, 5, CELLS], &values),
        floats("larger", &[1, 20, 7], &[0.0; 140]),
        node("Concat", &["constants", "sure"], "columns", &[integer("axis", 1)]),
        node("Transpose", &["columns"], "rows", &[list("perm", &[0, 2, 1])]),
        node("Concat", &["rows", "larger"], "output0", &[integer("axis", 1)]),
        value_info(12, "output0", FLOAT32, &[1, CELLS as i64 + 20, 7]),
        value_info(11, "images", FLOAT32, &side()),
    ]);
    model(&graph)
}

/// 1 x 64 x 6: the red ones only, all named label `label`.
pub fn yolov10(label: f32) -> Vec<u8> {
    let cell = CELL as f32;
    let (_, corners) = by_value(|x, y| vec![x, y, x + cell, y + cell]);
    let mut graph = sureness();
    graph.extend([
        floats("corners", &[1, 4, CELLS], &corners),
        floats("label", &[1, 1, CELLS], &[label; CELLS]),
        node("Gather", &["sure", "first"], "red", &[integer("axis", 1)]),
        integers("first", &[0]),
        node("Concat", &["corners", "red", "label"], "columns", &[integer("axis", 1)]),
        node("Transpose", &["columns"], "output0", &[list("perm", &[0, 2, 1])]),
        value_info(12, "output0", FLOAT32, &[1, CELLS as i64, 6]),
        value_info(11, "images", FLOAT32, &side()),
    ]);
    model(&graph)
}

/// A model that gives its input back, of other numbers or shape than a detector takes.
fn identity(kind: u64, dims: &[i64]) -> Vec<u8> {
    model(&[
        bytes(2, b"identity"),
        node("Identity", &["images"], "output0", &[]),
        value_info(12, "output0", kind, dims),
        value_info(11, "images", kind, dims),
    ])
}

/// Takes a picture of 16-bit numbers.
pub fn of_float16() -> Vec<u8> {
    identity(FLOAT16, &side())
}

/// Takes four pictures at a time.
pub fn of_four_pictures() -> Vec<u8> {
    identity(FLOAT32, &[4, 3, SIDE as i64, SIDE as i64])
}

/// Takes the colours of a pixel side by side.
pub fn of_pixels() -> Vec<u8> {
    identity(FLOAT32, &[1, SIDE as i64, SIDE as i64, 3])
}
