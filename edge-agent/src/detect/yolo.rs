//! What the one output of a YOLO network means, in the shapes that its exporters give it. Pure.

use super::candidate::{Candidate, Output, OutputError, unit};

/// Pixels from one cell to the next, in each of YOLOX's three grids.
const STRIDES: [u32; 3] = [8, 16, 32];

/// `yolov5`: a row for each box, with x and y of the middle, width, height, how sure it is that there is
/// a thing, and how sure of each label.
pub fn decode_v5(
    output: &Output<'_>,
    labels: usize,
    least_score: f32,
) -> Result<Vec<Candidate>, OutputError> {
    let rows = rows(output, 5 + labels, &format!("5 + {labels} labels"))?;
    let sure = rows.filter_map(|row| of_row(row, least_score));
    Ok(sure.filter(Candidate::is_possible).collect())
}

/// `yolox`: as [`decode_v5`], where the boxes are the cells of three grids, row by row, and their numbers
/// are offsets and logarithms in cells.
pub fn decode_x(
    output: &Output<'_>,
    labels: usize,
    padded_px: (u32, u32),
    least_score: f32,
) -> Result<Vec<Candidate>, OutputError> {
    let grids = STRIDES.map(|stride| (stride, padded_px.0 / stride, padded_px.1 / stride));
    let cells: usize = grids.iter().map(|(_, w, h)| *w as usize * *h as usize).sum();
    output.expect(&[1, cells, 5 + labels])?;
    let cells = grids.into_iter().flat_map(|(stride, columns, rows)| {
        (0..rows).flat_map(move |row| (0..columns).map(move |column| [column, row, stride]))
    });
    let rows = output.values.chunks_exact(5 + labels);
    let sure = rows.zip(cells).filter_map(|(values, cell)| {
        let mut found = of_row(values, least_score)?;
        let [column, row, stride] = cell.map(|value| value as f32);
        let (width, height) = (values[2].exp() * stride, values[3].exp() * stride);
        let (x, y) = ((values[0] + column) * stride, (values[1] + row) * stride);
        found.box_px = around([x, y, width, height]);
        Some(found)
    });
    Ok(sure.filter(Candidate::is_possible).collect())
}

/// `yolov8`: a column for each box, with x and y of the middle, width, height, and how sure of each label.
pub fn decode_v8(
    output: &Output<'_>,
    labels: usize,
    least_score: f32,
) -> Result<Vec<Candidate>, OutputError> {
    let boxes = match *output.shape {
        [1, values, boxes] if usize::try_from(values) == Ok(4 + labels) => boxes as usize,
        _ => return Err(output.misshapen(format!("1 x (4 + {labels} labels) x boxes"))),
    };
    if boxes == 0 {
        return Ok(Vec::new());
    }
    // Label by label and not box by box: the numbers of one label lie side by side.
    let mut best = vec![(0.0, 0); boxes];
    for (label, scores) in output.values.chunks_exact(boxes).skip(4).enumerate() {
        for (best, score) in best.iter_mut().zip(scores) {
            let score = unit(*score);
            if score > best.0 {
                *best = (score, label);
            }
        }
    }
    let sure = best.into_iter().enumerate().filter(|(_, (score, _))| *score >= least_score);
    let sure = sure.map(|(at, (score, label))| {
        let of = |value: usize| output.values[value * boxes + at];
        let box_px = around([of(0), of(1), of(2), of(3)]);
        Candidate { box_px, score, label, landmarks: None }
    });
    Ok(sure.filter(Candidate::is_possible).collect())
}

/// `yolov10`: a row for each box, with two corners, how sure, and which label.
pub fn decode_v10(
    output: &Output<'_>,
    labels: usize,
    least_score: f32,
) -> Result<Vec<Candidate>, OutputError> {
    let mut found = Vec::new();
    for row in rows(output, 6, "6")? {
        let score = unit(row[4]);
        if score < least_score {
            continue;
        }
        let label = label(row[5], labels).ok_or_else(|| OutputError::Label {
            name: output.name.to_owned(),
            label: row[5].to_string(),
            labels,
        })?;
        let box_px = [row[0], row[1], row[2] - row[0], row[3] - row[1]];
        found.push(Candidate { box_px, score, label, landmarks: None });
    }
    found.retain(Candidate::is_possible);
    Ok(found)
}

fn label(value: f32, labels: usize) -> Option<usize> {
    (value >= 0.0 && value < labels as f32).then_some(value as usize)
}

/// The rows of an output of 1 x rows x `width` numbers.
fn rows<'a>(
    output: &Output<'a>,
    width: usize,
    in_words: &str,
) -> Result<std::slice::ChunksExact<'a, f32>, OutputError> {
    match *output.shape {
        [1, _, found] if usize::try_from(found) == Ok(width) => {
            Ok(output.values.chunks_exact(width))
        }
        _ => Err(output.misshapen(format!("1 x boxes x ({in_words})"))),
    }
}

