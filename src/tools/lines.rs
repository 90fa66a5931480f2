//! The lines of an export: a header, for each page a line and its entries, an end. Every field of an entry stands in its
//! line, so that the page can be made again byte for byte. `docs/TOOLS.md` is the definition.

use crate::journal::{
    Amendment, BatchPlace, Body, ChainLink, Entry, EpochStart, FailureReason, HoldPlaced,
    Idempotency, JournalIdentity, Leg, Lineage, Movement, PagePlace, RefusedMovement, Scored,
    Settings, VoidedHold, WalletOpened,
};
use crate::types::{
    Currencies, Currency, CurrencyInfo, FraudScore, MinorUnits, Sequence, Status, TimestampMs,
    TransactionId, WalletId,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use uuid::Uuid;

/// What the header's `format` says.
pub(super) const FORMAT: &str = "echopay-export";
/// The one version that this program writes and reads.
pub(super) const VERSION: u32 = 1;

/// The first two fields, by which a newer format is told from damage.
#[derive(Deserialize)]
pub(super) struct Opening<'l> {
    #[serde(borrow)]
    pub(super) format: Cow<'l, str>,
    pub(super) version: u32,
}

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) format: String,
    pub(super) version: u32,
    pub(super) journal_id: Uuid,
    pub(super) epoch: u32,
    pub(super) lineage: Vec<EpochLine>,
    pub(super) id_key: Hex<16>,
    pub(super) currencies: Vec<CurrencyLine>,
    pub(super) made_by_dev: bool,
    /// Whether it holds the whole journal, page by page.
    pub(super) complete: bool,
    pub(super) first: u64,
    pub(super) last: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EpochLine {
    epoch: u32,
    after: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CurrencyLine {
    tag: u16,
    code: String,
    decimals: u8,
}

impl Header {
    /// Of the journal with these facts.
    pub(super) fn new(
        settings: &Settings,
        lineage: &Lineage,
        (first, last): (Sequence, Sequence),
        complete: bool,
    ) -> Self {
        let epoch_line = |row: &EpochStart| EpochLine {
            epoch: row.epoch,
            after: row.after.get(),
        };
        let currency_line = |row: &CurrencyInfo| CurrencyLine {
            tag: row.currency.tag(),
            code: row.code.to_string(),
            decimals: row.exponent,
        };
        Self {
            format: FORMAT.into(),
            version: VERSION,
            journal_id: settings.identity.journal_id,
            epoch: settings.identity.epoch,
            lineage: lineage.rows().iter().map(epoch_line).collect(),
            id_key: Hex(settings.id_key),
            currencies: settings
                .currencies
                .rows()
                .iter()
                .map(currency_line)
                .collect(),
            made_by_dev: settings.dev,
            complete,
            first: first.get(),
            last: last.get(),
        }
    }

    /// The facts again.
    pub(super) fn facts(&self) -> Result<(Settings, Lineage), &'static str> {
        let row = |line: &EpochLine| EpochStart {
            epoch: line.epoch,
            after: Sequence::new(line.after),
        };
        let rows = self.lineage.iter().map(row).collect();
        let lineage = Lineage::new(self.journal_id, rows)
            .filter(|lineage| lineage.identity().epoch == self.epoch)
            .ok_or("the lineage does not fit")?;
        let row = |line: &CurrencyLine| CurrencyInfo {
            currency: Currency::from_tag(line.tag),
            code: line.code.as_str().into(),
            exponent: line.decimals,
        };
        let currencies = Currencies::new(self.currencies.iter().map(row).collect());
        let settings = Settings {
            identity: JournalIdentity {
                journal_id: self.journal_id,
                epoch: self.epoch,
            },
            id_key: self.id_key.0,
            dev: self.made_by_dev,
            currencies: currencies.ok_or("the currencies do not fit")?,
        };
        Ok((settings, lineage))
    }
}

/// Every line behind the first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line<'l> {
    Page(PageLine),
    #[serde(borrow)]
    Entry(Box<EntryLine<'l>>),
    End(EndLine),
}

/// Stands before the entries of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageLine {
    epoch: u32,
    group: u64,
    index: u32,
    count: u32,
    pub(super) entries: u16,
    first: u64,
    last: u64,
    pub(super) hash: Hex<32>,
}

impl PageLine {
    pub(super) fn new(place: PagePlace, hash: [u8; 32]) -> Self {
        Self {
            epoch: place.epoch,
            group: place.group.get(),
            index: place.index,
            count: place.count,
            entries: place.entries,
            first: place.first.get(),
            last: place.last.get(),
            hash: Hex(hash),
        }
    }

