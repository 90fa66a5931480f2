//! Subscribers that hear along: did each hear everything, in order, and how late.

use super::draw::wallet_id;
use super::tally::{Books, histogram};
use super::worker::Plan;
use crate::cli::SubscribeTo;
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use memchr::memmem;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{WebSocketStream, client_async};

/// A transfer is told twice: pending, completed; a refused one pending, failed.
const UPDATES_OF_TRANSFER: u64 = 2;
/// After this many, a subscriber that is closed stays closed.
const RESUMES_MAX: u64 = 1_000;
const DAY_MS: u64 = 86_400_000;
/// Answers to a subscription before it is given up.
const PREAMBLE_MAX: usize = 100;

/// What all subscribers heard.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) updates: u64,
    /// Each subscriber's updates.
    pub(super) received: Vec<u64>,
    /// Updates that came a second time or after a later one.
    pub(super) disordered: u64,
    /// Connections that were closed and resumed where they had been.
    pub(super) resumes: u64,
    /// Why some are no longer there.
    pub(super) ended: Vec<String>,
    /// From the ledger's time of the entry to the arrival here, in milliseconds.
    pub(super) lags_ms: Histogram<u64>,
    /// The longest since somebody asked.
    lag_ms_max: u64,
}

/// The subscribers, on a thread of their own.
#[derive(Debug)]
pub(super) struct Subscribers {
    heard: Arc<Mutex<Heard>>,
    stop_tx: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Subscribers {
    /// Starts them and completes when all are subscribed.
    pub(super) async fn start(
        plan: &Arc<Plan>,
        supervisor: &crate::tasks::Supervisor,
    ) -> Result<Self, String> {
        let heard = Arc::new(Mutex::new(Heard {
            updates: 0,
            received: vec![0; plan.options.subscribers as usize],
            disordered: 0,
            resumes: 0,
            ended: Vec::new(),
            lags_ms: histogram(),
            lag_ms_max: 0,
        }));
        let (stop_tx, stop_rx) = watch::channel(false);
        let (ready_tx, ready_rx) = oneshot::channel();
        let work = {
            let (plan, heard) = (Arc::clone(plan), Arc::clone(&heard));
            move || listen(plan, heard, stop_rx, ready_tx)
        };
        let thread = supervisor
            .spawn_thread("bench-subscribers", crate::tasks::OnExit::Continue, work)
            .map_err(|error| format!("no thread for subscribers: {error}"))?;
        match ready_rx.await {
            Ok(Ok(())) => Ok(Self {
                heard,
                stop_tx,
                thread: Some(thread),
            }),
            Ok(Err(reason)) => Err(format!("a subscriber: {reason}")),
            Err(_) => Err("the subscribers ended".into()),
        }
    }

    /// The longest lag since this was asked last, in milliseconds.
    pub(super) fn take_lag_ms_max(&self) -> u64 {
        std::mem::take(&mut self.heard.lock().lag_ms_max)
    }

    /// How many updates the subscribers still have to hear.
    pub(super) fn missing(&self, plan: &Plan, books: &Books) -> u64 {
        let heard = self.heard.lock();
        let of_one = |(number, received): (usize, &u64)| {
            expected(plan, books, number).saturating_sub(*received)
        };
        heard.received.iter().enumerate().map(of_one).sum()
    }

    /// Closes all connections. Blocks for a moment.
    pub(super) fn finish(mut self) -> Arc<Mutex<Heard>> {
        self.stop_tx.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // Its panic was logged.
            let _ended = thread.join();
        }
        Arc::clone(&self.heard)
    }
}

/// How many updates a subscriber hears of what was acknowledged.
fn expected(plan: &Plan, books: &Books, number: usize) -> u64 {
    match plan.options.subscribe_to {
        SubscribeTo::Everything => {
            (books.acknowledged + books.refused_recorded) * UPDATES_OF_TRANSFER
        }
        SubscribeTo::Wallet => {
            let wallet = wallet_of(plan, number);
            let touched = books.touched.get(wallet as usize).copied().unwrap_or(0);
            u64::from(touched) * UPDATES_OF_TRANSFER
        }
    }
}

