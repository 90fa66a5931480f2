//! The calls around the load: opening and funding wallets, asking for balances, sequences and transactions.

use super::answers::{Judge, Verdict};
use super::draw::{Transfer, wallet_id};
use super::error::LoadError;
use super::requests::{LookUp, TransferRequest};
use super::wire::{Connection, WireError};
use super::worker::Plan;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Transfers of a batch that opens wallets.
const OPENING_BATCH: u32 = 500;
/// What a wallet is given that has nothing.
const FUNDS: u32 = 1_000_000;
/// Calls under way at the same time.
const CONCURRENCY: u32 = 16;
/// Tries of a call whose repetition does no harm.
const TRIES: u32 = 3;

/// How far everything has come.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(super) struct Positions {
    pub(super) journal: String,
    pub(super) durable: u64,
    pub(super) published: u64,
}

/// A connection for calls. One that broke is made anew.
#[derive(Debug)]
pub(super) struct Control {
    plan: Arc<Plan>,
    connection: Option<Connection>,
}

impl Control {
    pub(super) const fn new(plan: Arc<Plan>) -> Self {
        Self {
            plan,
            connection: None,
        }
    }

    fn unavailable(&self, reason: impl Into<String>) -> LoadError {
        LoadError::Unavailable {
            authority: self.plan.address.authority.clone(),
            reason: reason.into(),
        }
    }