    pub(super) const fn place(&self) -> PagePlace {
        PagePlace {
            epoch: self.epoch,
            group: Sequence::new(self.group),
            index: self.index,
            count: self.count,
            entries: self.entries,
            first: Sequence::new(self.first),
            last: Sequence::new(self.last),
        }
    }
}

/// The last line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EndLine {
    pub(super) pages: u64,
    pub(super) entries: u64,
    /// BLAKE3 of the last page.
    pub(super) head_hash: Hex<32>,
    /// BLAKE3 of all lines before this one, their ends included.
    pub(super) lines_hash: Hex<32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    WalletOpened,
    Transfer,
    Issuance,
    Redemption,
    TransferRefused,
    HoldPlaced,
    HoldCaptured,
    HoldVoided,
    Reversal,
    FraudScored,
}

/// One entry. Amounts are whole numbers of minor units; what is absent is nothing, or zero.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryLine<'l> {
    sequence: u64,
    kind: Kind,
    #[serde(borrow)]
    at: Cow<'l, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transaction_id: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
    #[serde(borrow)]
    currency: Cow<'l, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wallet: Option<LegLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<LegLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<LegLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overdraft_limit: Option<i64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'l, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Cow<'l, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amendment: Option<AmendmentLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new_fraud_score_millionths: Option<u32>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user_id: Option<Cow<'l, str>>,
    /// Metadata or details: the JSON text as it was kept.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'l, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idempotency: Option<IdempotencyLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<BatchLine>,
}

/// What a wallet has after the entry, and its place in the wallet's chain.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LegLine {
    wallet: Uuid,
    balance: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    held: i64,
    ordinal: u64,
    previous: u64,
    #[serde(default, skip_serializing_if = "is_origin")]
    skip: u64,
}

/// The transaction that an entry changes, as it was before.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AmendmentLine {
    created: u64,
    previous: u64,
    ordinal: u32,
    fraud_score_millionths: u32,
    status_before: StatusWord,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdempotencyLine {
    key_hash: Hex<16>,
    body_hash: Hex<16>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchLine {
    first: u64,
    index: u32,
    count: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde asks for"
)]
const fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde asks for"
)]
const fn is_origin(value: &u64) -> bool {
    *value == 0
}

/// A status by its word on the wire.
#[derive(Clone, Copy)]
struct StatusWord(Status);

impl Serialize for StatusWord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for StatusWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Cow::<'de, str>::deserialize(deserializer)?;
        let status = Status::parse(&word);
        status
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("no status"))
    }
}

/// Bytes as lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> std::fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        parse_hex(text.as_bytes())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom(format_args!("no {N} bytes in hexadecimal")))
    }
}

fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

impl<'l> EntryLine<'l> {
    /// The line of `entry`; an error where its currency is not in the table.
    pub(super) fn new(entry: &'l Entry, currencies: &'l Currencies) -> Result<Self, String> {
        let currency = entry.body.currency();
        let row = currencies
            .get(currency)
            .ok_or_else(|| format!("currency {} is not in the table", currency.tag()))?;
        let mut line = Self {
            sequence: entry.first.get(),
            kind: kind_of(&entry.body),
            at: entry.at.to_string().into(),
            transaction_id: entry.body.transaction().map(|id| id.0),
            amount: None,
            currency: Cow::Borrowed(&*row.code),
            wallet: None,
            from: None,
            to: None,
            overdraft_limit: None,
            reason: None,
            expires_at: None,
            amendment: None,
            new_fraud_score_millionths: None,
            user_id: None,
            text: None,
            idempotency: entry.idempotency.map(|keys| IdempotencyLine {
                key_hash: Hex(keys.key_hash),
                body_hash: Hex(keys.body_hash),
            }),
            batch: entry.batch.map(|place| BatchLine {
                first: place.first.get(),
                index: place.index,
                count: place.count,
            }),
        };
        line.put_body(&entry.body);
        Ok(line)
    }