fn wallet_of(plan: &Plan, number: usize) -> u32 {
    u32::try_from(number % plan.options.wallets as usize).unwrap_or(0)
}

fn listen(
    plan: Arc<Plan>,
    heard: Arc<Mutex<Heard>>,
    stop_rx: watch::Receiver<bool>,
    ready_tx: oneshot::Sender<Result<(), String>>,
) {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            let _nobody_waits = ready_tx.send(Err(format!("no runtime: {error}")));
            return;
        }
    };
    runtime.block_on(async move {
        let mut sockets = Vec::new();
        for number in 0..plan.options.subscribers as usize {
            match subscribe(&plan, number, None).await {
                Ok(socket) => sockets.push(socket),
                Err(reason) => {
                    let _nobody_waits = ready_tx.send(Err(reason));
                    return;
                }
            }
        }
        let mut running = JoinSet::new();
        for (number, socket) in sockets.into_iter().enumerate() {
            let subscriber = Subscriber {
                plan: Arc::clone(&plan),
                heard: Arc::clone(&heard),
                number,
                last_sequence: 0,
            };
            let stop_rx = stop_rx.clone();
            running.spawn(subscriber.run(socket, stop_rx));
        }
        if ready_tx.send(Ok(())).is_ok() {
            while running.join_next().await.is_some() {}
        }
    });
}

type Socket = WebSocketStream<TcpStream>;

/// A connection that is subscribed, from now on or behind a sequence.
async fn subscribe(plan: &Plan, number: usize, after: Option<u64>) -> Result<Socket, String> {
    let subscribing = async {
        let address = &plan.address;
        let url = format!(
            "ws://{}{}/ws/transactions",
            address.authority, address.prefix
        );
        let mut request = url
            .into_client_request()
            .map_err(|error| error.to_string())?;
        if let Some(value) = &address.authorization {
            let value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            request.headers_mut().insert("authorization", value);
        }
        let stream = TcpStream::connect(plan.socket)
            .await
            .map_err(|error| error.to_string())?;
        let (mut socket, _) = client_async(request, stream)
            .await
            .map_err(|error| error.to_string())?;
        let mut message = json!({"type": "subscribe"});
        if plan.options.subscribe_to == SubscribeTo::Wallet {
            message["wallet_ids"] = json!([wallet_id(plan.seed, wallet_of(plan, number))]);
        }
        if let Some(after) = after {
            message["after_sequence"] = json!(after);
        }
        let message = Message::text(message.to_string());
        socket
            .send(message)
            .await
            .map_err(|error| error.to_string())?;
        for _ in 0..PREAMBLE_MAX {
            let told = socket.next().await;
            let told = told
                .ok_or("the connection ended")?
                .map_err(|error| error.to_string())?;
            let Message::Text(text) = told else { continue };
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            match value.get("type").and_then(Value::as_str) {
                Some("subscribed") => return Ok(socket),
                Some("error") => return Err(text.to_string()),
                _ => {}
            }
        }
        Err("no answer to a subscription".into())
    };
    tokio::time::timeout(plan.options.timeout, subscribing)
        .await
        .unwrap_or_else(|_| Err("no subscription in time".into()))
}

async fn stopped(stop_rx: &mut watch::Receiver<bool>) {
    // Who could ask is gone: nobody listens any more either.
    let _asked_or_gone = stop_rx.wait_for(|stop| *stop).await;
}

/// One of them.
#[derive(Debug)]
struct Subscriber {
    plan: Arc<Plan>,
    heard: Arc<Mutex<Heard>>,
    number: usize,
    last_sequence: u64,
}