/// The surest label of a row of `yolov5`, if it is sure enough.
fn of_row(row: &[f32], least_score: f32) -> Option<Candidate> {
    let thing = unit(row[4]);
    if thing < least_score {
        return None;
    }
    let mut best = (0.0, 0);
    for (label, sure) in row[5..].iter().enumerate() {
        let score = thing * unit(*sure);
        if score > best.0 {
            best = (score, label);
        }
    }
    let (score, label) = best;
    let box_px = around([row[0], row[1], row[2], row[3]]);
    (score >= least_score).then_some(Candidate { box_px, score, label, landmarks: None })
}

/// The box around a middle.
fn around([x, y, width, height]: [f32; 4]) -> [f32; 4] {
    [x - width / 2.0, y - height / 2.0, width, height]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output<'a>(shape: &'a [i64], values: &'a [f32]) -> Output<'a> {
        Output { name: "output0", shape, values }
    }

    fn found(box_px: [f32; 4], score: f32, label: usize) -> Candidate {
        Candidate { box_px, score, label, landmarks: None }
    }

    #[test]
    fn v5_takes_the_surest_label_times_the_sureness_of_a_thing() {
        #[rustfmt::skip]
        let values = [
            50.0, 40.0, 20.0, 10.0, 0.5, 0.25, 1.0,
            50.0, 40.0, 20.0, 10.0, 0.5, 0.75, 0.25,
            f32::NAN, 40.0, 20.0, 10.0, 1.0, 1.0, 0.0,
        ];
        let all = decode_v5(&output(&[1, 3, 7], &values), 2, 0.5).unwrap();
        assert_eq!(all, [found([40.0, 35.0, 20.0, 10.0], 0.5, 1)]);
    }

    #[test]
    fn v8_reads_columns() {
        #[rustfmt::skip]
        let values = [
            50.0, 10.0, 5.0,
            40.0, 10.0, 5.0,
            20.0, 4.0, f32::INFINITY,
            10.0, 4.0, 1.0,
            0.1, 0.75, 1.0,
            0.9, f32::NAN, 0.0,
        ];
        let all = decode_v8(&output(&[1, 6, 3], &values), 2, 0.5).unwrap();
        let expected =
            [found([40.0, 35.0, 20.0, 10.0], 0.9, 1), found([8.0, 8.0, 4.0, 4.0], 0.75, 0)];
        assert_eq!(all, expected);
        assert_eq!(decode_v8(&output(&[1, 6, 0], &[]), 2, 0.5).unwrap(), []);
    }

    #[test]
    fn v10_reads_corners_and_refuses_a_label_that_is_not_listed() {
        #[rustfmt::skip]
        let values = [
            10.0, 20.0, 30.0, 60.0, 0.9, 1.0,
            30.0, 20.0, 10.0, 60.0, 0.9, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.0, -1.0,
        ];
        let all = decode_v10(&output(&[1, 3, 6], &values), 2, 0.5).unwrap();
        assert_eq!(all, [found([10.0, 20.0, 20.0, 40.0], 0.9, 1)]);
        let error = decode_v10(&output(&[1, 3, 6], &values), 1, 0.5).unwrap_err().to_string();
        assert!(error.contains("output0 names label 1") && error.contains("lists 1"), "{error}");
    }

    #[test]
    fn x_counts_the_cells_of_three_grids() {
        // 64x32 pixels: 8x4 cells of 8, 4x2 of 16, 2x1 of 32. The last cell is column 1 of 32.
        let mut values = vec![0.0; 42 * 6];
        values[41 * 6..].copy_from_slice(&[0.5, 0.25, 0.0, 2f32.ln(), 1.0, 0.8]);
        values[(32 + 5) * 6..(32 + 6) * 6].copy_from_slice(&[0.0, 0.0, 0.0, 0.0, 0.9, 1.0]);
        let all = decode_x(&output(&[1, 42, 6], &values), 1, (64, 32), 0.5).unwrap();
        assert_eq!(all[0], found([16.0 - 8.0, 16.0 - 8.0, 16.0, 16.0], 0.9, 0));
        assert_eq!(all[1].score, 0.8);
        for (value, expected) in all[1].box_px.into_iter().zip([32.0, 8.0 - 32.0, 32.0, 64.0]) {
            assert!((value - expected).abs() < 1e-4, "{all:?}");
        }
        let error = decode_x(&output(&[1, 42, 6], &values), 1, (64, 64), 0.5).unwrap_err();
        assert!(error.to_string().contains("must have 1 x 84 x 6"), "{error}");
    }

    #[test]
    fn another_number_of_labels_is_an_error_that_says_what_would_fit() {
        let values = [0.0; 84];
        let wide = output(&[1, 84, 1], &values);
        let error = decode_v8(&wide, 2, 0.5).unwrap_err().to_string();
        assert!(error.contains("has the shape 1 x 84 x 1"), "{error}");
        assert!(error.contains("1 x (4 + 2 labels) x boxes"), "{error}");
        let error = decode_v5(&wide, 2, 0.5).unwrap_err().to_string();
        assert!(error.contains("1 x boxes x (5 + 2 labels)"), "{error}");
        decode_v10(&wide, 2, 0.5).unwrap_err();
    }
}
