//! Events as JSON: the one shape in which Kafka and `GET /api/v1/events` tell them (the wire contract is in `docs/API.md`).
//!
//! Written by hand into the caller's buffer: each transfer makes four of them, and this is the hottest text of the
//! program. Only the metadata is not ours: it is JSON text that was checked when the request came in.

use crate::ids::IdCipher;
use crate::journal::{Event, EventDetail, JournalIdentity, entry};
use crate::money;
use crate::types::{
    Currencies, Currency, FraudScore, MinorUnits, Sequence, TimestampMs, TransactionId, WalletId,
};
use uuid::Uuid;

/// Writes events as compact JSON. Owns what every event needs; cheap to clone is not needed, make one a consumer.
#[derive(Clone, Debug)]
pub struct EventEncoder {
    ids: IdCipher,
    currencies: Currencies,
    /// `,"journal":"…"}`: the same at the end of every event.
    journal_field: Box<[u8]>,
    timestamp: TimestampText,
    transaction: IdText,
    wallets: WalletTexts,
}

impl EventEncoder {
    /// An encoder for the events of one journal.
    pub fn new(identity: JournalIdentity, ids: IdCipher, currencies: Currencies) -> Self {
        let journal_field = format!(",\"journal\":\"{identity}\"").into_bytes().into();
        Self {
            ids,
            currencies,
            journal_field,
            timestamp: TimestampText::default(),
            transaction: IdText::default(),
            wallets: WalletTexts::default(),
        }
    }

    /// The text of a wallet's id, as the events tell it: formatted once for all events of a payment.
    pub fn wallet_text(&mut self, wallet: WalletId) -> &IdTextBytes {
        self.wallets.get(wallet.uuid())
    }

    /// Appends the event's JSON object to `out`, without a line end. Never fails; the same event gives the same bytes.
    pub fn encode(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"id\":\"");
        write_uuid(out, self.ids.event_id(event.sequence, event.at).0);
        out.extend_from_slice(b"\",\"type\":\"");
        out.extend_from_slice(event.kind().as_str().as_bytes());
        out.extend_from_slice(b"\",\"timestamp\":\"");
        out.extend_from_slice(self.timestamp.get(event.at));
        out.push(b'"');
        match &event.detail {
            EventDetail::Transaction(detail) => self.transaction(detail, out),
            EventDetail::Balance(detail) => self.balance(detail, out),
            EventDetail::Wallet(detail) => self.wallet(detail, out),
        }
        out.extend_from_slice(b",\"version\":1,\"sequence\":");
        write_sequence(out, event.sequence);
        out.extend_from_slice(&self.journal_field);
        if let EventDetail::Transaction(detail) = &event.detail
            && let Some(reason) = detail.reason
        {
            out.extend_from_slice(b",\"reason\":\"");
            out.extend_from_slice(reason.code().as_bytes());
            out.push(b'"');
        }
        out.push(b'}');
    }

    fn transaction(&mut self, event: &entry::TransactionEvent<'_>, out: &mut Vec<u8>) {
        self.transaction_field(out, event.transaction);
        self.wallet_field(out, b",\"from_wallet\":\"", event.from);
        self.wallet_field(out, b",\"to_wallet\":\"", event.to);
        self.amount_field(out, b",\"amount\":", event.amount, event.currency);
        self.currency_field(out, event.currency);
        out.extend_from_slice(b",\"status\":\"");
        out.extend_from_slice(event.status.as_str().as_bytes());
        out.extend_from_slice(b"\",\"fraud_score\":");
        money::write_score(out, event.fraud_score);
        if let Some((old, new)) = event.scores {
            write_scores(out, old, new);
        } else if let Some(metadata) = event.metadata {
            out.extend_from_slice(b",\"metadata\":");
            out.extend_from_slice(metadata.as_bytes());
        }
    }

    fn balance(&mut self, event: &entry::BalanceEvent, out: &mut Vec<u8>) {
        self.wallet_field(out, b",\"wallet_id\":\"", event.wallet);
        self.currency_field(out, event.currency);
        let (old, new) = (event.old_balance, event.new_balance);
        self.amount_field(out, b",\"old_balance\":", old, event.currency);
        self.amount_field(out, b",\"new_balance\":", new, event.currency);
        self.transaction_field(out, event.transaction);
    }

    fn wallet(&mut self, event: &entry::WalletEvent, out: &mut Vec<u8>) {
        self.wallet_field(out, b",\"wallet_id\":\"", event.wallet);
        self.currency_field(out, event.currency);
        let limit = event.overdraft_limit;
        self.amount_field(out, b",\"overdraft_limit\":", limit, event.currency);
    }

    fn transaction_field(&mut self, out: &mut Vec<u8>, transaction: TransactionId) {
        out.extend_from_slice(b",\"transaction_id\":\"");
        out.extend_from_slice(self.transaction.get(transaction.0));
        out.push(b'"');
    }

    /// `head` is all in front of the id.
    fn wallet_field(&mut self, out: &mut Vec<u8>, head: &[u8], wallet: WalletId) {
        out.extend_from_slice(head);
        out.extend_from_slice(self.wallet_text(wallet));
        out.push(b'"');
    }

    /// `head` is all in front of the number.
    fn amount_field(&self, out: &mut Vec<u8>, head: &[u8], amount: MinorUnits, currency: Currency) {
        let exponent = self.currencies.get(currency).map_or(0, |row| row.exponent);
        out.extend_from_slice(head);
        money::write_number(out, i128::from(amount.get()), exponent);
    }

    fn currency_field(&self, out: &mut Vec<u8>, currency: Currency) {
        out.extend_from_slice(b",\"currency\":\"");
        out.extend_from_slice(currency_code(&self.currencies, currency).as_bytes());
        out.push(b'"');
    }
}

