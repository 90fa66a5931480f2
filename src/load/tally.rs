//! What a thread of the generator has seen: figures for people, and for the audit what each wallet must have gained.
//! Memory is bounded whatever the duration.

use super::answers::{Done, Verdict};
use super::draw::{Draw, Kind, Transfer};
use super::numbers::whole;
use super::requests::IdText;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// A latency beyond this counts as this: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// Points of the series; then each two become one of twice the length.
const POINTS_MAX: usize = 3_600;
/// The first length of a point.
const POINT: Duration = Duration::from_secs(1);
/// Names under which refusals and errors are counted; further ones count under the last.
const WORDS_MAX: usize = 64;
/// Acknowledged transactions that are looked up at the end.
const SAMPLE_MAX: u64 = 256;
/// Acknowledged transactions among which look-ups choose.
const RECENT_MAX: usize = 1_024;
/// Transfers without a known outcome that the audit can still tell apart.
const UNKNOWN_MAX: usize = 100_000;

/// A histogram of latencies in microseconds.
pub(super) fn histogram() -> Histogram<u64> {
    // The bounds are constants that the crate takes; if it ever did not, one that grows does the same.
    Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS).unwrap_or_else(|_| growing())
}

#[expect(
    clippy::expect_used,
    reason = "three digits are within what the crate takes"
)]
fn growing() -> Histogram<u64> {
    Histogram::new(SIGNIFICANT_DIGITS).expect("1 to 5 digits")
}

/// What a kind of request gave.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) latencies_us: Histogram<u64>,
    /// Due (closed loop: sent) within the measured time and answered as they should be: what the percentiles are of.
    pub(super) requests: u64,
    /// Transfers in those; for reads as many as requests.
    pub(super) items: u64,
    /// Answered within the measured time, whenever they were due: what the rates are made of.
    pub(super) requests_in_time: u64,
    /// Transfers in those.
    pub(super) items_in_time: u64,
}

impl Seen {
    fn new() -> Self {
        Self {
            latencies_us: histogram(),
            requests: 0,
            items: 0,
            requests_in_time: 0,
            items_in_time: 0,
        }
    }
}

/// What happened in a second of the measured time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Point {
    /// Answered requests of all kinds.
    pub(super) requests: u64,
    /// Acknowledged transfers.
    pub(super) transfers: u64,
    /// Of writes.
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
}

impl Point {
    /// Two neighbours in time, or two threads in the same time. Percentiles are the worse of both.
    fn merged(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            transfers: self.transfers + other.transfers,
            p50_us: self.p50_us.max(other.p50_us),
            p99_us: self.p99_us.max(other.p99_us),
            max_us: self.max_us.max(other.max_us),
        }
    }
}

/// The series of points.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) points: Vec<Point>,
    pub(super) point: Duration,
    current: Point,
    current_us: Histogram<u64>,
}

impl Series {
    fn new() -> Self {
        Self {
            points: Vec::new(),
            point: POINT,
            current: Point::default(),
            current_us: histogram(),
        }
    }

    /// Closes the points that end before `since_counted`.
    fn move_to(&mut self, since_counted: Duration) {
        loop {
            let closed = u32::try_from(self.points.len()).unwrap_or(u32::MAX);
            if since_counted < self.point.saturating_mul(closed.saturating_add(1)) {
                return;
            }
            self.close();
        }
    }

    fn close(&mut self) {
        let mut point = std::mem::take(&mut self.current);
        if !self.current_us.is_empty() {
            point.p50_us = self.current_us.value_at_quantile(0.5);
            point.p99_us = self.current_us.value_at_quantile(0.99);
            point.max_us = self.current_us.max();
            self.current_us.reset();
        }
        self.points.push(point);
        if self.points.len() >= POINTS_MAX {
            self.halve();
        }
    }

