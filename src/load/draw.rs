//! What the next request is: a read or a write, and between which wallets. The same seed draws the same.

use crate::cli::Choice;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use uuid::Uuid;

/// A transfer that is drawn; wallets by their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Transfer {
    pub(super) from: u32,
    pub(super) to: u32,
    /// 1 to 9.
    pub(super) amount_minor: u8,
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// One transfer or a batch of them.
    Write,
    /// A wallet's balance.
    Balance,
    /// A transaction that was acknowledged.
    Transaction,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Write, Self::Balance, Self::Transaction];
}

/// Draws requests.
#[derive(Debug)]
pub(super) struct Draw {
    random: Xoshiro256PlusPlus,
    wallets: u32,
    skewed: Option<Zipf<f64>>,
    reads_percent: u8,
}

impl Draw {
    /// `stream` makes several of one seed differ: one for each thread.
    pub(super) fn new(
        seed: u64,
        stream: u64,
        wallets: u32,
        choice: Choice,
        reads_percent: u8,
    ) -> Self {
        // Neighbouring seeds are far apart behind the generator's own spreading of them.
        let mut random =
            Xoshiro256PlusPlus::seed_from_u64(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let _warm: u64 = random.random();
        let skewed = match choice {
            Choice::Uniform => None,
            Choice::Zipf { exponent } => Zipf::new(f64::from(wallets), exponent).ok(),
        };
        Self {
            random,
            wallets: wallets.max(2),
            skewed,
            reads_percent,
        }
    }

    pub(super) fn kind(&mut self) -> Kind {
        if self.reads_percent == 0 || self.below(100) >= u32::from(self.reads_percent) {
            Kind::Write
        } else if self.random.random::<bool>() {
            Kind::Balance
        } else {
            Kind::Transaction
        }
    }

    /// A wallet's number; in a skewed choice the lowest is the most frequent.
    pub(super) fn wallet(&mut self) -> u32 {
        match &self.skewed {
            None => self.below(self.wallets),
            Some(zipf) => {
                let rank = zipf.sample(&mut self.random);
                let rank = u32::try_from(super::numbers::floor(rank)).unwrap_or(self.wallets);
                rank.clamp(1, self.wallets) - 1
            }
        }
    }

    /// Payer and receiver differ.
    pub(super) fn transfer(&mut self) -> Transfer {
        let from = self.wallet();
        let to = if self.skewed.is_some() {
            let to = self.wallet();
            if to == from {
                (to + 1) % self.wallets
            } else {
                to
            }
        } else {
            // The others shifted by one: no second try.
            let other = self.below(self.wallets - 1);
            other + u32::from(other >= from)
        };
        let digit = u8::try_from(self.below(9)).unwrap_or(0);
        Transfer {
            from,
            to,
            amount_minor: digit + 1,
        }
    }

    /// The `number`-th of those in which each wallet takes part once.
    pub(super) fn transfer_in_turn(&mut self, number: u64) -> Transfer {
        let wallet = |nth: u64| u32::try_from(nth % u64::from(self.wallets)).unwrap_or(0);
        let (from, to) = (wallet(2 * number), wallet(2 * number + 1));
        Transfer {
            from,
            to,
            amount_minor: 1,
        }
    }

    /// From 0 up to `bound`, without it.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        // Lemire's multiplication, without its rejection: off by less than one in 2^32 / bound, and never a division.
        let product = u64::from(self.random.random::<u32>()) * u64::from(bound);
        u32::try_from(product >> 32).unwrap_or(0)
    }

    /// From 0 up to `bound`, without it.
    pub(super) fn below_u64(&mut self, bound: u64) -> u64 {
        self.random.random_range(0..bound.max(1))
    }

    /// For idempotency keys.
    pub(super) fn bits(&mut self) -> u64 {
        self.random.random()
    }
}

