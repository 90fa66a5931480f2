//! What is asked of the server, and when it is killed: all of it follows from the seed and a number.

use crate::support::http::NIL;
use crate::support::subscribers::Filter;
use serde_json::json;

/// Small and repeatable: splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// The same numbers for the same seed and purpose.
    pub(super) fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = Self(seed ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// One of `items`.
    pub(super) fn pick<'i, T>(&mut self, items: &'i [T]) -> &'i T {
        let index = usize::try_from(self.below(items.len() as u64)).unwrap();
        &items[index]
    }

    /// Puts `items` into another order.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = usize::try_from(self.below(end as u64 + 1)).unwrap();
            items.swap(end, other);
        }
    }
}

/// What the server is doing when it is killed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Phase {
    /// Answering requests.
    Load,
    /// On its way up, the books are not being opened yet, or are open already.
    Start,
    /// Opening the books from the journal.
    Replay,
    /// Writing the books out, under load.
    Checkpoint,
    /// Handing over to the next volume, under load.
    Rotation,
    /// Stopping in order, after SIGTERM under load.
    Drain,
    /// Answering requests while the broker is frozen or gone.
    KafkaAway,
}

impl Phase {
    pub(super) const ALL: [Self; 7] = [
        Self::Load,
        Self::Start,
        Self::Replay,
        Self::Checkpoint,
        Self::Rotation,
        Self::Drain,
        Self::KafkaAway,
    ];

    /// How many kills of a hundred are meant for it.
    const fn share(self) -> usize {
        match self {
            Self::Load => 22,
            Self::Start | Self::Replay => 14,
            Self::Checkpoint | Self::Drain => 15,
            Self::Rotation | Self::KafkaAway => 10,
        }
    }

    /// `count` phases or some more, to be drawn from the end: first one of each in a random order, then the rest of each
    /// one's share. Without a broker none can be away.
    pub(super) fn deck(count: usize, has_broker: bool, rng: &mut Rng) -> Vec<Self> {
        let mut first: Vec<Self> = Self::ALL
            .into_iter()
            .filter(|phase| has_broker || *phase != Self::KafkaAway)
            .collect();
        let of = |phase: &Self| vec![*phase; phase.share() * count / 100];
        let mut deck: Vec<Self> = first.iter().flat_map(of).collect();
        deck.resize(count.max(deck.len()), Self::Load);
        rng.shuffle(&mut deck);
        rng.shuffle(&mut first);
        deck.append(&mut first);
        deck
    }
}

/// Wallets that pay each other.
const WALLETS: u64 = 24;
/// More than any wallet has.
const TOO_MUCH_MINOR: i64 = 90_000_000_000;
/// What no request that is carried out ever names.
pub(super) const NEVER: &str = "bad0bad0-bad0-4bad-8bad-";

/// A wallet's id.
fn wallet(number: u64) -> String {
    format!("00000000-0000-4000-8000-{:012x}", 1 + number % WALLETS)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Transfer,
    /// A transfer of more than there is: refused by a rule, and recorded as failed.
    Overdraw,
    /// Never given back by itself within a test.
    Hold,
    /// Given back after a second.
    ShortHold,
    Issuance,
}

/// One transaction that is asked for. It follows from the seed and its tag, which travels in its metadata: whoever finds
/// it in the journal can tell what it must look like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Order {
    pub(super) tag: u64,
    pub(super) kind: Kind,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) minor: i64,
}

impl Order {
    pub(super) fn of(seed: u64, tag: u64) -> Self {
        let mut rng = Rng::new(seed, tag);
        let kind = match rng.below(100) {
            _ if Self::is_issuance(tag) => Kind::Issuance,
            0..12 => Kind::Hold,
            12..15 => Kind::ShortHold,
            15..22 => Kind::Overdraw,
            _ => Kind::Transfer,
        };
        let from = rng.below(WALLETS);
        let to = from + 1 + rng.below(WALLETS - 1);
        Self {
            tag,
            kind,
            from: wallet(from),
            to: wallet(to),
            minor: match kind {
                Kind::Overdraw => TOO_MUCH_MINOR,
                _ => i64::try_from(1 + rng.below(500)).unwrap(),
            },
        }
    }

    /// Tags whose order goes another way than a transfer, and so into no batch.
    pub(super) const fn is_issuance(tag: u64) -> bool {
        tag.is_multiple_of(32)
    }

    /// The body of its request, or its item in a batch. `note_bytes` of text make it heavier.
    pub(super) fn body(&self, note_bytes: usize) -> serde_json::Value {
        let amount = format!("{}.{:02}", self.minor / 100, self.minor % 100);
        let mut body =
            json!({"amount": amount, "currency": "USD-CBDC", "metadata": {"tag": self.tag}});
        if note_bytes > 0 {
            body["metadata"]["note"] = "x".repeat(note_bytes).into();
        }
        if self.kind == Kind::Issuance {
            body["wallet_id"] = self.to.as_str().into();
            return body;
        }
        body["from_wallet"] = self.from.as_str().into();
        body["to_wallet"] = self.to.as_str().into();
        let expires_in_seconds = match self.kind {
            Kind::Hold => 3_600,
            Kind::ShortHold => 1,
            Kind::Transfer | Kind::Overdraw | Kind::Issuance => return body,
        };
        body["hold"] = true.into();
        body["expires_in_seconds"] = expires_in_seconds.into();
        body
    }
}

/// A request that cannot be carried out, whatever the books say: it must leave no trace.
pub(super) fn malformed(rng: &mut Rng) -> String {
    let never = |rng: &mut Rng| format!("{NEVER}{:012x}", rng.below(1 << 40));
    let (from, to) = (never(rng), never(rng));
    let of = |from: &str, amount: &str, currency: &str| {
        json!({"from_wallet": from, "to_wallet": to, "amount": amount, "currency": currency})
            .to_string()
    };
    match rng.below(6) {
        0 => of(&from, "-1.00", "USD-CBDC"),
        1 => of(&from, "0.001", "USD-CBDC"),
        2 => of(&from, "1.00", "NO-SUCH"),
        3 => of(&to, "1.00", "USD-CBDC"),
        4 => of(NIL, "1.00", "USD-CBDC"),
        _ => of(&from, "1.00", "USD-CBDC").replace('}', ""),
    }
}

/// What the subscribers of a journal listen to.
pub(super) fn filters() -> [Filter; 4] {
    [
        Filter::All,
        Filter::Wallets(vec![wallet(3), wallet(11)]),
        Filter::Statuses(vec!["reversed", "failed"]),
        // Hears nothing: it resumes by the positions that it is told.
        Filter::Wallets(vec![format!("{NEVER}ffffffffffff")]),
    ]
}
