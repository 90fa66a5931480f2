//! Whether acknowledgements are overdue: what the operator is told while the producer tries on by itself. Pure: no
//! broker, no clock; times are monotonic.

use std::time::Duration;

/// Between two looks at the brokers while nothing is acknowledged.
const LOOK: Duration = Duration::from_secs(10);

/// Follows what waits for its acknowledgement.
#[derive(Debug)]
pub(super) struct Stall {
    patience: Duration,
    /// Since when something waits and nothing was acknowledged.
    since: Option<Duration>,
    /// The newest trouble that librdkafka told since the last acknowledgement.
    notice: Option<String>,
    /// What the operator was told since the last acknowledgement.
    told: Option<String>,
    looked_at: Option<Duration>,
}

impl Stall {
    /// Overdue is what was not acknowledged within `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: None,
            notice: None,
            told: None,
            looked_at: None,
        }
    }

    /// Whether the operator was told, and nothing was acknowledged since.
    pub(super) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// librdkafka told of a trouble. Whether it is the first since the last acknowledgement.
    pub(super) fn hear(&mut self, notice: String) -> bool {
        self.notice.replace(notice).is_none()
    }

    /// Something was acknowledged. Whether that ends a trouble or a stall.
    pub(super) fn acknowledged(&mut self, now: Duration) -> bool {
        self.since = self.since.map(|_| now);
        self.looked_at = None;
        let trouble = self.notice.take().is_some();
        self.told.take().is_some() || trouble
    }

    /// What to tell, where that has changed; `waits` says whether anything is under way.
    pub(super) fn tell(&mut self, now: Duration, waits: bool) -> Option<&str> {
        if !waits {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let overdue = now.saturating_sub(since) >= self.patience;
        let reason = match &self.notice {
            Some(notice) => notice.clone(),
            None if overdue => format!("no acknowledgement for {} ms", self.patience.as_millis()),
            None => return None,
        };
        if self.told.as_ref() == Some(&reason) {
            return None;
        }
        self.told = Some(reason);
        self.told.as_deref()
    }

    /// Whether the brokers should be looked at now: it stalls, for longer than is normal, and the last look is a
    /// while ago.
    pub(super) fn look_is_due(&mut self, now: Duration) -> bool {
        let overdue = self
            .since
            .is_some_and(|since| now.saturating_sub(since) >= self.patience);
        let rested = self
            .looked_at
            .is_none_or(|at| now.saturating_sub(at) >= LOOK);
        let due = overdue && rested;
        if due {
            self.looked_at = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn what_is_overdue_is_told_once_and_its_end_as_well() {
        let mut stall = Stall::new(S(5));
        assert_eq!(stall.tell(S(1), true), None);
        assert_eq!(stall.tell(S(5), true), None);
        assert_eq!(
            stall.tell(S(6), true),
            Some("no acknowledgement for 5000 ms")
        );
        assert_eq!(stall.tell(S(7), true), None);
        assert!(stall.acknowledged(S(8)));
        assert_eq!(stall.tell(S(12), true), None);
        assert!(!stall.acknowledged(S(12)), "nothing was told meanwhile");
    }

    #[test]
    fn a_known_trouble_is_told_at_once_but_only_where_something_waits() {
        let mut stall = Stall::new(S(5));
        assert!(stall.hear("all brokers down".into()));
        assert_eq!(stall.tell(S(1), false), None);
        assert_eq!(stall.tell(S(1), true), Some("all brokers down"));
        assert!(!stall.hear("refused".into()));
        assert_eq!(stall.tell(S(2), true), Some("refused"));
        assert!(stall.acknowledged(S(3)));
    }

    #[test]
    fn the_brokers_are_looked_at_now_and_then_while_it_stalls() {
        let mut stall = Stall::new(S(5));
        stall.tell(S(0), true);
        assert!(!stall.look_is_due(S(4)));
        assert!(stall.look_is_due(S(5)));
        assert!(!stall.look_is_due(S(14)));
        assert!(stall.look_is_due(S(15)));
        stall.acknowledged(S(16));
        assert!(!stall.look_is_due(S(20)));
        assert!(stall.look_is_due(S(21)));
        stall.tell(S(22), false);
        assert!(!stall.look_is_due(S(60)), "nothing waits");
    }
}