    fn put_body(&mut self, body: &'l Body) {
        if let Some((movement, _)) = body.creation() {
            self.amount = Some(movement.amount.get());
            self.text = movement.metadata.as_deref().map(Cow::Borrowed);
        }
        if let Some(amendment) = body.amendment() {
            self.amount = Some(amendment.amount.get());
            self.text = amendment.details.as_deref().map(Cow::Borrowed);
            self.user_id = amendment.user_id.as_deref().map(Cow::Borrowed);
            self.amendment = Some(AmendmentLine {
                created: amendment.created.get(),
                previous: amendment.previous_amendment.get(),
                ordinal: amendment.ordinal,
                fraud_score_millionths: amendment.fraud_score.millionths(),
                status_before: StatusWord(amendment.status_before),
            });
        }
        match body {
            Body::WalletOpened(opened) => {
                self.wallet = Some(LegLine::new(&opened.leg));
                self.overdraft_limit = Some(opened.overdraft_limit.get());
                return;
            }
            Body::TransferRefused(refused) => self.reason = Some(refused.reason.code().into()),
            Body::HoldPlaced(hold) => self.expires_at = Some(hold.expires_at.to_string().into()),
            Body::HoldVoided(voided) => self.reason = Some(voided.reason.code().into()),
            Body::FraudScored(scored) => {
                self.new_fraud_score_millionths = Some(scored.new_score.millionths());
            }
            Body::Transfer(_)
            | Body::Issuance(_)
            | Body::Redemption(_)
            | Body::HoldCaptured(_)
            | Body::Reversal(_) => {}
        }
        let (from, to) = body.legs();
        self.from = Some(LegLine::new(from));
        self.to = to.map(LegLine::new);
    }

    /// The entry of the line.
    pub(super) fn entry(&self, currencies: &Currencies) -> Result<Entry, &'static str> {
        let currency = currencies
            .by_code(&self.currency)
            .ok_or("its currency is not in the header")?
            .currency;
        Ok(Entry {
            first: Sequence::new(self.sequence),
            at: time(&self.at)?,
            idempotency: self.idempotency.map(|keys| Idempotency {
                key_hash: keys.key_hash.0,
                body_hash: keys.body_hash.0,
            }),
            batch: self.batch.map(|place| BatchPlace {
                first: Sequence::new(place.first),
                index: place.index,
                count: place.count,
            }),
            body: self.body(currency)?,
        })
    }

    fn body(&self, currency: Currency) -> Result<Body, &'static str> {
        let movement = || self.movement(currency);
        let amendment = || self.amended(currency);
        Ok(match self.kind {
            Kind::WalletOpened => Body::WalletOpened(WalletOpened {
                leg: leg(self.wallet)?,
                currency,
                overdraft_limit: MinorUnits::new(self.overdraft_limit.ok_or("no overdraft_limit")?),
            }),
            Kind::Transfer => Body::Transfer(movement()?),
            Kind::Issuance => Body::Issuance(movement()?),
            Kind::Redemption => Body::Redemption(movement()?),
            Kind::TransferRefused => Body::TransferRefused(RefusedMovement {
                movement: movement()?,
                reason: self.reason()?,
            }),
            Kind::HoldPlaced => Body::HoldPlaced(HoldPlaced {
                movement: movement()?,
                expires_at: time(self.expires_at.as_deref().ok_or("no expires_at")?)?,
            }),
            Kind::HoldCaptured => Body::HoldCaptured(amendment()?),
            Kind::HoldVoided => Body::HoldVoided(VoidedHold {
                amendment: amendment()?,
                reason: self.reason()?,
            }),
            Kind::Reversal => Body::Reversal(amendment()?),
            Kind::FraudScored => Body::FraudScored(Scored {
                amendment: amendment()?,
                new_score: score(self.new_fraud_score_millionths.ok_or("no new score")?)?,
            }),
        })
    }

    fn movement(&self, currency: Currency) -> Result<Movement, &'static str> {
        Ok(Movement {
            transaction: self.transaction()?,
            from: leg(self.from)?,
            to: leg(self.to)?,
            currency,
            amount: self.amount()?,
            metadata: self.text.as_deref().map(Into::into),
        })
    }

    fn amended(&self, currency: Currency) -> Result<Amendment, &'static str> {
        let line = self.amendment.ok_or("no amendment")?;
        Ok(Amendment {
            transaction: self.transaction()?,
            created: Sequence::new(line.created),
            previous_amendment: Sequence::new(line.previous),
            ordinal: line.ordinal,
            from: leg(self.from)?,
            to: leg(self.to)?,
            currency,
            amount: self.amount()?,
            fraud_score: score(line.fraud_score_millionths)?,
            status_before: line.status_before.0,
            user_id: self.user_id.as_deref().map(Into::into),
            details: self.text.as_deref().map(Into::into),
        })
    }

    fn transaction(&self) -> Result<TransactionId, &'static str> {
        self.transaction_id
            .map(TransactionId)
            .ok_or("no transaction_id")
    }

    fn amount(&self) -> Result<MinorUnits, &'static str> {
        self.amount.map(MinorUnits::new).ok_or("no amount")
    }

    fn reason(&self) -> Result<FailureReason, &'static str> {
        let word = self.reason.as_deref().ok_or("no reason")?;
        FailureReason::parse(word).ok_or("an unknown reason")
    }
}