    fn halve(&mut self) {
        let pairs = self.points.chunks(2);
        let merge = |pair: &[Point]| {
            pair.iter()
                .copied()
                .reduce(Point::merged)
                .unwrap_or_default()
        };
        self.points = pairs.map(merge).collect();
        self.point *= 2;
    }

    /// Another thread's. Both may have come to different lengths of a point.
    fn merge(&mut self, mut other: Self) {
        while self.point < other.point {
            self.halve();
        }
        while other.point < self.point {
            other.halve();
        }
        let length = self.points.len().max(other.points.len());
        self.points.resize(length, Point::default());
        for (point, other) in self.points.iter_mut().zip(other.points) {
            *point = point.merged(other);
        }
    }
}

/// An acknowledged transaction that is looked up at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sampled {
    pub(super) id: IdText,
    pub(super) transfer: Transfer,
}

/// What the journal and the balances must show.
#[derive(Debug)]
pub(super) struct Books {
    /// What each wallet gained, in minor units.
    pub(super) gained_minor: Vec<i64>,
    /// In how many acknowledged transfers each took part; empty where nobody asks.
    pub(super) touched: Vec<u32>,
    /// Transfers that were acknowledged.
    pub(super) acknowledged: u64,
    /// Transfers that were refused and stand in the journal as failed.
    pub(super) refused_recorded: u64,
    /// Transfers without a known outcome.
    pub(super) unknown: u64,
    /// Which those were, as far as they are remembered.
    pub(super) unknown_transfers: Vec<Transfer>,
    /// The highest sequence that was acknowledged.
    pub(super) last_sequence: u64,
    pub(super) sample: Vec<Sampled>,
    sampled_from: u64,
}

impl Books {
    fn new(wallets: u32, counts_touches: bool) -> Self {
        let wallets = wallets as usize;
        Self {
            gained_minor: vec![0; wallets],
            touched: vec![0; if counts_touches { wallets } else { 0 }],
            acknowledged: 0,
            refused_recorded: 0,
            unknown: 0,
            unknown_transfers: Vec::new(),
            last_sequence: 0,
            sample: Vec::new(),
            sampled_from: 0,
        }
    }

    fn acknowledge(&mut self, transfer: Transfer) {
        self.acknowledged += 1;
        let (from, to) = (transfer.from as usize, transfer.to as usize);
        if let Some(gained) = self.gained_minor.get_mut(from) {
            *gained -= i64::from(transfer.amount_minor);
        }
        if let Some(gained) = self.gained_minor.get_mut(to) {
            *gained += i64::from(transfer.amount_minor);
        }
        for wallet in [from, to] {
            if let Some(touched) = self.touched.get_mut(wallet) {
                *touched = touched.saturating_add(1);
            }
        }
    }

    fn lose_sight(&mut self, transfers: &[Transfer]) {
        self.unknown += transfers.len() as u64;
        let room = UNKNOWN_MAX.saturating_sub(self.unknown_transfers.len());
        self.unknown_transfers.extend(transfers.iter().take(room));
    }

    /// Every acknowledged request has the same chance (Vitter's algorithm R).
    fn sample(&mut self, draw: &mut Draw, id: IdText, transfer: Transfer) {
        self.sampled_from += 1;
        let sampled = Sampled { id, transfer };
        if self.sampled_from <= SAMPLE_MAX {
            self.sample.push(sampled);
        } else if let Ok(place) = usize::try_from(draw.below_u64(self.sampled_from))
            && let Some(old) = self.sample.get_mut(place)
        {
            *old = sampled;
        }
    }

    fn merge(&mut self, other: Self) {
        for (mine, other) in self.gained_minor.iter_mut().zip(other.gained_minor) {
            *mine += other;
        }
        for (mine, other) in self.touched.iter_mut().zip(other.touched) {
            *mine = mine.saturating_add(other);
        }
        self.acknowledged += other.acknowledged;
        self.refused_recorded += other.refused_recorded;
        self.unknown += other.unknown;
        let room = UNKNOWN_MAX.saturating_sub(self.unknown_transfers.len());
        self.unknown_transfers
            .extend(other.unknown_transfers.into_iter().take(room));
        self.last_sequence = self.last_sequence.max(other.last_sequence);
        self.sample.extend(other.sample);
    }
}

