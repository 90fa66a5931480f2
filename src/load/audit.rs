//! Is everything there that was acknowledged? Asked of the service itself: the journal's length, each balance, and some
//! of the transactions one by one.

use super::control::{Control, Positions, balances, parse_minor};
use super::draw::wallet_id;
use super::error::LoadError;
use super::numbers::grouped;
use super::tally::{Books, Sampled};
use super::worker::Plan;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Events of a transfer, and of one that was refused and recorded (`docs/API.md`, §8).
const TRANSFER_EVENTS: u64 = 4;
const REFUSED_EVENTS: u64 = 2;
/// Wallets whose balances are read before and after: two look-ups each.
const WALLETS_MAX: u32 = 100_000;
/// Differences that are told one by one.
const TOLD_MAX: usize = 3;

/// The check that fails when the service could not be asked.
pub(super) const SERVICE: &str = "service";
/// Whether the own instance stopped in order.
pub(super) const STOP: &str = "stop";
/// What streams behind, and comes to a halt with a service that dies.
pub(super) const SUBSCRIBERS: &str = "subscribers";
pub(super) const KAFKA: &str = "kafka";

/// What was checked at the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Audit {
    /// Whether every check passed.
    pub(super) passed: bool,
    pub(super) checks: Vec<Check>,
}

/// One of the checks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) passed: bool,
    /// What was found.
    pub(super) found: String,
}

impl Check {
    pub(super) fn new(name: &str, passed: bool, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            passed,
            found: found.into(),
        }
    }
}

impl Audit {
    pub(super) fn of(checks: Vec<Check>) -> Self {
        Self {
            passed: checks.iter().all(|check| check.passed),
            checks,
        }
    }

    /// Whether something acknowledged is missing or does not add up. A service that has died, or cannot be asked any more,
    /// proves neither, nor do the streams that end with it.
    pub(super) fn is_lost(&self) -> bool {
        let failed = || {
            let failed = self.checks.iter().filter(|check| !check.passed);
            failed.map(|check| check.name.as_str())
        };
        let is_gone = failed().any(|name| matches!(name, SERVICE | STOP));
        failed().any(|name| match name {
            SERVICE | STOP => false,
            SUBSCRIBERS | KAFKA => !is_gone,
            _ => true,
        })
    }

    /// What did not pass, in one line each.
    pub(super) fn failures(&self) -> impl Iterator<Item = String> {
        let failed = self.checks.iter().filter(|check| !check.passed);
        failed.map(|check| format!("audit: {}: {}", check.name, check.found))
    }
}

/// How things stood before the load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Baseline {
    pub(super) positions: Positions,
    /// The wallets that are looked at.
    wallets: Vec<u32>,
    balances_minor: Vec<i64>,
}

impl Baseline {
    pub(super) async fn take(plan: &Arc<Plan>) -> Result<Self, LoadError> {
        let mut control = Control::new(Arc::clone(plan));
        let before = control.positions().await?;
        control.caught_up(before.durable).await?;
        let step = plan.options.wallets.div_ceil(WALLETS_MAX).max(1);
        let wallets: Vec<u32> = (0..plan.options.wallets).step_by(step as usize).collect();
        let balances_minor = balances(plan, wallets.clone()).await?;
        Ok(Self {
            positions: control.positions().await?,
            wallets,
            balances_minor,
        })
    }
}

/// Checks `books` against the service. `is_alone`: nobody else writes there.
pub(super) async fn audit(
    plan: &Arc<Plan>,
    baseline: &Baseline,
    books: &Books,
    is_alone: bool,
) -> Result<Vec<Check>, LoadError> {
    let mut control = Control::new(Arc::clone(plan));
    let now = control.positions().await?;
    let mut checks = vec![journal(&baseline.positions, &now, books, is_alone)];
    if control.caught_up(now.durable).await? {
        let after = balances(plan, baseline.wallets.clone()).await?;
        checks.push(wallets(plan, baseline, &after, books));
        checks.extend(sum(plan, baseline, &after));
    } else {
        let found = format!("reads do not come up to sequence {}", now.durable);
        checks.push(Check::new("balances", false, found));
    }
    checks.push(look_ups(plan, &mut control, &books.sample).await?);
    Ok(checks)
}