impl LegLine {
    const fn new(leg: &Leg) -> Self {
        Self {
            wallet: leg.wallet.uuid(),
            balance: leg.balance_after.get(),
            held: leg.held_after.get(),
            ordinal: leg.link.ordinal,
            previous: leg.link.previous.get(),
            skip: leg.link.skip.get(),
        }
    }
}

fn leg(line: Option<LegLine>) -> Result<Leg, &'static str> {
    let line = line.ok_or("a wallet is missing")?;
    Ok(Leg {
        wallet: WalletId::new(line.wallet).ok_or("the nil wallet")?,
        balance_after: MinorUnits::new(line.balance),
        held_after: MinorUnits::new(line.held),
        link: ChainLink {
            ordinal: line.ordinal,
            previous: Sequence::new(line.previous),
            skip: Sequence::new(line.skip),
        },
    })
}

fn time(text: &str) -> Result<TimestampMs, &'static str> {
    TimestampMs::parse(text).ok_or("no time")
}

fn score(millionths: u32) -> Result<FraudScore, &'static str> {
    FraudScore::from_millionths(millionths).ok_or("a score above 1")
}

const fn kind_of(body: &Body) -> Kind {
    match body {
        Body::WalletOpened(_) => Kind::WalletOpened,
        Body::Transfer(_) => Kind::Transfer,
        Body::Issuance(_) => Kind::Issuance,
        Body::Redemption(_) => Kind::Redemption,
        Body::TransferRefused(_) => Kind::TransferRefused,
        Body::HoldPlaced(_) => Kind::HoldPlaced,
        Body::HoldCaptured(_) => Kind::HoldCaptured,
        Body::HoldVoided(_) => Kind::HoldVoided,
        Body::Reversal(_) => Kind::Reversal,
        Body::FraudScored(_) => Kind::FraudScored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::{any_group, cipher, every_kind};
    use proptest::prelude::*;

    fn there_and_back(entry: &Entry, currencies: &Currencies) -> Entry {
        let line = Line::Entry(Box::new(EntryLine::new(entry, currencies).unwrap()));
        let text = serde_json::to_string(&line).unwrap();
        assert!(!text.contains('\n'), "{text}");
        match serde_json::from_str(&text).unwrap() {
            Line::Entry(line) => line.entry(currencies).unwrap(),
            Line::Page(_) | Line::End(_) => panic!("another line: {text}"),
        }
    }

    #[test]
    fn every_kind_of_entry_comes_back_from_its_line() {
        let currencies = Currencies::default();
        for mut entry in every_kind(&cipher()) {
            set_currency(&mut entry.body, Currency::from_tag(2));
            assert_eq!(there_and_back(&entry, &currencies), entry);
        }
    }

    fn set_currency(body: &mut Body, currency: Currency) {
        let slot = match body {
            Body::WalletOpened(opened) => &mut opened.currency,
            Body::Transfer(m) | Body::Issuance(m) | Body::Redemption(m) => &mut m.currency,
            Body::TransferRefused(refused) => &mut refused.movement.currency,
            Body::HoldPlaced(hold) => &mut hold.movement.currency,
            Body::HoldCaptured(a) | Body::Reversal(a) => &mut a.currency,
            Body::HoldVoided(voided) => &mut voided.amendment.currency,
            Body::FraudScored(scored) => &mut scored.amendment.currency,
        };
        *slot = currency;
    }

    #[test]
    fn a_line_reads_as_the_document_shows_it() {
        let entry = &every_kind(&cipher())[1];
        let currencies = Currencies::default();
        let line = Line::Entry(Box::new(EntryLine::new(entry, &currencies).unwrap()));
        let text = serde_json::to_string(&line).unwrap();
        let start = r#"{"entry":{"sequence":2,"kind":"transfer","at":"2023-11-14T22:13:20.123Z","transaction_id":""#;
        assert!(text.starts_with(start), "{text}");
        for part in [
            r#""amount":250,"currency":"USD-CBDC","from":{"wallet":"00000010-0000-0000-0000-000000000001","balance":1000"#,
            r#""idempotency":{"key_hash":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","body_hash":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    proptest! {
        #[test]
        fn any_entry_comes_back_from_its_line(group in any_group(6), tag in 1_u16..=3) {
            let currencies = Currencies::default();
            for mut entry in group {
                set_currency(&mut entry.body, Currency::from_tag(tag));
                prop_assert_eq!(there_and_back(&entry, &currencies), entry);
            }
        }
    }
}
