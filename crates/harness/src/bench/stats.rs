//! What is said of repeated measurements: medians, spreads, percentiles, and ratios pair by pair.
//!
//! Invariants: pure; nothing here is asked about an empty set; quartiles are interpolated linearly between the
//! two nearest values, percentiles are values that were really measured (nearest rank).

use std::time::Duration;

use serde::Serialize;

/// Above this relative spread of its ratios a comparison counts as noisy.
pub(crate) const NOISY: f64 = 0.25;

/// Where a set of measurements lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The first quartile.
    pub(crate) q1: f64,
    /// The third quartile.
    pub(crate) q3: f64,
}

impl Spread {
    /// # Panics
    /// When there is no value, or one that is no number.
    pub(crate) fn of(values: &[f64]) -> Self {
        assert!(!values.is_empty(), "a spread of nothing");
        assert!(values.iter().all(|value| value.is_finite()), "not a number among {values:?}");
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: quantile(&sorted, 0.5),
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            q1: quantile(&sorted, 0.25),
            q3: quantile(&sorted, 0.75),
        }
    }

    /// From the smallest to the largest, as a part of the median.
    pub(crate) fn relative(&self) -> f64 {
        if self.max == self.min { 0.0 } else { (self.max - self.min) / self.median.abs() }
    }
}

fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    // Within 0 and the last index, both small: the casts keep the value.
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

/// The ratios of first to second, each pair for itself: what slows the machine for a while slows both.
pub(crate) fn ratios(pairs: &[(f64, f64)]) -> Vec<f64> {
    pairs.iter().map(|(subject, reference)| subject / reference).collect()
}

/// Latencies of single calls.
#[derive(Debug, Default, Clone)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest one that at least `percent` of all do not exceed, in milliseconds; 0 when there is none.
    pub(crate) fn percentile_ms(&mut self, percent: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        self.0.sort_unstable();
        // At most the number of values: the cast keeps it.
        let rank = (percent / 100.0 * self.0.len() as f64).ceil().max(1.0) as usize;
        self.0[rank.min(self.0.len()) - 1].as_secs_f64() * 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_number_has_a_middle_and_an_even_one_the_mean_of_two() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Spread::of(&[4.0, 1.0, 3.0, 2.0]).median, 2.5);
        let one = Spread::of(&[7.0]);
        assert_eq!((one.median, one.min, one.max, one.q1, one.q3), (7.0, 7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn quartiles_are_interpolated_and_the_order_does_not_matter() {
        let spread = Spread::of(&[50.0, 10.0, 40.0, 20.0, 30.0]);
        assert_eq!((spread.q1, spread.q3), (20.0, 40.0));
        let spread = Spread::of(&[4.0, 3.0, 2.0, 1.0]);
        assert_eq!((spread.q1, spread.q3), (1.75, 3.25));
        assert_eq!((spread.min, spread.max), (1.0, 4.0));
    }

    #[test]
    fn the_relative_spread_is_told_against_the_median() {
        assert_eq!(Spread::of(&[8.0, 10.0, 12.0]).relative(), 0.4);
        assert_eq!(Spread::of(&[5.0, 5.0]).relative(), 0.0);
        assert_eq!(Spread::of(&[0.0, 0.0]).relative(), 0.0);
    }

    #[test]
    #[should_panic(expected = "a spread of nothing")]
    fn nothing_has_no_spread() {
        let _ = Spread::of(&[]);
    }

    #[test]
    #[should_panic(expected = "not a number")]
    fn what_is_no_number_is_noticed() {
        let _ = Spread::of(&[1.0, f64::NAN]);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair_not_of_the_medians() {
        // A machine that is twice as slow in the second pair: both halves of it are, the ratio stays.
        let ratios = ratios(&[(10.0, 20.0), (5.0, 10.0), (8.0, 16.0)]);
        assert_eq!(ratios, [0.5, 0.5, 0.5]);
        assert_eq!(Spread::of(&ratios).relative(), 0.0);
    }

    #[test]
    fn percentiles_are_measured_values() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_ms(50.0), 0.0);
        for ms in (1..=200).rev() {
            latencies.push(Duration::from_millis(ms));
        }
        assert_eq!(latencies.percentile_ms(50.0), 100.0);
        assert_eq!(latencies.percentile_ms(99.0), 198.0);
        assert_eq!(latencies.percentile_ms(100.0), 200.0);
        assert_eq!(latencies.percentile_ms(0.0), 1.0);
        let mut more = Latencies::default();
        more.push(Duration::from_millis(500));
        latencies.merge(more);
        assert_eq!((latencies.len(), latencies.percentile_ms(100.0)), (201, 500.0));
    }
}