/// Acknowledged transfers = what the journal grew by.
fn journal(before: &Positions, now: &Positions, books: &Books, is_alone: bool) -> Check {
    let name = "journal";
    if before.journal != now.journal {
        let found = format!("it was {}, now it is {}", before.journal, now.journal);
        return Check::new(name, false, found);
    }
    if now.durable < books.last_sequence {
        let found = format!(
            "sequence {} was acknowledged, the journal ends at {}",
            books.last_sequence, now.durable
        );
        return Check::new(name, false, found);
    }
    let least = books.acknowledged * TRANSFER_EVENTS + books.refused_recorded * REFUSED_EVENTS;
    let most = least + books.unknown * TRANSFER_EVENTS;
    let grown = now.durable.saturating_sub(before.durable);
    let acknowledged = grouped(books.acknowledged);
    let found = format!(
        "{acknowledged} acknowledged transfers; {} new events",
        grouped(grown)
    );
    if grown < least {
        let missing = grouped(least - grown);
        return Check::new(name, false, format!("{found}, {missing} are missing"));
    }
    let others = grown.saturating_sub(most);
    if others == 0 {
        return Check::new(name, true, found);
    }
    let found = format!("{found}, {} of them not of this run", grouped(others));
    Check::new(name, !is_alone, found)
}

/// Each wallet gained what its acknowledged transfers moved; where an outcome is unknown, either will do.
fn wallets(plan: &Plan, baseline: &Baseline, after: &[i64], books: &Books) -> Check {
    let mut most_more = vec![0_i64; plan.options.wallets as usize];
    let mut most_less = most_more.clone();
    for transfer in &books.unknown_transfers {
        let amount = i64::from(transfer.amount_minor);
        if let Some(more) = most_more.get_mut(transfer.to as usize) {
            *more += amount;
        }
        if let Some(less) = most_less.get_mut(transfer.from as usize) {
            *less += amount;
        }
    }
    let mut wrong = 0_u64;
    let mut told = Vec::new();
    let rows = baseline
        .wallets
        .iter()
        .zip(&baseline.balances_minor)
        .zip(after);
    for ((wallet, before), after) in rows {
        let at = *wallet as usize;
        let expected = before + books.gained_minor.get(at).copied().unwrap_or(0);
        let least = expected - most_less.get(at).copied().unwrap_or(0);
        let most = expected + most_more.get(at).copied().unwrap_or(0);
        if (least..=most).contains(after) {
            continue;
        }
        wrong += 1;
        if told.len() < TOLD_MAX {
            let id = wallet_id(plan.seed, *wallet);
            told.push(format!(
                "{id} has {}, not {}",
                amount(*after),
                amount(expected)
            ));
        }
    }
    let looked_at = grouped(baseline.wallets.len() as u64);
    let all = grouped(u64::from(plan.options.wallets));
    let found = format!("{looked_at} of {all} wallets looked at");
    let is_decidable = books.unknown <= books.unknown_transfers.len() as u64;
    if wrong > 0 && is_decidable {
        let found = format!("{found}, {} wrong: {}", grouped(wrong), told.join("; "));
        Check::new("balances", false, found)
    } else if is_decidable {
        Check::new("balances", true, format!("{found}, each as acknowledged"))
    } else {
        let unknown = grouped(books.unknown);
        let found = format!("{found}; {unknown} transfers of unknown outcome are too many to tell");
        Check::new("balances", false, found)
    }
}

