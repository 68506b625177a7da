//! What is missing between the rows of a camera that came over.

/// Holes of one camera and epoch that are kept in mind; more are lost without a gap record.
const MOST_HOLES: usize = 1000;

/// The rows of one camera and epoch, as far as they came over.
#[derive(Debug, Default)]
pub struct Line {
    /// The `seq` that should come next; unknown where an earlier run began.
    pub next: Option<u64>,
    pub holes: Vec<(u64, u64)>,
    /// Of the newest row: its times stamp the gap of what is missing behind it.
    pub headers: String,
}

impl Line {
    pub fn new(next: Option<u64>) -> Self {
        Self { next, ..Self::default() }
    }

    /// A row or a gap record accounts for this run. One that is behind the others takes it out of the
    /// holes that they left.
    pub fn told(&mut self, (first, last): (u64, u64)) {
        if let Some(next) = self.next
            && next < first
            && self.holes.len() < MOST_HOLES
        {
            self.holes.push((next, first - 1));
        }
        let around = |(from, to): (u64, u64)| {
            [(from, to.min(first.saturating_sub(1))), (from.max(last.saturating_add(1)), to)]
        };
        let holes = std::mem::take(&mut self.holes).into_iter().flat_map(around);
        self.holes = holes.filter(|(from, to)| from <= to).collect();
        self.next = Some(self.next.unwrap_or(0).max(last.saturating_add(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_what_neither_rows_nor_gap_records_tell() {
        let mut line = Line::new(Some(1));
        for run in [(4, 4), (5, 9), (20, 20), (1, 2), (12, 15)] {
            line.told(run);
        }
        assert_eq!((line.holes, line.next), (vec![(3, 3), (10, 11), (16, 19)], Some(21)));
    }

    #[test]
    fn what_came_over_in_an_earlier_run_is_no_hole() {
        let mut line = Line::new(None);
        line.told((40, 40));
        line.told((42, 42));
        assert_eq!(line.holes, [(41, 41)]);
    }
}