    /// Sends a request once and gives the answer's status and body.
    async fn send(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>), WireError> {
        let plan = &self.plan;
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_open() => connection,
            _ => {
                let clock = Arc::clone(&plan.clock);
                Connection::open(plan.socket, clock, plan.options.timeout).await?
            }
        };
        let answer = connection.exchange(request, plan.clock.monotonic()).await?;
        let body = connection.body(&answer).to_vec();
        if connection.is_usable() {
            self.connection = Some(connection);
        }
        Ok((answer.status, body))
    }

    /// Likewise, again when there is no answer: for what may be repeated.
    async fn ask(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>), LoadError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.send(request).await {
                Ok(answered) => return Ok(answered),
                Err(error) if tries == TRIES => return Err(self.unavailable(error.to_string())),
                Err(_) => {}
            }
        }
    }

    /// A `GET`'s JSON.
    async fn get(&mut self, path: &str) -> Result<(u16, Value), LoadError> {
        let request = self.plan.address.request("GET", path, None);
        let (status, body) = self.ask(&request).await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    async fn post(&mut self, path: &str, body: &Value) -> Result<(u16, Value), LoadError> {
        let request = self
            .plan
            .address
            .request("POST", path, Some(&body.to_string()));
        let answered = self.send(&request).await;
        let (status, body) = answered.map_err(|error| self.unavailable(error.to_string()))?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    pub(super) async fn positions(&mut self) -> Result<Positions, LoadError> {
        let (status, value) = self.get("/api/v1/sequence").await?;
        let told = value.to_string();
        match serde_json::from_value(value) {
            Ok(positions) if status == 200 => Ok(positions),
            _ => Err(self.unavailable(format!("/api/v1/sequence answers {status} {told}"))),
        }
    }

    /// A wallet's balance in minor units, and the sequence that it is of.
    async fn balance(
        &mut self,
        look_up: &mut LookUp,
        wallet: u32,
    ) -> Result<(i64, u64), LoadError> {
        let (status, body) = self.ask(look_up.wallet(wallet)).await?;
        let text = String::from_utf8_lossy(&body);
        // By its text: a balance never goes through a float.
        let balance = field(&text, "\"balance\":").and_then(parse_minor);
        let sequence = field(&text, "\"sequence\":").and_then(|text| text.parse().ok());
        match (status, balance, sequence) {
            (200, Some(balance), Some(sequence)) => Ok((balance, sequence)),
            _ => Err(self.unavailable(format!("a balance answers {status} {text}"))),
        }
    }

    /// Waits until reads have everything up to `sequence` in them.
    pub(super) async fn caught_up(&mut self, sequence: u64) -> Result<bool, LoadError> {
        let mut look_up = LookUp::balance(&self.plan.address, self.plan.seed);
        let until = self.plan.clock.monotonic() + self.plan.options.timeout;
        loop {
            let (_, read_at) = self.balance(&mut look_up, 0).await?;
            if read_at >= sequence {
                return Ok(true);
            }
            if self.plan.clock.monotonic() >= until {
                return Ok(false);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// A transaction by its id: 200 and what it is, or another status.
    pub(super) async fn transaction(&mut self, id: &str) -> Result<(u16, Value), LoadError> {
        self.get(&format!("/api/v1/transactions/{id}")).await
    }

    /// Sends one transfer twice under one key. Gives whether the service took the second for the first, and what the
    /// books must show for it: both transfers, or the one.
    pub(super) async fn probes_keys(&mut self) -> Result<bool, LoadError> {
        let plan = Arc::clone(&self.plan);
        let mut request = TransferRequest::new(&plan.address, plan.seed, 1, true);
        let mut key = [0; 16];
        plan.clock.fill_random(&mut key);
        let number = u128::from_be_bytes(key);
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
        request.key(half(number >> 64), half(number));
        let transfer = Transfer {
            from: 0,
            to: 1,
            amount_minor: 1,
        };
        let judge = Judge::new(1, true);
        let mut ids = Vec::new();
        for _ in 0..2 {
            let sent = self.send(request.fill(&[transfer])).await;
            let (status, body) = sent.map_err(|error| self.unavailable(error.to_string()))?;
            match judge.write(status, &body) {
                Verdict::Done(done) => ids.push(done.first_id),
                // A service that heeds keys may answer the repetition with its own status.
                _ if !ids.is_empty() && (200..300).contains(&status) => {
                    let text = String::from_utf8_lossy(&body);
                    let same = ids
                        .iter()
                        .any(|id| text.contains(&*String::from_utf8_lossy(id)));
                    return Ok(same);
                }
                other => return Err(self.unavailable(format!("a transfer with a key: {other:?}"))),
            }
        }
        Ok(ids.first() == ids.last())
    }
}

/// Does `work` for each of `numbers`, some at a time, each with a connection of its own. The first error ends it.
async fn for_each<T, F>(
    plan: &Arc<Plan>,
    numbers: Vec<u32>,
    work: F,
) -> Result<Vec<(u32, T)>, LoadError>
where
    T: Send + 'static,
    F: AsyncWork<T> + Copy + Send + 'static,
{
    let lanes = CONCURRENCY
        .min(u32::try_from(numbers.len()).unwrap_or(CONCURRENCY))
        .max(1);
    let numbers = Arc::new(numbers);
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        let (plan, numbers) = (Arc::clone(plan), Arc::clone(&numbers));
        running.spawn(async move {
            let mut control = Control::new(plan);
            let mut done = Vec::new();
            for number in numbers.iter().skip(lane as usize).step_by(lanes as usize) {
                done.push((*number, work.on(&mut control, *number).await?));
            }
            Ok::<_, LoadError>(done)
        });
    }
    let mut all = Vec::with_capacity(numbers.len());
    while let Some(ended) = running.join_next().await {
        let Ok(ended) = ended else { continue };
        all.extend(ended?);
    }
    all.sort_unstable_by_key(|(number, _)| *number);
    Ok(all)
}

/// A call for each of many numbers.
trait AsyncWork<T> {
    fn on(
        &self,
        control: &mut Control,
        number: u32,
    ) -> impl Future<Output = Result<T, LoadError>> + Send;
}

#[derive(Clone, Copy)]
struct ReadBalance;

impl AsyncWork<i64> for ReadBalance {
    async fn on(&self, control: &mut Control, number: u32) -> Result<i64, LoadError> {
        let mut look_up = LookUp::balance(&control.plan.address, control.plan.seed);
        Ok(control.balance(&mut look_up, number).await?.0)
    }
}

/// The balances of `wallets` in minor units, in their order.
pub(super) async fn balances(plan: &Arc<Plan>, wallets: Vec<u32>) -> Result<Vec<i64>, LoadError> {
    let read = for_each(plan, wallets, ReadBalance).await?;
    Ok(read.into_iter().map(|(_, balance)| balance).collect())
}

/// Sees to it that every wallet exists and can pay. Begins with small transfers, which open wallets on sight where the
/// service does that; where it does not, wallets are opened by request and get money issued.
pub(super) async fn prepare(plan: &Arc<Plan>, on_progress: impl Fn(u64)) -> Result<(), LoadError> {
    let wallets = plan.options.wallets;
    let mut control = Control::new(Arc::clone(plan));
    let mut first = 0;
    while first < wallets {
        let last = first.saturating_add(2 * OPENING_BATCH).min(wallets);
        if !control.moves_a_little(first, last).await? {
            for_each(plan, (first..last).collect(), OpenAndFund).await?;
        }
        first = last;
        on_progress(u64::from(first));
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct OpenAndFund;

impl AsyncWork<()> for OpenAndFund {
    async fn on(&self, control: &mut Control, number: u32) -> Result<(), LoadError> {
        let wallet = wallet_id(control.plan.seed, number);
        let open = json!({"wallet_id": wallet, "currency": "USD-CBDC"});
        let (status, answer) = control.post("/api/v1/wallets", &open).await?;
        if !matches!(status, 201 | 409) {
            return Err(
                control.unavailable(format!("a wallet cannot be opened: {status} {answer}"))
            );
        }
        let issue = json!({"wallet_id": wallet, "amount": FUNDS, "currency": "USD-CBDC"});
        let (status, answer) = control.post("/api/v1/issuances", &issue).await?;
        if status != 201 {
            return Err(
                control.unavailable(format!("a wallet cannot be funded: {status} {answer}"))
            );
        }
        Ok(())
    }
}

impl Control {
    /// Lets the wallets from `first` up to `last` pay each other in pairs. Whether all could.
    async fn moves_a_little(&mut self, first: u32, last: u32) -> Result<bool, LoadError> {
        let plan = Arc::clone(&self.plan);
        let mut transfers: Vec<Transfer> = (first..last)
            .step_by(2)
            .map(|from| Transfer {
                from,
                to: if from + 1 < plan.options.wallets {
                    from + 1
                } else {
                    0
                },
                amount_minor: 1,
            })
            .collect();
        // One alone would go to another path.
        if transfers.len() == 1 {
            transfers.extend_from_within(..);
        }
        let batch = u32::try_from(transfers.len()).unwrap_or(u32::MAX);
        let mut request = TransferRequest::new(&plan.address, plan.seed, batch, false);
        let sent = self.send(request.fill(&transfers)).await;
        let (status, body) = sent.map_err(|error| self.unavailable(error.to_string()))?;
        match Judge::new(batch, true).write(status, &body) {
            Verdict::Done(_) => Ok(true),
            Verdict::Partly { refused, .. }
                if refused.iter().all(|item| {
                    matches!(&*item.word, "WALLET_NOT_FOUND" | "INSUFFICIENT_FUNDS")
                }) =>
            {
                Ok(false)
            }
            other => Err(self.unavailable(format!("wallets cannot be prepared: {other:?}"))),
        }
    }
}

/// What stands behind `name`, up to the next field.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, behind) = text.split_once(name)?;
    behind.split([',', '}']).next()
}

/// An amount with at most two decimals, as text, in minor units.
pub(super) fn parse_minor(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || fraction.len() > 2 {
        return None;
    }
    let hundredths: i64 = format!("{fraction:0<2}").parse().ok()?;
    let minor = whole
        .parse::<i64>()
        .ok()?
        .checked_mul(100)?
        .checked_add(hundredths)?;
    Some(if is_negative { -minor } else { minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balances_are_read_exactly() {
        for (text, minor) in [
            ("0", Some(0)),
            ("1000000", Some(100_000_000)),
            ("12.3", Some(1_230)),
            ("12.34", Some(1_234)),
            ("0.05", Some(5)),
            ("-0.05", Some(-5)),
            ("90071992547409.93", Some(9_007_199_254_740_993)),
            ("1.234", None),
            ("1e5", None),
            ("", None),
            ("-", None),
            (".5", None),
        ] {
            assert_eq!(parse_minor(text), minor, "{text}");
        }
        let answer = r#"{"wallet_id":"w","balance":12.34,"held":0,"sequence":7}"#;
        assert_eq!(field(answer, "\"balance\":"), Some("12.34"));
        assert_eq!(field(answer, "\"sequence\":"), Some("7"));
        assert_eq!(field(answer, "\"nothing\":"), None);
    }
}