/// The id of a wallet of the runs with `seed`: a version 4 UUID that begins with the wallet's number, so that the
/// generator writes eight characters instead of an id.
pub fn wallet_id(seed: u64, number: u32) -> Uuid {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut bytes = [0; 16];
    let (first, second) = bytes.split_at_mut(8);
    first.copy_from_slice(&random.random::<u64>().to_be_bytes());
    second.copy_from_slice(&random.random::<u64>().to_be_bytes());
    if let Some(start) = first.first_chunk_mut() {
        *start = number.to_be_bytes();
    }
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::cast_precision_loss, reason = "statistics of small counts")]
    use super::*;
    use proptest::prelude::*;

    fn counts(choice: Choice, wallets: u32, draws: u32, seed: u64) -> Vec<u32> {
        let mut draw = Draw::new(seed, 0, wallets, choice, 0);
        let mut counts = vec![0; wallets as usize];
        for _ in 0..draws {
            counts[draw.wallet() as usize] += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn payer_and_receiver_differ_and_exist(seed: u64, wallets in 3_u32..50, exponent in 0.1..3.0) {
            for choice in [Choice::Uniform, Choice::Zipf { exponent }] {
                let mut draw = Draw::new(seed, 1, wallets, choice, 0);
                for _ in 0..200 {
                    let transfer = draw.transfer();
                    prop_assert_ne!(transfer.from, transfer.to);
                    prop_assert!(transfer.from < wallets && transfer.to < wallets);
                    prop_assert!((1..=9).contains(&transfer.amount_minor));
                }
            }
        }

        /// Five standard deviations: one run in a million would fail if the draws were perfect.
        #[test]
        fn a_uniform_choice_takes_each_wallet_as_often(seed: u64) {
            let (wallets, draws) = (20, 20_000);
            let expected = f64::from(draws) / f64::from(wallets);
            let deviation = (expected * (1.0 - 1.0 / f64::from(wallets))).sqrt();
            for count in counts(Choice::Uniform, wallets, draws, seed) {
                prop_assert!((f64::from(count) - expected).abs() < 5.5 * deviation, "{}", count);
            }
        }

        #[test]
        fn a_skewed_choice_follows_its_law(seed: u64, exponent in 0.5..1.8_f64) {
            let (wallets, draws) = (50_u32, 20_000);
            let weight: f64 = (1..=wallets).map(|rank| f64::from(rank).powf(-exponent)).sum();
            let found = counts(Choice::Zipf { exponent }, wallets, draws, seed);
            for (count, rank) in found.into_iter().zip(1_u32..) {
                let share = f64::from(rank).powf(-exponent) / weight;
                let expected = f64::from(draws) * share;
                let deviation = (expected * (1.0 - share)).sqrt();
                prop_assert!(
                    (f64::from(count) - expected).abs() < 6.0 * deviation + 3.0,
                    "rank {}: {} instead of {}", rank, count, expected
                );
            }
        }

        #[test]
        fn the_share_of_reads_is_what_was_asked_for(seed: u64, percent in 0_u8..=100) {
            let mut draw = Draw::new(seed, 0, 10, Choice::Uniform, percent);
            let draws = 10_000;
            let kinds: Vec<Kind> = (0..draws).map(|_| draw.kind()).collect();
            let count = |kind| kinds.iter().filter(|one| **one == kind).count() as f64;
            let share = f64::from(percent) / 100.0;
            let expected = f64::from(draws) * share;
            let deviation = (expected * (1.0 - share)).sqrt();
            let (balances, transactions) = (count(Kind::Balance), count(Kind::Transaction));
            prop_assert!((balances + transactions - expected).abs() <= 5.5 * deviation);
            let half = f64::midpoint(balances, transactions);
            prop_assert!((balances - half).abs() <= 5.5 * (half / 2.0).sqrt() + 1.0);
        }

        #[test]
        fn the_same_seed_draws_the_same_and_another_thread_something_else(seed: u64) {
            let draws = |stream| {
                let mut draw = Draw::new(seed, stream, 1_000_000, Choice::Uniform, 0);
                (0..8).map(|_| draw.transfer()).collect::<Vec<_>>()
            };
            prop_assert_eq!(draws(3), draws(3));
            prop_assert_ne!(draws(3), draws(4));
        }

        #[test]
        fn ids_of_wallets_differ_in_their_number_alone(seed: u64, a: u32, b: u32) {
            let (first, second) = (wallet_id(seed, a), wallet_id(seed, b));
            prop_assert_eq!(a == b, first == second);
            prop_assert_eq!(&first.as_bytes()[4..], &second.as_bytes()[4..]);
            prop_assert_eq!(first.get_version_num(), 4);
            let start = format!("{a:08x}");
            prop_assert!(first.to_string().starts_with(&start));
        }
    }
}
