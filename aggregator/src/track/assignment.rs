//! The best pairing of rows with columns: the set of pairs, each row and column in at most one,
//! with the greatest total gain. Exact (shortest augmenting paths, as in Jonker and Volgenant), and
//! tested against trying all of them.
//!
//! Few rows and columns can pair at all, so the pairs are first split into groups that share no
//! row or column, and each group is solved alone. A crowded frame then costs little more than its
//! densest cluster.

/// A row and a column that may be paired, and what that is worth (above 0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    pub row: usize,
    pub column: usize,
    pub gain: f64,
}

/// The pairs of the best pairing, by row. Equal solutions are told apart by the order of `pairs`
/// alone, so the answer is the same on every machine.
pub(super) fn best_pairs(rows: usize, columns: usize, pairs: &[Pair]) -> Vec<(usize, usize)> {
    let mut chosen = Vec::new();
    for group in groups(rows, columns, pairs) {
        match group.as_slice() {
            [only] => chosen.push((only.row, only.column)),
            _ => solve(&group, &mut chosen),
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Splits pairs into groups that share no row and no column.
fn groups(rows: usize, columns: usize, pairs: &[Pair]) -> Vec<Vec<Pair>> {
    // Rows and columns are the nodes of one graph; `leader` is a disjoint-set forest over them.
    let mut leader: Vec<usize> = (0..rows + columns).collect();
    for pair in pairs {
        let (row, column) = (find(&mut leader, pair.row), find(&mut leader, rows + pair.column));
        leader[row.max(column)] = row.min(column);
    }
    let mut group_of = vec![usize::MAX; rows + columns];
    let mut groups: Vec<Vec<Pair>> = Vec::new();
    for pair in pairs {
        let root = find(&mut leader, pair.row);
        if group_of[root] == usize::MAX {
            group_of[root] = groups.len();
            groups.push(Vec::new());
        }
        groups[group_of[root]].push(*pair);
    }
    groups
}

fn find(leader: &mut [usize], mut node: usize) -> usize {
    while leader[node] != node {
        leader[node] = leader[leader[node]];
        node = leader[node];
    }
    node
}

/// Solves one group and appends its pairs to `chosen`.
fn solve(group: &[Pair], chosen: &mut Vec<(usize, usize)>) {
    let mut rows: Vec<usize> = group.iter().map(|p| p.row).collect();
    let mut columns: Vec<usize> = group.iter().map(|p| p.column).collect();
    for side in [&mut rows, &mut columns] {
        side.sort_unstable();
        side.dedup();
    }
    // The solver wants no more rows than columns.
    let turned = rows.len() > columns.len();
    let (short, long) = if turned { (&columns, &rows) } else { (&rows, &columns) };
    // A pair that may not be costs 0, as leaving both alone does; it is dropped below.
    let mut cost = vec![0.0; short.len() * long.len()];
    for pair in group {
        let (a, b) = if turned { (pair.column, pair.row) } else { (pair.row, pair.column) };
        let (Ok(a), Ok(b)) = (short.binary_search(&a), long.binary_search(&b)) else {
            continue;
        };
        cost[a * long.len() + b] = -pair.gain;
    }
    for (b, a) in cheapest(&cost, short.len(), long.len()).into_iter().enumerate() {
        let Some(a) = a else { continue };
        if cost[a * long.len() + b] < 0.0 {
            let (a, b) = (short[a], long[b]);
            chosen.push(if turned { (b, a) } else { (a, b) });
        }
    }
}

/// For each column the row it goes to, so that every row has one and the total cost is least.
/// Needs `rows <= columns`.
fn cheapest(cost: &[f64], rows: usize, columns: usize) -> Vec<Option<usize>> {
    let mut row_price = vec![0.0; rows];
    let mut column_price = vec![0.0; columns];
    let mut row_of: Vec<Option<usize>> = vec![None; columns];
    for start in 0..rows {
        // Dijkstra from `start` over reduced costs to the nearest free column.
        let mut distance = vec![f64::INFINITY; columns];
        let mut came_from: Vec<Option<usize>> = vec![None; columns];
        let mut done = vec![false; columns];
        let (mut row, mut at, mut walked) = (start, None, 0.0);
        let end = loop {
            let mut nearest: Option<usize> = None;
            for column in (0..columns).filter(|&c| !done[c]) {
                let reduced = cost[row * columns + column] - row_price[row] - column_price[column];
                if walked + reduced < distance[column] {
                    distance[column] = walked + reduced;
                    came_from[column] = at;
                }
                if nearest.is_none_or(|best| distance[column] < distance[best]) {
                    nearest = Some(column);
                }
            }
            // With no more rows than columns a free column is always left.
            let Some(column) = nearest else { return row_of };
            done[column] = true;
            walked = distance[column];
            at = Some(column);
            match row_of[column] {
                Some(taken) => row = taken,
                None => break column,
            }
        };
        for column in (0..columns).filter(|&c| done[c]) {
            let slack = walked - distance[column];
            column_price[column] -= slack;
            if let Some(taken) = row_of[column] {
                row_price[taken] += slack;
            }
        }
        row_price[start] += walked;
        // Hand each column on the path to the row before it.
        let mut column = end;
        while let Some(before) = came_from[column] {
            row_of[column] = row_of[before];
            column = before;
        }
        row_of[column] = Some(start);
    }
    row_of
}

#[cfg(test)]
mod tests {
    use super::super::scene::Dice;
    use super::*;

    fn total(pairs: &[Pair], chosen: &[(usize, usize)]) -> f64 {
        let gain = |&(r, c)| pairs.iter().find(|p| (p.row, p.column) == (r, c)).unwrap().gain;
        chosen.iter().map(gain).sum()
    }

    /// The greatest total gain, by trying every pairing.
    fn best_by_trying(pairs: &[Pair], used_rows: u32, used_columns: u32) -> f64 {
        let Some((first, rest)) = pairs.split_first() else {
            return 0.0;
        };
        let without = best_by_trying(rest, used_rows, used_columns);
        let (row, column) = (1 << first.row, 1 << first.column);
        if used_rows & row != 0 || used_columns & column != 0 {
            return without;
        }
        without.max(first.gain + best_by_trying(rest, used_rows | row, used_columns | column))
    }

    #[test]
    fn no_pairing_is_better_than_the_one_chosen() {
        let mut dice = Dice::new(1);
        for round in 0..2000 {
            let (rows, columns) = (1 + dice.below(5), 1 + dice.below(5));
            let density = 0.2 + 0.8 * dice.unit();
            let mut pairs = Vec::new();
            for row in 0..rows {
                for column in 0..columns {
                    if dice.unit() < density {
                        // Few distinct gains, so that ties are common.
                        let gain = if round % 2 == 0 {
                            dice.unit() + 1e-9
                        } else {
                            0.25 * (1 + dice.below(3)) as f64
                        };
                        pairs.push(Pair { row, column, gain });
                    }
                }
            }
            let chosen = best_pairs(rows, columns, &pairs);
            for (i, a) in chosen.iter().enumerate() {
                for b in &chosen[i + 1..] {
                    assert!(a.0 != b.0 && a.1 != b.1, "used twice: {chosen:?}");
                }
            }
            let (found, best) = (total(&pairs, &chosen), best_by_trying(&pairs, 0, 0));
            assert!((found - best).abs() < 1e-9, "round {round}: {found} < {best} for {pairs:?}");
        }
    }

    #[test]
    fn nothing_to_pair_gives_nothing() {
        assert_eq!(best_pairs(0, 0, &[]), []);
        assert_eq!(best_pairs(3, 2, &[]), []);
    }
}