/// The code of a currency; `UNKNOWN` for a tag that is not in the table (the store refuses to open with such a table).
pub fn currency_code(currencies: &Currencies, currency: Currency) -> &str {
    currencies.get(currency).map_or("UNKNOWN", |row| &row.code)
}

/// Appends a UUID in lower case with hyphens, without quotes.
pub fn write_uuid(out: &mut Vec<u8>, id: Uuid) {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    out.extend_from_slice(id.as_hyphenated().encode_lower(&mut text).as_bytes());
}

/// Appends the bare number.
pub fn write_sequence(out: &mut Vec<u8>, sequence: Sequence) {
    out.extend_from_slice(itoa::Buffer::new().format(sequence.get()).as_bytes());
}

fn write_scores(out: &mut Vec<u8>, old: FraudScore, new: FraudScore) {
    out.extend_from_slice(b",\"metadata\":{\"old_fraud_score\":");
    money::write_score(out, old);
    out.extend_from_slice(b",\"new_fraud_score\":");
    money::write_score(out, new);
    out.push(b'}');
}

/// A UUID in lower case with hyphens.
pub type IdTextBytes = [u8; uuid::fmt::Hyphenated::LENGTH];

/// The text of the id asked for last. Formatting one takes far longer than copying it, and a payment's events tell the
/// same three ids eleven times.
#[derive(Clone, Debug)]
struct IdText {
    id: Uuid,
    text: IdTextBytes,
}

impl IdText {
    fn get(&mut self, id: Uuid) -> &IdTextBytes {
        if id != self.id {
            id.as_hyphenated().encode_lower(&mut self.text);
            self.id = id;
        }
        &self.text
    }
}

impl Default for IdText {
    fn default() -> Self {
        Self {
            id: Uuid::nil(),
            text: *b"00000000-0000-0000-0000-000000000000",
        }
    }
}

/// The texts of the two wallets that were last new: a payment's.
#[derive(Clone, Debug, Default)]
struct WalletTexts {
    newest: IdText,
    other: IdText,
}

impl WalletTexts {
    fn get(&mut self, id: Uuid) -> &IdTextBytes {
        if id == self.newest.id {
            return &self.newest.text;
        }
        if id != self.other.id {
            std::mem::swap(&mut self.newest, &mut self.other);
            return self.newest.get(id);
        }
        &self.other.text
    }
}

/// The text of the time asked for last. Events come in runs of one millisecond and many of one second, so the
/// calendar is asked once a second and else only three digits change.
#[derive(Clone, Debug)]
pub struct TimestampText {
    at: TimestampMs,
    text: [u8; Self::LENGTH],
}

impl TimestampText {
    /// `2026-11-22T09:30:00.000Z`.
    const LENGTH: usize = 24;

    /// RFC 3339, UTC, milliseconds; the same text as `Display` of [`TimestampMs`].
    pub fn get(&mut self, at: TimestampMs) -> &[u8] {
        if at != self.at {
            if at.get() / 1000 == self.at.get() / 1000 {
                self.write_millis(at.get() % 1000);
            } else {
                write_display(&mut self.text, at);
            }
            self.at = at;
        }
        &self.text
    }

    fn write_millis(&mut self, millis: u64) {
        let [.., hundreds, tens, ones, _] = &mut self.text;
        let digit = |value: u64| b'0'.wrapping_add(u8::try_from(value % 10).unwrap_or_default());
        (*hundreds, *tens, *ones) = (digit(millis / 100), digit(millis / 10), digit(millis));
    }
}

impl Default for TimestampText {
    fn default() -> Self {
        // Spelled out, since one is made for each answer and the calendar takes longer than the rest of it.
        Self {
            at: TimestampMs::default(),
            text: *b"1970-01-01T00:00:00.000Z",
        }
    }
}