impl Subscriber {
    async fn run(mut self, mut socket: Socket, mut stop_rx: watch::Receiver<bool>) {
        loop {
            let ended = tokio::select! {
                ended = self.hear(&mut socket) => ended,
                () = stopped(&mut stop_rx) => {
                    let closing = socket.close(None);
                    let _closed = tokio::time::timeout(Duration::from_millis(200), closing).await;
                    return;
                }
            };
            let after = match ended {
                Ok(after) => after,
                Err(reason) => return self.end(&reason),
            };
            {
                let mut heard = self.heard.lock();
                heard.resumes += 1;
                if heard.resumes > RESUMES_MAX {
                    drop(heard);
                    return self.end("closed too often");
                }
            }
            match subscribe(&self.plan, self.number, Some(after)).await {
                Ok(resumed) => socket = resumed,
                Err(reason) => return self.end(&reason),
            }
        }
    }

    fn end(&self, reason: &str) {
        let mut heard = self.heard.lock();
        // Some tell what is wrong with all.
        if heard.ended.len() < 8 {
            heard
                .ended
                .push(format!("subscriber {}: {reason}", self.number));
        }
    }

    /// Until the connection ends: with the sequence to resume behind, or with why there is none.
    async fn hear(&mut self, socket: &mut Socket) -> Result<u64, String> {
        while let Some(message) = socket.next().await {
            match message {
                Ok(Message::Text(text)) => self.take(text.as_bytes()),
                Ok(Message::Close(frame)) => {
                    let reason = frame.map_or_else(String::new, |frame| frame.reason.to_string());
                    let told: Value = serde_json::from_str(&reason).unwrap_or_default();
                    let after = told.get("resume_after").and_then(Value::as_u64);
                    return after.ok_or_else(|| format!("closed: {reason}"));
                }
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err("the connection ended".into())
    }

    fn take(&mut self, text: &[u8]) {
        if memmem::find(text, b"\"type\":\"status_update\"").is_none() {
            return;
        }
        let now_ms = self.plan.clock.now().get() % DAY_MS;
        let behind =
            |word: &[u8]| memmem::rfind(text, word).and_then(|at| text.get(at + word.len()..));
        let sequence = behind(b"\"sequence\":").map_or(0, leading_number);
        let lag_ms = behind(b"\"timestamp\":\"")
            .and_then(ms_of_day)
            // Around midnight, and a step of the clock back.
            .map(|then_ms| (now_ms + DAY_MS - then_ms) % DAY_MS)
            .filter(|lag_ms| *lag_ms < DAY_MS / 2);
        let mut heard = self.heard.lock();
        heard.updates += 1;
        if let Some(received) = heard.received.get_mut(self.number) {
            *received += 1;
        }
        if sequence <= self.last_sequence {
            heard.disordered += 1;
        }
        self.last_sequence = self.last_sequence.max(sequence);
        if let Some(lag_ms) = lag_ms {
            heard.lags_ms.saturating_record(lag_ms);
            heard.lag_ms_max = heard.lag_ms_max.max(lag_ms);
        }
    }
}

fn leading_number(text: &[u8]) -> u64 {
    text.iter()
        .take_while(|digit| digit.is_ascii_digit())
        .fold(0, |number: u64, digit| {
            number
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'))
        })
}

/// Milliseconds since midnight of `2026-11-22T09:30:00.000Z`.
fn ms_of_day(text: &[u8]) -> Option<u64> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| leading_number(digits))
    };
    let (hours, minutes) = (number(11, 13)?, number(14, 16)?);
    let (seconds, ms) = (number(17, 19)?, number(20, 23)?);
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_updates_are_read() {
        assert_eq!(ms_of_day(b"2026-11-22T00:00:00.007Z"), Some(7));
        assert_eq!(ms_of_day(b"2026-11-22T09:30:01.250Z\",x"), Some(34_201_250));
        assert_eq!(ms_of_day(b"2026-11-22"), None);
        assert_eq!(ms_of_day(b"2026-11-22Txx:00:00.007Z"), None);
        assert_eq!(leading_number(b"123,"), 123);
    }
}