/// When a request was sent and answered, on the clock's monotonic time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// When it was due, or sent in a closed loop.
    pub(super) counted_from: Duration,
    pub(super) answered_at: Duration,
}

/// The measured time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Duration,
    pub(super) to: Duration,
}

/// Everything that one thread has seen.
#[derive(Debug)]
pub(super) struct Tally {
    seen: [Seen; Kind::ALL.len()],
    pub(super) series: Series,
    pub(super) books: Books,
    /// What went wrong, by name; over the whole run, warm-up included.
    pub(super) wrongs: BTreeMap<String, u64>,
    /// Requests that were sent, warm-up included.
    pub(super) sent: u64,
    /// Requests of an open loop that were due within the measured time and never sent.
    pub(super) unsent: u64,
    /// When the last request was answered as it should be; zero before.
    pub(super) answered_last_at: Duration,
    /// Acknowledged transactions that may be looked up, the oldest overwritten.
    recent: Vec<IdText>,
    recent_next: usize,
}

impl Tally {
    pub(super) fn new(wallets: u32, counts_touches: bool) -> Self {
        Self {
            seen: [Seen::new(), Seen::new(), Seen::new()],
            series: Series::new(),
            books: Books::new(wallets, counts_touches),
            wrongs: BTreeMap::new(),
            sent: 0,
            unsent: 0,
            answered_last_at: Duration::ZERO,
            recent: Vec::new(),
            recent_next: 0,
        }
    }

    pub(super) const fn seen(&self, kind: Kind) -> &Seen {
        match kind {
            Kind::Write => &self.seen[0],
            Kind::Balance => &self.seen[1],
            Kind::Transaction => &self.seen[2],
        }
    }

    const fn seen_mut(&mut self, kind: Kind) -> &mut Seen {
        match kind {
            Kind::Write => &mut self.seen[0],
            Kind::Balance => &mut self.seen[1],
            Kind::Transaction => &mut self.seen[2],
        }
    }