fn write_display(mut text: &mut [u8], at: TimestampMs) {
    // Why no error: `TimestampMs` ends before the year 10000, so its text always has exactly this length.
    let _ = std::io::Write::write_fmt(&mut text, format_args!("{at}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Entry;
    use crate::journal::entry::{
        Amendment, Body, ChainLink, FailureReason, HoldPlaced, Leg, Movement, RefusedMovement,
        Scored, VoidedHold, WalletOpened,
    };
    use crate::types::Status;
    use proptest::prelude::*;

    const AT: TimestampMs = TimestampMs::new(1_795_387_017_045);
    const FIRST: Sequence = Sequence::new(41);

    fn ids() -> IdCipher {
        IdCipher::new(b"0123456789abcdef")
    }

    fn wallet(number: u128) -> WalletId {
        WalletId::new(Uuid::from_u128(number)).unwrap()
    }

    fn leg(number: u128, balance_minor: i64) -> Leg {
        Leg {
            wallet: wallet(number),
            balance_after: MinorUnits::new(balance_minor),
            held_after: MinorUnits::ZERO,
            link: ChainLink::default(),
        }
    }

    fn movement() -> Movement {
        Movement {
            transaction: ids().transaction_id(FIRST, AT),
            from: leg(0xaa, 89_990),
            to: leg(0xbb, 10_010),
            currency: Currency::from_tag(1),
            amount: MinorUnits::new(10_010),
            metadata: Some("{\"order\":7}".into()),
        }
    }

    fn amendment() -> Amendment {
        Amendment {
            transaction: ids().transaction_id(FIRST, AT),
            created: FIRST,
            previous_amendment: Sequence::ORIGIN,
            ordinal: 1,
            from: leg(0xaa, 100_000),
            to: leg(0xbb, 0),
            currency: Currency::from_tag(2),
            amount: MinorUnits::new(10_000),
            fraud_score: FraudScore::from_millionths(250_000).unwrap(),
            status_before: Status::Completed,
            user_id: None,
            details: None,
        }
    }

    fn lines(body: Body) -> Vec<String> {
        let identity = JournalIdentity {
            journal_id: Uuid::from_u128(0x77),
            epoch: 3,
        };
        let mut encoder = EventEncoder::new(identity, ids(), Currencies::default());
        let entry = Entry {
            first: FIRST,
            at: AT,
            idempotency: None,
            batch: None,
            body,
        };
        entry
            .events()
            .map(|event| {
                let mut out = Vec::new();
                encoder.encode(&event, &mut out);
                String::from_utf8(out).unwrap()
            })
            .collect()
    }

    /// The frame around the event with `sequence`, with `fields` in the middle and `tail` behind.
    fn line(sequence: u64, kind: &str, fields: &str, tail: &str) -> String {
        let id = ids().event_id(Sequence::new(sequence), AT);
        format!(
            "{{\"id\":\"{id}\",\"type\":\"{kind}\",\"timestamp\":\"2026-11-22T22:36:57.045Z\",{fields},\
             \"version\":1,\"sequence\":{sequence},\"journal\":\"00000000-0000-0000-0000-000000000077/3\"{tail}}}"
        )
    }

    fn transaction_fields(amount: &str, currency: &str, status: &str, score: &str) -> String {
        let id: TransactionId = ids().transaction_id(FIRST, AT);
        format!(
            "\"transaction_id\":\"{id}\",\"from_wallet\":\"00000000-0000-0000-0000-0000000000aa\",\
             \"to_wallet\":\"00000000-0000-0000-0000-0000000000bb\",\"amount\":{amount},\
             \"currency\":\"{currency}\",\"status\":\"{status}\",\"fraud_score\":{score}"
        )
    }

    #[test]
    fn a_transfer_tells_four_events_in_the_exact_shape_of_the_contract() {
        let id = ids().transaction_id(FIRST, AT);
        let created = transaction_fields("100.1", "USD-CBDC", "pending", "0");
        let completed = transaction_fields("100.1", "USD-CBDC", "completed", "0");
        let balance = |wallet: &str, old: &str, new: &str| {
            format!(
                "\"wallet_id\":\"00000000-0000-0000-0000-0000000000{wallet}\",\"currency\":\"USD-CBDC\",\
                 \"old_balance\":{old},\"new_balance\":{new},\"transaction_id\":\"{id}\""
            )
        };
        let metadata = ",\"metadata\":{\"order\":7}";
        assert_eq!(
            lines(Body::Transfer(movement())),
            [
                line(41, "transaction.created", &(created + metadata), ""),
                line(42, "transaction.completed", &(completed + metadata), ""),
                line(43, "balance.updated", &balance("aa", "1000", "899.9"), ""),
                line(44, "balance.updated", &balance("bb", "0", "100.1"), ""),
            ]
        );
    }

    #[test]
    fn a_failed_transaction_tells_why_beside_the_metadata_it_was_created_with() {
        let refused = RefusedMovement {
            movement: movement(),
            reason: FailureReason::InsufficientFunds,
        };
        let failed = transaction_fields("100.1", "USD-CBDC", "failed", "0");
        assert_eq!(
            lines(Body::TransferRefused(refused)).last(),
            Some(&line(
                42,
                "transaction.failed",
                &(failed + ",\"metadata\":{\"order\":7}"),
                ",\"reason\":\"INSUFFICIENT_FUNDS\""
            ))
        );
        let voided = VoidedHold {
            amendment: amendment(),
            reason: FailureReason::Expired,
        };
        let failed = transaction_fields("100", "EUR-CBDC", "failed", "0.25");
        assert_eq!(
            lines(Body::HoldVoided(voided)),
            [line(
                41,
                "transaction.failed",
                &failed,
                ",\"reason\":\"EXPIRED\""
            )]
        );
    }

    #[test]
    fn a_score_tells_old_and_new_as_metadata() {
        let new_score = FraudScore::from_millionths(1_000_000).unwrap();
        let fields = transaction_fields("100", "EUR-CBDC", "completed", "1")
            + ",\"metadata\":{\"old_fraud_score\":0.25,\"new_fraud_score\":1}";
        assert_eq!(
            lines(Body::FraudScored(Scored {
                amendment: amendment(),
                new_score
            })),
            [line(41, "fraud.score.updated", &fields, "")]
        );
    }

    #[test]
    fn a_wallet_tells_its_overdraft_limit() {
        let opened = WalletOpened {
            leg: leg(0xaa, 0),
            currency: Currency::from_tag(3),
            overdraft_limit: MinorUnits::new(5_050),
        };
        let fields = "\"wallet_id\":\"00000000-0000-0000-0000-0000000000aa\",\
                      \"currency\":\"GBP-CBDC\",\"overdraft_limit\":50.5";
        assert_eq!(
            lines(Body::WalletOpened(opened)),
            [line(41, "wallet.opened", fields, "")]
        );
    }

    #[test]
    fn every_event_is_json_without_spaces() {
        let without_metadata = Movement {
            metadata: None,
            ..movement()
        };
        let hold = HoldPlaced {
            movement: without_metadata,
            expires_at: AT.plus(1000),
        };
        for body in [
            Body::Transfer(movement()),
            Body::HoldPlaced(hold),
            Body::HoldCaptured(amendment()),
            Body::Reversal(amendment()),
        ] {
            for line in lines(body) {
                let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(value.get("version"), Some(&1.into()));
                assert!(!line.contains(' '), "{line}");
            }
        }
    }

    #[test]
    fn an_encoded_event_appends_and_leaves_what_was_there() {
        let identity = JournalIdentity {
            journal_id: Uuid::from_u128(0x77),
            epoch: 3,
        };
        let mut encoder = EventEncoder::new(identity, ids(), Currencies::default());
        let body = Body::Transfer(movement());
        let entry = Entry {
            first: FIRST,
            at: AT,
            idempotency: None,
            batch: None,
            body,
        };
        let event = entry.events().next().unwrap();
        let mut out = b"before".to_vec();
        encoder.encode(&event, &mut out);
        encoder.encode(&event, &mut out);
        let text = String::from_utf8(out).unwrap();
        let one = lines(Body::Transfer(movement())).swap_remove(0);
        assert_eq!(text, format!("before{one}{one}"));
    }

    #[test]
    fn before_any_time_the_text_is_that_of_the_first_millisecond() {
        let mut text = TimestampText::default();
        let epoch = TimestampMs::default();
        assert_eq!(text.get(epoch), epoch.to_string().as_bytes());
    }

    proptest! {
        #[test]
        fn remembered_ids_are_those_asked_for(steps in prop::collection::vec(0..4_u128, 1..40)) {
            let (mut transaction, mut wallets) = (IdText::default(), WalletTexts::default());
            for number in steps {
                let id = Uuid::from_u128(number);
                let expected = id.to_string();
                prop_assert_eq!(std::str::from_utf8(transaction.get(id)).unwrap(), expected.as_str());
                prop_assert_eq!(std::str::from_utf8(wallets.get(id)).unwrap(), expected.as_str());
            }
        }

        #[test]
        fn cached_times_are_the_times_of_display(steps in prop::collection::vec(0..2_000_u64, 1..20), start in 0..253_402_207_100_000_u64) {
            let mut text = TimestampText::default();
            let mut at = TimestampMs::new(start);
            for step in steps {
                at = at.plus(step);
                let expected = at.to_string();
                prop_assert_eq!(std::str::from_utf8(text.get(at)).unwrap(), expected);
            }
        }
    }
}