/// Payments among the wallets of the run make no money and lose none.
fn sum(plan: &Plan, baseline: &Baseline, after: &[i64]) -> Option<Check> {
    let looked_at_all = baseline.wallets.len() == plan.options.wallets as usize;
    looked_at_all.then(|| {
        let total = |balances: &[i64]| {
            balances
                .iter()
                .map(|minor| i128::from(*minor))
                .sum::<i128>()
        };
        let change = total(after) - total(&baseline.balances_minor);
        let found = format!("the wallets together have {change} hundredths more than before");
        let found = if change == 0 {
            "no money was made or lost".into()
        } else {
            found
        };
        Check::new("sum", change == 0, found)
    })
}

/// Some of the acknowledged transactions, one by one.
async fn look_ups(
    plan: &Plan,
    control: &mut Control,
    sample: &[Sampled],
) -> Result<Check, LoadError> {
    let mut wrong = Vec::new();
    for sampled in sample {
        let id = String::from_utf8_lossy(&sampled.id);
        let (status, found) = control.transaction(&id).await?;
        let is_it = status == 200
            && found.get("from_wallet").and_then(Value::as_str)
                == Some(&*wallet_id(plan.seed, sampled.transfer.from).to_string())
            && found.get("to_wallet").and_then(Value::as_str)
                == Some(&*wallet_id(plan.seed, sampled.transfer.to).to_string())
            && found
                .get("amount")
                .and_then(|amount| parse_minor(&amount.to_string()))
                == Some(i64::from(sampled.transfer.amount_minor))
            && found.get("status").and_then(Value::as_str) == Some("completed");
        if !is_it {
            wrong.push(format!("{id} answers {status}"));
        }
    }
    let asked = sample.len();
    if wrong.is_empty() {
        let found = format!("{asked} acknowledged transactions looked up, each as it was sent");
        return Ok(Check::new("transactions", true, found));
    }
    let count = wrong.len();
    wrong.truncate(TOLD_MAX);
    let found = format!(
        "{count} of {asked} that were acknowledged are not as sent: {}",
        wrong.join("; ")
    );
    Ok(Check::new("transactions", false, found))
}

/// Minor units as people write them.
fn amount(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let minor = minor.unsigned_abs();
    format!("{sign}{}.{:02}", minor / 100, minor % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::draw::Transfer;
    use crate::load::tally::Tally;

    fn positions(durable: u64) -> Positions {
        Positions {
            journal: "a/1".into(),
            durable,
            published: 0,
        }
    }

    fn books(acknowledged: u64, refused_recorded: u64, unknown: u64) -> Books {
        let mut books = Tally::new(2, false).books;
        books.acknowledged = acknowledged;
        books.refused_recorded = refused_recorded;
        books.unknown = unknown;
        let transfer = Transfer {
            from: 0,
            to: 1,
            amount_minor: 1,
        };
        books.unknown_transfers = vec![transfer; usize::try_from(unknown).unwrap()];
        books
    }

    #[test]
    fn a_journal_that_grew_by_less_than_was_acknowledged_fails() {
        let before = positions(100);
        let check = |grown: u64, books: &Books, is_alone| {
            journal(&before, &positions(100 + grown), books, is_alone).passed
        };
        let sure = books(10, 2, 0);
        assert!(check(44, &sure, true));
        assert!(!check(43, &sure, true) && !check(43, &sure, false));
        assert!(!check(45, &sure, true), "whose event is that?");
        assert!(check(45, &sure, false), "somebody else's");
        let unsure = books(10, 0, 3);
        assert!(check(40, &unsure, true) && check(52, &unsure, true));
        assert!(!check(53, &unsure, true));
        let mut ahead = books(1, 0, 0);
        ahead.last_sequence = 105;
        assert!(!check(4, &ahead, true));
        let other = Positions {
            journal: "a/2".into(),
            ..positions(104)
        };
        assert!(!journal(&before, &other, &books(1, 0, 0), false).passed);
    }

    #[test]
    fn amounts_are_told_as_people_write_them() {
        assert_eq!(amount(123_456), "1234.56");
        assert_eq!(amount(-5), "-0.05");
    }
}
