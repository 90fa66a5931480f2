//! The counts that `GET /api/v1/metrics/service` shows: writes since the start, as the old service kept them.

use super::answer::write_integer;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

/// How many processing times are shown.
const RECENT_MAX: usize = 100;

/// Answered `POST`s and `PATCH`es.
#[derive(Debug, Default)]
pub(super) struct ServiceCounters {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    success_count: u64,
    failure_count: u64,
    total_micros: u64,
    /// Newest last.
    recent_micros: VecDeque<u64>,
}

impl ServiceCounters {
    /// A write was answered.
    pub(super) fn observe(&self, success: bool, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut state = self.state.lock();
        if success {
            state.success_count = state.success_count.saturating_add(1);
        } else {
            state.failure_count = state.failure_count.saturating_add(1);
        }
        state.total_micros = state.total_micros.saturating_add(micros);
        if state.recent_micros.len() == RECENT_MAX {
            state.recent_micros.pop_front();
        }
        state.recent_micros.push_back(micros);
    }

    /// Appends them as JSON: rate between 0 and 1, times in milliseconds, newest last.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let state = self.state.lock();
        let total = state.success_count.saturating_add(state.failure_count);
        let thousandths = state.success_count.saturating_mul(1000).checked_div(total);
        out.extend_from_slice(b"{\"success_count\":");
        write_integer(out, state.success_count);
        out.extend_from_slice(b",\"failure_count\":");
        write_integer(out, state.failure_count);
        out.extend_from_slice(b",\"total_requests\":");
        write_integer(out, total);
        out.extend_from_slice(b",\"success_rate\":");
        write_thousandths(out, thousandths.unwrap_or_default());
        out.extend_from_slice(b",\"avg_processing_time_ms\":");
        write_thousandths(
            out,
            state.total_micros.checked_div(total).unwrap_or_default(),
        );
        out.extend_from_slice(b",\"recent_processing_times\":");
        super::answer::write_array(out, &state.recent_micros, |out, micros| {
            write_thousandths(out, *micros);
        });
        out.push(b'}');
    }
}

/// Appends a count of thousandths as a JSON number.
fn write_thousandths(out: &mut Vec<u8>, thousandths: u64) {
    crate::money::write_number(out, i128::from(thousandths), 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(counters: &ServiceCounters) -> String {
        let mut out = Vec::new();
        counters.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_counted_is_all_zero() {
        assert_eq!(
            written(&ServiceCounters::default()),
            r#"{"success_count":0,"failure_count":0,"total_requests":0,"success_rate":0,"avg_processing_time_ms":0,"recent_processing_times":[]}"#
        );
    }

    #[test]
    fn rates_and_times_are_told_in_thousandths() {
        let counters = ServiceCounters::default();
        counters.observe(true, Duration::from_micros(1500));
        counters.observe(true, Duration::from_micros(250));
        counters.observe(false, Duration::from_millis(1));
        assert_eq!(
            written(&counters),
            r#"{"success_count":2,"failure_count":1,"total_requests":3,"success_rate":0.666,"avg_processing_time_ms":0.916,"recent_processing_times":[1.5,0.25,1]}"#
        );
    }

    #[test]
    fn only_the_last_hundred_times_are_kept() {
        let counters = ServiceCounters::default();
        for millis in 0..150 {
            counters.observe(true, Duration::from_millis(millis));
        }
        let value: serde_json::Value = serde_json::from_str(&written(&counters)).unwrap();
        let recent = value
            .get("recent_processing_times")
            .unwrap()
            .as_array()
            .unwrap();
        assert_eq!(
            (recent.len(), recent.first(), recent.last()),
            (100, Some(&50.into()), Some(&149.into()))
        );
    }
}
