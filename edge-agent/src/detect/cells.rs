//! A picture's luma in cells, and the one factor that most of them have changed by. Pure.
//!
//! Before cells are compared, the one factor that most of them have changed by is taken out: a
//! camera that adapts its exposure changes the whole picture, and nothing in it has moved. The
//! median of the cells' quotients is that factor as long as less than half of the picture moves; a
//! mean would be drawn along by the very thing that is looked for.

use crate::capture::planes::Plane;

/// Cells from the left to the right, at most: a tenth of the width is some 16 of them, and the
/// smallest face that the detector finds at its default width has 5x5.
const COLUMNS: u32 = 160;
/// Pixels of a cell's side, at least.
const LEAST_CELL_PX: u32 = 4;
/// Quotients are counted in steps of 1/256, up to 4.
pub const ONE: u32 = 256;
const QUOTIENTS: usize = 4 * ONE as usize;
/// Cells darker than this say nothing about a factor: their rounding is a tenth of their value.
const DARK: u32 = 10;

/// The median quotient of what is and what was, in 256ths, of the cells that can tell: neither dark
/// nor at the end of the range. 1 if these are too few.
pub fn factor(pairs: impl Iterator<Item = (u32, u32)>, white: u32) -> u32 {
    let mut counts = [0u32; QUOTIENTS];
    let (mut all, mut telling) = (0u32, 0u32);
    let tells = DARK..white - 2;
    for (now, then) in pairs {
        all += 1;
        if tells.contains(&then) && tells.contains(&now) {
            telling += 1;
            counts[((now * ONE + then / 2) / then).min(QUOTIENTS as u32 - 1) as usize] += 1;
        }
    }
    if telling * 8 < all {
        return ONE;
    }
    let mut below = 0;
    let median = counts.iter().position(|count| {
        below += count;
        below * 2 >= telling
    });
    median.map_or(ONE, |quotient| quotient as u32)
}

/// A picture's luma, cell by cell.
#[derive(Default)]
pub struct Cells {
    px: (u32, u32),
    /// How many in a row.
    pub columns: usize,
    /// Row by row.
    pub levels: Vec<u8>,
    sums: Vec<u32>,
}

impl Cells {
    /// Takes the means of the cells; true if the picture has another size than the one before.
    pub fn fill(&mut self, luma: Plane<'_>) -> bool {
        let px = (luma.width, luma.height);
        let is_new = self.px != px;
        self.px = px;
        let cell = luma.width.div_ceil(COLUMNS).max(LEAST_CELL_PX) as usize;
        let (width, height) = (luma.width as usize, luma.height as usize);
        self.columns = width.div_ceil(cell);
        self.sums.resize(self.columns, 0);
        self.levels.clear();
        let rows = luma.data.chunks(luma.stride).take(height);
        let rows: Vec<&[u8]> = rows.map(|row| &row[..width]).collect();
        for rows in rows.chunks(cell) {
            // Every second row: half of the pixels tell the same.
            self.sums.fill(0);
            let mut taken = 0;
            for row in rows.iter().step_by(2) {
                for (sum, pixels) in self.sums.iter_mut().zip(row.chunks(cell)) {
                    *sum += pixels.iter().map(|pixel| u32::from(*pixel)).sum::<u32>();
                }
                taken += 1;
            }
            let pixels = |column: usize| (cell.min(width - column * cell) * taken) as u32;
            let means = self.sums.iter().enumerate();
            self.levels.extend(means.map(|(column, sum)| (sum / pixels(column)) as u8));
        }
        is_new
    }
}