    /// A transaction to look up, if there is one yet.
    pub(super) fn recent(&self, draw: &mut Draw) -> Option<IdText> {
        let count = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return None;
        }
        self.recent.get(draw.below(count) as usize).copied()
    }

    /// Counts something that should not have happened, over the whole run.
    pub(super) fn wrong(&mut self, word: &str, count: u64) {
        let is_room = self.wrongs.len() < WORDS_MAX || self.wrongs.contains_key(word);
        let word = if is_room { word } else { "others" };
        *self.wrongs.entry(word.to_owned()).or_default() += count;
    }

    /// A write was answered. Wrong answers are remembered by their text.
    pub(super) fn on_write(
        &mut self,
        verdict: &Verdict,
        transfers: &[Transfer],
        draw: &mut Draw,
        looks_up: bool,
    ) -> u64 {
        match verdict {
            Verdict::Done(done) => {
                for transfer in transfers {
                    self.books.acknowledge(*transfer);
                }
                self.on_done(done, transfers.first(), draw, looks_up);
                transfers.len() as u64
            }
            Verdict::Partly { done, refused } => {
                let mut refused = refused.iter().peekable();
                let mut first = None;
                let mut acknowledged = 0;
                for (index, transfer) in transfers.iter().enumerate() {
                    if let Some(item) = refused.next_if(|item| item.index == index) {
                        self.books.refused_recorded += u64::from(item.is_recorded);
                        self.wrong(&item.word, 1);
                    } else {
                        self.books.acknowledge(*transfer);
                        first = first.or(Some(transfer));
                        acknowledged += 1;
                    }
                }
                self.on_done(done, first, draw, looks_up);
                acknowledged
            }
            Verdict::Refused {
                word, is_recorded, ..
            } => {
                self.books.refused_recorded += u64::from(*is_recorded);
                self.wrong(word, 1);
                0
            }
            Verdict::Unknown(word) => {
                self.books.lose_sight(transfers);
                self.wrong(word, 1);
                0
            }
            Verdict::Wrong(text) => {
                self.books.lose_sight(transfers);
                self.wrong(&format!("wrong answer {text}"), 1);
                0
            }
        }
    }

    fn on_done(&mut self, done: &Done, first: Option<&Transfer>, draw: &mut Draw, looks_up: bool) {
        let Some(first) = first else { return };
        self.books.last_sequence = self.books.last_sequence.max(done.last_sequence);
        self.books.sample(draw, done.first_id, *first);
        if !looks_up || !done.is_named() {
            return;
        }
        if self.recent.len() < RECENT_MAX {
            self.recent.push(done.first_id);
        } else if let Some(oldest) = self.recent.get_mut(self.recent_next) {
            *oldest = done.first_id;
            self.recent_next = (self.recent_next + 1) % RECENT_MAX;
        }
    }

    /// A read was answered; whether as it should be.
    pub(super) fn on_read(&mut self, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Done(_) => return true,
            Verdict::Partly { .. } => {}
            Verdict::Refused { word, .. } | Verdict::Unknown(word) => self.wrong(word, 1),
            Verdict::Wrong(text) => self.wrong(&format!("wrong answer {text}"), 1),
        }
        false
    }

    /// No answer came. Its transfers have no known outcome, unless it was not sent.
    pub(super) fn on_broken(&mut self, word: &str, transfers: &[Transfer]) {
        self.wrong(word, 1);
        self.books.lose_sight(transfers);
    }

    /// Takes an answered request into the figures: `items` that were done, in `window` or not.
    pub(super) fn measure(&mut self, kind: Kind, items: u64, times: Times, window: Window) {
        self.answered_last_at = self.answered_last_at.max(times.answered_at);
        if times.answered_at >= window.from && times.answered_at < window.to {
            let seen = self.seen_mut(kind);
            seen.requests_in_time += 1;
            seen.items_in_time += items;
            self.series
                .move_to(times.answered_at.saturating_sub(window.from));
            self.series.current.requests += 1;
            if kind == Kind::Write {
                self.series.current.transfers += items;
            }
        }
        if times.counted_from < window.from || times.counted_from >= window.to {
            return;
        }
        let took = times.answered_at.saturating_sub(times.counted_from);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        if kind == Kind::Write && times.answered_at < window.to {
            self.series.current_us.saturating_record(took_us);
        }
        let seen = self.seen_mut(kind);
        seen.latencies_us.saturating_record(took_us);
        seen.requests += 1;
        seen.items += items;
    }

    /// Waits of requests that were due and never sent, as if they were answered now: percentiles must not look better
    /// because of them.
    pub(super) fn measure_unsent(&mut self, waits: impl Iterator<Item = Duration>) {
        for wait in waits {
            let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).max(1);
            self.seen_mut(Kind::Write)
                .latencies_us
                .saturating_record(wait_us);
            self.unsent += 1;
        }
    }

    /// Ends the series at the end of the window.
    pub(super) fn finish(&mut self, window: Window) {
        let length = window.to.saturating_sub(window.from);
        self.series.move_to(length);
        // A rest that is much shorter than a point would look like a drop.
        if self.series.current.requests > 0 {
            let closed = u32::try_from(self.series.points.len()).unwrap_or(u32::MAX);
            let rest = length.saturating_sub(self.series.point.saturating_mul(closed));
            if rest * 2 >= self.series.point {
                self.series.close();
                if let Some(last) = self.series.points.last_mut() {
                    let scale = self.series.point.as_secs_f64() / rest.as_secs_f64();
                    let scaled = |count: u64| super::numbers::floor(whole(count) * scale);
                    last.requests = scaled(last.requests);
                    last.transfers = scaled(last.transfers);
                }
            }
        }
    }

    /// Another thread's.
    pub(super) fn merge(&mut self, other: Self) {
        for (mine, other) in self.seen.iter_mut().zip(other.seen) {
            // Both have the same bounds.
            let _same_bounds = mine.latencies_us.add(&other.latencies_us);
            mine.requests += other.requests;
            mine.items += other.items;
            mine.requests_in_time += other.requests_in_time;
            mine.items_in_time += other.items_in_time;
        }
        self.series.merge(other.series);
        self.books.merge(other.books);
        for (word, count) in other.wrongs {
            self.wrong(&word, count);
        }
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.answered_last_at = self.answered_last_at.max(other.answered_last_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Choice;
    use crate::load::answers::RefusedItem;
    use crate::load::requests::ID_CHARS;

    const WINDOW: Window = Window {
        from: Duration::from_secs(10),
        to: Duration::from_secs(20),
    };

    fn draw() -> Draw {
        Draw::new(1, 0, 10, Choice::Uniform, 0)
    }

    fn done(sequence: u64) -> Done {
        Done {
            first_id: [b'x'; ID_CHARS],
            last_sequence: sequence,
        }
    }

    fn transfer(from: u32, to: u32, amount_minor: u8) -> Transfer {
        Transfer {
            from,
            to,
            amount_minor,
        }
    }

    #[test]
    fn only_what_was_done_moves_money_in_the_books() {
        let mut tally = Tally::new(4, true);
        let transfers = [transfer(0, 1, 5), transfer(1, 2, 7), transfer(2, 3, 1)];
        tally.on_write(&Verdict::Done(done(12)), &transfers, &mut draw(), false);
        let refused = vec![RefusedItem {
            index: 1,
            word: "INSUFFICIENT_FUNDS".into(),
            is_recorded: true,
        }];
        let partly = Verdict::Partly {
            done: done(20),
            refused,
        };
        assert_eq!(tally.on_write(&partly, &transfers, &mut draw(), false), 2);
        tally.on_write(
            &Verdict::Unknown("504".into()),
            &transfers,
            &mut draw(),
            false,
        );
        tally.on_broken("connection broken", &transfers[..1]);

        assert_eq!(tally.books.gained_minor, [-10, 3, 5, 2]);
        assert_eq!(tally.books.touched, [2, 3, 3, 2]);
        assert_eq!(tally.books.gained_minor.iter().sum::<i64>(), 0);
        assert_eq!((tally.books.acknowledged, tally.books.unknown), (5, 4));
        assert_eq!(tally.books.refused_recorded, 1);
        assert_eq!(tally.books.last_sequence, 20);
        assert_eq!(tally.wrongs.len(), 3);
    }

    #[test]
    fn the_sample_and_what_is_looked_up_stay_small() {
        let mut tally = Tally::new(4, false);
        let mut draw = draw();
        for sequence in 0..5_000 {
            let verdict = Verdict::Done(done(sequence));
            tally.on_write(&verdict, &[transfer(0, 1, 1)], &mut draw, true);
        }
        assert_eq!(tally.books.sample.len() as u64, SAMPLE_MAX);
        assert_eq!(tally.recent.len(), RECENT_MAX);
        assert!(tally.recent(&mut draw).is_some());
        for number in 0..200 {
            tally.wrong(&format!("wrong answer {number}"), 1);
        }
        assert!(tally.wrongs.len() <= WORDS_MAX + 1);
        assert_eq!(tally.wrongs.values().sum::<u64>(), 200);
    }

    #[test]
    fn a_latency_counts_from_when_the_request_was_due_within_the_window() {
        let mut tally = Tally::new(2, false);
        let at = |from_ms: u64, to_ms: u64| Times {
            counted_from: Duration::from_millis(from_ms),
            answered_at: Duration::from_millis(to_ms),
        };
        tally.measure(Kind::Write, 1, at(9_999, 10_500), WINDOW);
        assert_eq!(tally.seen(Kind::Write).requests, 0, "due in the warm-up");
        tally.measure(Kind::Write, 1, at(10_000, 10_300), WINDOW);
        tally.measure(Kind::Write, 1, at(19_999, 23_000), WINDOW);
        tally.measure(Kind::Write, 1, at(20_000, 20_001), WINDOW);
        tally.finish(WINDOW);
        let seen = tally.seen(Kind::Write);
        assert_eq!((seen.requests, seen.items_in_time), (2, 2));
        assert!(seen.latencies_us.max() >= 3_000_000);
        assert_eq!(tally.series.points.len(), 10);
        assert_eq!(tally.series.points[0].requests, 2);
        assert_eq!(tally.series.points[0].max_us / 1_000, 300);
    }

    #[test]
    fn a_rate_is_of_what_was_answered_in_the_window_however_late() {
        let mut tally = Tally::new(2, false);
        // Ten a second are answered, twenty are due: the backlog of the warm-up is answered in the window.
        for number in 0..200 {
            let times = Times {
                counted_from: Duration::from_millis(number * 50),
                answered_at: Duration::from_millis(number * 100 + 5),
            };
            tally.measure(Kind::Write, 3, times, WINDOW);
        }
        tally.finish(WINDOW);
        let seen = tally.seen(Kind::Write);
        assert_eq!((seen.requests_in_time, seen.items_in_time), (100, 300));
        assert_eq!(seen.requests, 0, "none of them was due in the window");
        let points = tally.series.points.iter();
        assert_eq!(points.map(|point| point.transfers).sum::<u64>(), 300);
    }

    #[test]
    fn a_long_series_becomes_coarser_and_loses_nothing() {
        let mut tally = Tally::new(2, false);
        let window = Window {
            from: Duration::ZERO,
            to: Duration::from_hours(3),
        };
        for second in 0..3 * 3_600 {
            let times = Times {
                counted_from: Duration::from_secs(second),
                answered_at: Duration::from_millis(second * 1_000 + 5),
            };
            tally.measure(Kind::Write, 2, times, window);
        }
        tally.finish(window);
        assert!(tally.series.points.len() < POINTS_MAX);
        assert_eq!(tally.series.point, Duration::from_secs(4));
        let transfers: u64 = tally
            .series
            .points
            .iter()
            .map(|point| point.transfers)
            .sum();
        assert_eq!(transfers, 2 * 3 * 3_600);
    }

    #[test]
    fn threads_add_up() {
        let mut all = Tally::new(2, false);
        for _ in 0..2 {
            let mut one = Tally::new(2, false);
            let verdict = Verdict::Done(done(4));
            one.on_write(&verdict, &[transfer(0, 1, 3)], &mut draw(), false);
            let times = Times {
                counted_from: WINDOW.from,
                answered_at: WINDOW.from + Duration::from_millis(1),
            };
            one.measure(Kind::Write, 1, times, WINDOW);
            one.finish(WINDOW);
            all.merge(one);
        }
        assert_eq!(all.seen(Kind::Write).requests, 2);
        assert_eq!(all.books.gained_minor, [-6, 6]);
        assert_eq!(all.series.points[0].transfers, 2);
    }

    #[test]
    fn what_was_never_sent_weighs_in_the_percentiles() {
        let mut tally = Tally::new(2, false);
        let waits = (0..100).map(|number| Duration::from_millis(number * 10));
        tally.measure_unsent(waits);
        assert_eq!(tally.unsent, 100);
        assert!(tally.seen(Kind::Write).latencies_us.value_at_quantile(0.99) > 900_000);
    }
}
