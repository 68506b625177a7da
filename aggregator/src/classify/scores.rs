//! What a model's numbers say: probabilities, the surest labels. Pure.

use super::description::Scores;

/// A label's place in the model's output, and how sure the model is of it, 0 to 1.
pub type Ranked = (usize, f32);

/// How far a probability may lie beyond 0 to 1 by rounding.
const SLACK: f32 = 1e-3;

/// The surest labels, the surest first; of equally sure ones the first. None if a number is none, or no
/// probability where it should be one.
pub fn surest(numbers: &[f32], scores: Scores, top: usize) -> Option<Vec<Ranked>> {
    let probabilities = match scores {
        Scores::Probabilities => probabilities(numbers)?,
        Scores::Logits => softmax(numbers)?,
    };
    let mut ranked: Vec<Ranked> = probabilities.into_iter().enumerate().collect();
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranked.truncate(top);
    Some(ranked)
}

/// The first number that is none, or no probability.
pub fn strange(numbers: &[f32], scores: Scores) -> Option<f32> {
    let is_fine = |number: &f32| match scores {
        Scores::Probabilities => is_probability(*number),
        Scores::Logits => number.is_finite(),
    };
    numbers.iter().copied().find(|number| !is_fine(number))
}

fn is_probability(number: f32) -> bool {
    (-SLACK..=1.0 + SLACK).contains(&number)
}

fn probabilities(numbers: &[f32]) -> Option<Vec<f32>> {
    numbers
        .iter()
        .all(|number| is_probability(*number))
        .then(|| numbers.iter().map(|n| n.clamp(0.0, 1.0)).collect())
}

/// Against the greatest, so that no exponential leaves the range.
fn softmax(numbers: &[f32]) -> Option<Vec<f32>> {
    if !numbers.iter().all(|number| number.is_finite()) {
        return None;
    }
    let greatest = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = numbers.iter().map(|number| (number - greatest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    Some(powers.into_iter().map(|power| power / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surest_come_first_and_no_more_than_are_asked_for() {
        let numbers = [0.1, 0.6, 0.1, 0.2];
        let surest = |top| surest(&numbers, Scores::Probabilities, top).unwrap();
        assert_eq!(surest(3), [(1, 0.6), (3, 0.2), (0, 0.1)]);
        assert_eq!(surest(9).len(), 4);
    }

    #[test]
    fn logits_become_probabilities_however_large_they_are() {
        let of = |numbers: &[f32]| surest(numbers, Scores::Logits, 2).unwrap();
        let (e, sum) = (1f32.exp(), 1f32.exp() + 2.0);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        for shift in [0.0, 1e4, -1e4] {
            let ranked = of(&[shift, shift + 1.0, shift]);
            assert!(ranked[0].0 == 1 && near(ranked[0].1, e / sum), "{ranked:?}");
            assert!(ranked[1].0 == 0 && near(ranked[1].1, 1.0 / sum), "{ranked:?}");
        }
    }

    #[test]
    fn the_first_number_is_told_that_is_no_score() {
        assert_eq!(strange(&[0.5, 1.000_01, 3.0, -2.0], Scores::Probabilities), Some(3.0));
        assert!(strange(&[3.0, f32::NAN], Scores::Logits).unwrap().is_nan());
        assert_eq!(strange(&[3.0, -2.0], Scores::Logits), None);
    }

    #[test]
    fn what_is_no_number_or_no_probability_is_no_result() {
        for numbers in [[f32::NAN, 0.0], [0.5, 1.5], [-0.5, 0.5], [f32::INFINITY, 0.0]] {
            assert_eq!(surest(&numbers, Scores::Probabilities, 1), None, "{numbers:?}");
        }
        assert_eq!(surest(&[f32::NAN, 0.0], Scores::Logits, 1), None);
        // A sum of rounded exponentials.
        assert_eq!(surest(&[1.000_01], Scores::Probabilities, 1), Some(vec![(0, 1.0)]));
    }
}
