//! Entries to bytes and back. The only file that names bincode; knows no store and no clock.
//!
//! The structs here are the format and stand apart from the domain's types, so that no refactoring there can change
//! what is on disk. Tags and flag bits are numbered by hand and frozen (`docs/FORMAT.md`, `tests/golden/v1/`).
//!
//! An entry is `[length u16][tag u8][flags u8][at u64]`, then what the flags announce and the tag's fixed struct.
//! What can be derived is not stored: an entry's first sequence (the page's first plus the events before it) and the
//! id of a transaction that the entry creates (from sequence, time and the store's key).
#![warn(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::wildcard_enum_match_arm
)]

use super::entry::{
    Amendment, BatchPlace, Body, ChainLink, Entry, FailureReason, HoldPlaced, Idempotency, Leg,
    Movement, RefusedMovement, Scored, VoidedHold, WalletOpened,
};
use super::page::{
    self, BODY_BYTES_MAX, HEADER_BYTES, PAGE_BYTES_MAX, Page, PageError, PageHash, PageHeader,
};
use super::{JournalIdentity, TEXT_BYTES_MAX, USER_ID_BYTES_MAX};
use crate::ids::IdCipher;
use crate::types::{
    Currency, FraudScore, MinorUnits, Sequence, Status, TimestampMs, TransactionId, WalletId,
};
use bincode::config::{Configuration, Fixint, LittleEndian};
use bincode::{Decode, Encode};
use std::ops::Range;
use uuid::Uuid;

const BINCODE: Configuration<LittleEndian, Fixint> =
    bincode::config::standard().with_fixed_int_encoding();

/// Frozen numbers of the kinds.
mod tag {
    pub(super) const WALLET_OPENED: u8 = 1;
    pub(super) const TRANSFER: u8 = 2;
    pub(super) const ISSUANCE: u8 = 3;
    pub(super) const REDEMPTION: u8 = 4;
    pub(super) const TRANSFER_REFUSED: u8 = 5;
    pub(super) const HOLD_PLACED: u8 = 6;
    pub(super) const HOLD_CAPTURED: u8 = 7;
    pub(super) const HOLD_VOIDED: u8 = 8;
    pub(super) const REVERSAL: u8 = 9;
    pub(super) const FRAUD_SCORED: u8 = 10;
}

/// Frozen bits of the parts that only some entries have, in the order in which they stand.
mod flag {
    pub(super) const IDEMPOTENCY: u8 = 1 << 0;
    pub(super) const BATCH: u8 = 1 << 1;
    pub(super) const FROM_HELD: u8 = 1 << 2;
    pub(super) const FROM_SKIP: u8 = 1 << 3;
    pub(super) const TO_HELD: u8 = 1 << 4;
    pub(super) const TO_SKIP: u8 = 1 << 5;
    /// Metadata of a movement, details of an amendment.
    pub(super) const TEXT: u8 = 1 << 6;
    pub(super) const USER_ID: u8 = 1 << 7;
}

/// Events that a tag emits; frozen with it. `None` for a tag that this version does not know.
const fn event_count(tag: u8) -> Option<u64> {
    match tag {
        tag::WALLET_OPENED | tag::HOLD_PLACED | tag::HOLD_VOIDED | tag::FRAUD_SCORED => Some(1),
        tag::TRANSFER_REFUSED => Some(2),
        tag::ISSUANCE | tag::REDEMPTION | tag::HOLD_CAPTURED | tag::REVERSAL => Some(3),
        tag::TRANSFER => Some(4),
        _ => None,
    }
}

#[derive(Encode, Decode)]
struct DiskHead {
    /// Bytes behind this field.
    length: u16,
    tag: u8,
    flags: u8,
    at: u64,
}

#[derive(Encode, Decode)]
struct DiskIdempotency {
    key_hash: [u8; 16],
    body_hash: [u8; 16],
}

#[derive(Encode, Decode)]
struct DiskBatch {
    first: u64,
    index: u32,
    count: u32,
}

#[derive(Encode, Decode)]
struct DiskLeg {
    wallet: [u8; 16],
    balance_after: i64,
    ordinal: u64,
    previous: u64,
}

#[derive(Encode, Decode)]
struct DiskOpened {
    leg: DiskLeg,
    currency: u16,
    overdraft_limit: i64,
}

#[derive(Encode, Decode)]
struct DiskMovement {
    from: DiskLeg,
    to: DiskLeg,
    currency: u16,
    amount: i64,
}

#[derive(Encode, Decode)]
struct DiskRefused {
    movement: DiskMovement,
    reason: u8,
}

#[derive(Encode, Decode)]
struct DiskHold {
    movement: DiskMovement,
    expires_at: u64,
}

#[derive(Encode, Decode)]
struct DiskAmendment {
    transaction: [u8; 16],
    created: u64,
    previous_amendment: u64,
    ordinal: u32,
    from: DiskLeg,
    to: DiskLeg,
    currency: u16,
    amount: i64,
    fraud_score: u32,
    status_before: u8,
}

#[derive(Encode, Decode)]
struct DiskVoided {
    amendment: DiskAmendment,
    reason: u8,
}

#[derive(Encode, Decode)]
struct DiskScored {
    amendment: DiskAmendment,
    new_score: u32,
}

const DISK_HEAD_BYTES: usize = 2 + 1 + 1 + 8;
const DISK_LEG_BYTES: usize = 16 + 8 + 8 + 8;
const DISK_AMENDMENT_BYTES: usize = 16 + 8 + 8 + 4 + 2 * DISK_LEG_BYTES + 2 + 8 + 4 + 1;
/// The longest entry: a scored transaction with everything that may be absent.
const ENTRY_BYTES_MAX: usize = DISK_HEAD_BYTES
    + 32 + 16 // idempotency, place in a batch
    + DISK_AMENDMENT_BYTES + 4 // new score
    + 4 * 8 // held and skip of both legs
    + 2 + TEXT_BYTES_MAX
    + 2 + USER_ID_BYTES_MAX;

const _: () = assert!(
    ENTRY_BYTES_MAX <= BODY_BYTES_MAX,
    "every entry must fit into a page of its own"
);

/// Why entries cannot be written. Each is a fault of the caller; nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("a group without entries")]
    Empty,
    #[error("entry {found} where {expected} is due")]
    Gap { expected: Sequence, found: Sequence },
    #[error("entry {at}: {what}")]
    Entry { at: Sequence, what: &'static str },
}

/// Why bytes are no entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("entry at sequence {at}: {what}")]
    Entry { at: Sequence, what: &'static str },
}

/// Turns groups into pages, in buffers that are used again and again.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
    pages: Vec<PageSpan>,
}

/// Where a page lies in the encoder's buffer.
#[derive(Clone, Debug)]
struct PageSpan {
    first: Sequence,
    last: Sequence,
    entries: u16,
    span: Range<usize>,
}

/// What an [`Encoder`] keeps at most of its buffer between two groups.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

impl Encoder {
    /// Encodes `group`, whose first entry must start at `expected` and which must be gapless, as the pages behind
    /// `previous_hash`. Gives the hash of the last page.
    pub(crate) fn encode(
        &mut self,
        identity: JournalIdentity,
        cipher: &IdCipher,
        group: &[Entry],
        expected: Sequence,
        previous_hash: PageHash,
    ) -> Result<PageHash, EncodeError> {
        self.pages.clear();
        self.bytes.clear();
        self.bytes.shrink_to(BUFFER_BYTES_KEPT);
        let mut due = expected;
        for entry in group {
            if entry.first != due {
                return Err(EncodeError::Gap {
                    expected: due,
                    found: entry.first,
                });
            }
            due = entry.last().next();
            self.push(cipher, entry)?;
        }
        self.seal(identity, expected, previous_hash)
    }

    /// The pages of the last group: first sequence and bytes.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (Sequence, &[u8])> {
        self.pages.iter().map(|page| {
            let bytes = self.bytes.get(page.span.clone()).unwrap_or_default();
            (page.first, bytes)
        })
    }

    /// Number of pages of the last group.
    pub(crate) fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// Bytes of all pages of the last group.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn push(&mut self, cipher: &IdCipher, entry: &Entry) -> Result<(), EncodeError> {
        let (first, last) = (entry.first, entry.last());
        let wrong = |what| EncodeError::Entry { at: first, what };
        if last > Sequence::MAX {
            return Err(wrong("sequence above 62 bits"));
        }
        if self.pages.is_empty() {
            self.open_page(first, 0);
        }
        let entry_at = self.bytes.len();
        write_entry(&mut self.bytes, cipher, entry).map_err(wrong)?;
        let page_at = self.pages.last().map_or(0, |page| page.span.start);
        if self.bytes.len().saturating_sub(page_at) > PAGE_BYTES_MAX {
            // The entry begins the next page: make room for that one's header in front of it.
            let entry_end = self.bytes.len();
            self.bytes.resize(entry_end.saturating_add(HEADER_BYTES), 0);
            self.bytes
                .copy_within(entry_at..entry_end, entry_at.saturating_add(HEADER_BYTES));
            self.pages.push(PageSpan {
                first,
                last,
                entries: 0,
                span: entry_at..entry_at,
            });
        }
        let end = self.bytes.len();
        let page = self.pages.last_mut().ok_or(wrong("no page"))?;
        page.span.end = end;
        page.last = last;
        page.entries = page.entries.saturating_add(1);
        Ok(())
    }

    fn open_page(&mut self, first: Sequence, at: usize) {
        self.bytes.resize(at.saturating_add(HEADER_BYTES), 0);
        self.pages.push(PageSpan {
            first,
            last: first,
            entries: 0,
            span: at..self.bytes.len(),
        });
    }

    fn seal(
        &mut self,
        identity: JournalIdentity,
        group: Sequence,
        mut previous_hash: PageHash,
    ) -> Result<PageHash, EncodeError> {
        let wrong = |at, what| EncodeError::Entry { at, what };
        if self.pages.is_empty() {
            return Err(EncodeError::Empty);
        }
        let count = u32::try_from(self.pages.len())
            .map_err(|_| wrong(group, "a group of more than 2^32 pages"))?;
        for (index, page) in (0..count).zip(&self.pages) {
            let header = PageHeader {
                identity,
                group,
                index,
                count,
                entries: page.entries,
                first: page.first,
                last: page.last,
                previous_hash,
            };
            let bytes = self.bytes.get_mut(page.span.clone()).unwrap_or_default();
            if !header.seal(bytes) {
                return Err(wrong(page.first, "a page above its bound"));
            }
            previous_hash = page::hash(bytes);
        }
        Ok(previous_hash)
    }
}

/// The page of `entries` under a header that is known, as it was written once. Gapless from the header's `first` to its
/// `last`.
pub(crate) fn encode_page(
    header: &PageHeader,
    cipher: &IdCipher,
    entries: &[Entry],
) -> Result<Vec<u8>, EncodeError> {
    let mut page = vec![0; HEADER_BYTES];
    let mut due = header.first;
    for entry in entries {
        if entry.first != due {
            return Err(EncodeError::Gap {
                expected: due,
                found: entry.first,
            });
        }
        due = entry.last().next();
        write_entry(&mut page, cipher, entry).map_err(|what| EncodeError::Entry {
            at: entry.first,
            what,
        })?;
    }
    let wrong = |what| EncodeError::Entry {
        at: header.first,
        what,
    };
    if due != header.last.next() || usize::from(header.entries) != entries.len() {
        return Err(wrong(
            "the page's last sequence or number of entries differs",
        ));
    }
    if header.seal(&mut page) {
        Ok(page)
    } else {
        Err(wrong("a page above its bound"))
    }
}

fn write_entry(out: &mut Vec<u8>, cipher: &IdCipher, entry: &Entry) -> Result<(), &'static str> {
    let entry_at = out.len();
    let (from, to) = entry.body.legs();
    let (text, user_id) = texts(&entry.body);
    if text.is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
        return Err("metadata or details above their bound");
    }
    if user_id.is_some_and(|user_id| user_id.len() > USER_ID_BYTES_MAX) {
        return Err("user id above its bound");
    }
    if let Some((movement, _)) = entry.body.creation() {
        // Derived at decoding, so a wrong one would come back as another.
        if movement.transaction != cipher.transaction_id(entry.first, entry.at) {
            return Err("transaction id is not that of sequence and time");
        }
    }
    let flags = when(entry.idempotency.is_some(), flag::IDEMPOTENCY)
        | when(entry.batch.is_some(), flag::BATCH)
        | when(from.held_after != MinorUnits::ZERO, flag::FROM_HELD)
        | when(!from.link.skip.is_origin(), flag::FROM_SKIP)
        | when(
            to.is_some_and(|to| to.held_after != MinorUnits::ZERO),
            flag::TO_HELD,
        )
        | when(
            to.is_some_and(|to| !to.link.skip.is_origin()),
            flag::TO_SKIP,
        )
        | when(text.is_some(), flag::TEXT)
        | when(user_id.is_some(), flag::USER_ID);
    put(
        out,
        &DiskHead {
            length: 0,
            tag: tag_of(&entry.body),
            flags,
            at: entry.at.get(),
        },
    )?;
    if let Some(Idempotency {
        key_hash,
        body_hash,
    }) = entry.idempotency
    {
        put(
            out,
            &DiskIdempotency {
                key_hash,
                body_hash,
            },
        )?;
    }
    if let Some(BatchPlace {
        first,
        index,
        count,
    }) = entry.batch
    {
        put(
            out,
            &DiskBatch {
                first: first.get(),
                index,
                count,
            },
        )?;
    }
    put_body(out, &entry.body)?;
    for leg in [Some(from), to].into_iter().flatten() {
        if leg.held_after != MinorUnits::ZERO {
            put(out, &leg.held_after.get())?;
        }
        if !leg.link.skip.is_origin() {
            put(out, &leg.link.skip.get())?;
        }
    }
    for text in [text, user_id].into_iter().flatten() {
        put(
            out,
            &u16::try_from(text.len()).map_err(|_| "text above 64 KiB")?,
        )?;
        out.extend_from_slice(text.as_bytes());
    }
    let length = u16::try_from(out.len().saturating_sub(entry_at).saturating_sub(2))
        .map_err(|_| "entry above 64 KiB")?;
    out.get_mut(entry_at..entry_at.saturating_add(2))
        .ok_or("entry without a length")?
        .copy_from_slice(&length.to_le_bytes());
    Ok(())
}

const fn when(condition: bool, bit: u8) -> u8 {
    if condition { bit } else { 0 }
}

fn put<T: Encode>(out: &mut Vec<u8>, value: &T) -> Result<(), &'static str> {
    bincode::encode_into_std_write(value, out, BINCODE)
        .map(drop)
        .map_err(|_| "not encodable")
}

fn put_body(out: &mut Vec<u8>, body: &Body) -> Result<(), &'static str> {
    match body {
        Body::WalletOpened(opened) => put(
            out,
            &DiskOpened {
                leg: disk_leg(&opened.leg),
                currency: opened.currency.tag(),
                overdraft_limit: opened.overdraft_limit.get(),
            },
        ),
        Body::Transfer(m) | Body::Issuance(m) | Body::Redemption(m) => put(out, &disk_movement(m)),
        Body::TransferRefused(refused) => put(
            out,
            &DiskRefused {
                movement: disk_movement(&refused.movement),
                reason: reason_number(refused.reason),
            },
        ),
        Body::HoldPlaced(hold) => put(
            out,
            &DiskHold {
                movement: disk_movement(&hold.movement),
                expires_at: hold.expires_at.get(),
            },
        ),
        Body::HoldCaptured(a) | Body::Reversal(a) => put(out, &disk_amendment(a)),
        Body::HoldVoided(voided) => put(
            out,
            &DiskVoided {
                amendment: disk_amendment(&voided.amendment),
                reason: reason_number(voided.reason),
            },
        ),
        Body::FraudScored(scored) => put(
            out,
            &DiskScored {
                amendment: disk_amendment(&scored.amendment),
                new_score: scored.new_score.millionths(),
            },
        ),
    }
}

const fn tag_of(body: &Body) -> u8 {
    match body {
        Body::WalletOpened(_) => tag::WALLET_OPENED,
        Body::Transfer(_) => tag::TRANSFER,
        Body::Issuance(_) => tag::ISSUANCE,
        Body::Redemption(_) => tag::REDEMPTION,
        Body::TransferRefused(_) => tag::TRANSFER_REFUSED,
        Body::HoldPlaced(_) => tag::HOLD_PLACED,
        Body::HoldCaptured(_) => tag::HOLD_CAPTURED,
        Body::HoldVoided(_) => tag::HOLD_VOIDED,
        Body::Reversal(_) => tag::REVERSAL,
        Body::FraudScored(_) => tag::FRAUD_SCORED,
    }
}

/// Metadata or details, and user id.
fn texts(body: &Body) -> (Option<&str>, Option<&str>) {
    match (body.creation(), body.amendment()) {
        (Some((movement, _)), _) => (movement.metadata.as_deref(), None),
        (None, Some(amendment)) => (amendment.details.as_deref(), amendment.user_id.as_deref()),
        (None, None) => (None, None),
    }
}

const fn disk_leg(leg: &Leg) -> DiskLeg {
    DiskLeg {
        wallet: *leg.wallet.uuid().as_bytes(),
        balance_after: leg.balance_after.get(),
        ordinal: leg.link.ordinal,
        previous: leg.link.previous.get(),
    }
}

const fn disk_movement(movement: &Movement) -> DiskMovement {
    DiskMovement {
        from: disk_leg(&movement.from),
        to: disk_leg(&movement.to),
        currency: movement.currency.tag(),
        amount: movement.amount.get(),
    }
}

const fn disk_amendment(amendment: &Amendment) -> DiskAmendment {
    DiskAmendment {
        transaction: *amendment.transaction.0.as_bytes(),
        created: amendment.created.get(),
        previous_amendment: amendment.previous_amendment.get(),
        ordinal: amendment.ordinal,
        from: disk_leg(&amendment.from),
        to: disk_leg(&amendment.to),
        currency: amendment.currency.tag(),
        amount: amendment.amount.get(),
        fraud_score: amendment.fraud_score.millionths(),
        status_before: status_number(amendment.status_before),
    }
}

const fn status_number(status: Status) -> u8 {
    match status {
        Status::Pending => 1,
        Status::Completed => 2,
        Status::Failed => 3,
        Status::Reversed => 4,
    }
}

const fn status_of(number: u8) -> Option<Status> {
    match number {
        1 => Some(Status::Pending),
        2 => Some(Status::Completed),
        3 => Some(Status::Failed),
        4 => Some(Status::Reversed),
        _ => None,
    }
}

const fn reason_number(reason: FailureReason) -> u8 {
    match reason {
        FailureReason::InsufficientFunds => 1,
        FailureReason::WalletFrozen => 2,
        FailureReason::BalanceOverflow => 3,
        FailureReason::Voided => 4,
        FailureReason::Expired => 5,
    }
}

const fn reason_of(number: u8) -> Option<FailureReason> {
    match number {
        1 => Some(FailureReason::InsufficientFunds),
        2 => Some(FailureReason::WalletFrozen),
        3 => Some(FailureReason::BalanceOverflow),
        4 => Some(FailureReason::Voided),
        5 => Some(FailureReason::Expired),
        _ => None,
    }
}

/// The entries of one page, in order. Ends after the first error.
#[derive(Debug)]
pub(crate) struct Entries<'p> {
    rest: &'p [u8],
    cipher: &'p IdCipher,
    next: Sequence,
    last: Sequence,
    left: u16,
}

impl<'p> Entries<'p> {
    /// The entries of `page`, whose created transactions get their ids from `cipher`.
    pub(crate) const fn of(page: &Page<'p>, cipher: &'p IdCipher) -> Self {
        Self {
            rest: page.body,
            cipher,
            next: page.header.first,
            last: page.header.last,
            left: page.header.entries,
        }
    }

    /// Passes over the entries that end before `sequence`, without decoding them.
    pub(crate) fn skip_to(&mut self, sequence: Sequence) {
        while let Some((length, tag)) = self.peek() {
            let end = self
                .next
                .plus(event_count(tag).unwrap_or(u64::MAX).saturating_sub(1));
            let Some(rest) = self.rest.get(length..).filter(|_| end < sequence) else {
                return;
            };
            (self.rest, self.next, self.left) = (rest, end.next(), self.left.saturating_sub(1));
        }
    }

    /// Whole length and tag of the entry that is next.
    fn peek(&self) -> Option<(usize, u8)> {
        if self.left == 0 {
            return None;
        }
        let [low, high, tag] = *self.rest.first_chunk::<3>()?;
        Some((
            usize::from(u16::from_le_bytes([low, high])).saturating_add(2),
            tag,
        ))
    }

    fn step(&mut self) -> Result<Option<Entry>, &'static str> {
        if self.left == 0 {
            let whole = self.rest.is_empty() && self.next == self.last.next();
            return if whole {
                Ok(None)
            } else {
                Err("page ends elsewhere than its header says")
            };
        }
        let (length, _) = self.peek().ok_or("cut short")?;
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or("longer than its page")?;
        let entry = read_entry(bytes, self.next, self.cipher)?;
        (self.rest, self.next, self.left) =
            (rest, entry.last().next(), self.left.saturating_sub(1));
        if entry.last() > self.last {
            return Err("beyond its page's last sequence");
        }
        Ok(Some(entry))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Ok(entry) => entry.map(Ok),
            Err(what) => {
                let at = self.next;
                // Nothing follows an error: an empty rest and `next` behind the last end the iteration.
                (self.left, self.rest, self.next) = (0, &[], self.last.next());
                Some(Err(DecodeError::Entry { at, what }))
            }
        }
    }
}

struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn take<T: Decode<()>>(&mut self) -> Result<T, &'static str> {
        let (value, used) = bincode::decode_from_slice(self.0, BINCODE).map_err(|_| "cut short")?;
        self.0 = self.0.get(used..).ok_or("cut short")?;
        Ok(value)
    }

    fn text(&mut self) -> Result<&'b str, &'static str> {
        let length: u16 = self.take()?;
        let (text, rest) = self
            .0
            .split_at_checked(usize::from(length))
            .ok_or("text cut short")?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| "text is not UTF-8")
    }
}

fn read_entry(bytes: &[u8], first: Sequence, cipher: &IdCipher) -> Result<Entry, &'static str> {
    let mut input = Input(bytes);
    let head: DiskHead = input.take()?;
    let has = |bit| head.flags & bit != 0;
    if event_count(head.tag).is_none() {
        return Err("of a kind that this version does not know");
    }
    let at = time(head.at)?;
    let idempotency = if has(flag::IDEMPOTENCY) {
        let DiskIdempotency {
            key_hash,
            body_hash,
        } = input.take()?;
        Some(Idempotency {
            key_hash,
            body_hash,
        })
    } else {
        None
    };
    let batch = if has(flag::BATCH) {
        let DiskBatch {
            first,
            index,
            count,
        } = input.take()?;
        Some(BatchPlace {
            first: Sequence::new(first),
            index,
            count,
        })
    } else {
        None
    };
    let mut body = read_body(&mut input, head.tag, cipher.transaction_id(first, at))?;
    let (from, to) = legs_mut(&mut body);
    read_leg_rest(
        &mut input,
        Some(from),
        has(flag::FROM_HELD),
        has(flag::FROM_SKIP),
    )?;
    read_leg_rest(&mut input, to, has(flag::TO_HELD), has(flag::TO_SKIP))?;
    let text = if has(flag::TEXT) {
        Some(input.text()?.into())
    } else {
        None
    };
    let user_id = if has(flag::USER_ID) {
        Some(input.text()?.into())
    } else {
        None
    };
    set_texts(&mut body, text, user_id)?;
    if !input.0.is_empty() {
        return Err("longer than its parts");
    }
    Ok(Entry {
        first,
        at,
        idempotency,
        batch,
        body,
    })
}

fn read_body(
    input: &mut Input<'_>,
    tag: u8,
    transaction: TransactionId,
) -> Result<Body, &'static str> {
    Ok(match tag {
        tag::WALLET_OPENED => {
            let disk: DiskOpened = input.take()?;
            Body::WalletOpened(WalletOpened {
                leg: leg(&disk.leg)?,
                currency: Currency::from_tag(disk.currency),
                overdraft_limit: MinorUnits::new(disk.overdraft_limit),
            })
        }
        tag::TRANSFER => Body::Transfer(movement(&input.take()?, transaction)?),
        tag::ISSUANCE => Body::Issuance(movement(&input.take()?, transaction)?),
        tag::REDEMPTION => Body::Redemption(movement(&input.take()?, transaction)?),
        tag::TRANSFER_REFUSED => {
            let disk: DiskRefused = input.take()?;
            Body::TransferRefused(RefusedMovement {
                movement: movement(&disk.movement, transaction)?,
                reason: reason_of(disk.reason).ok_or("unknown reason")?,
            })
        }
        tag::HOLD_PLACED => {
            let disk: DiskHold = input.take()?;
            Body::HoldPlaced(HoldPlaced {
                movement: movement(&disk.movement, transaction)?,
                expires_at: time(disk.expires_at)?,
            })
        }
        tag::HOLD_CAPTURED => Body::HoldCaptured(amendment(&input.take()?)?),
        tag::HOLD_VOIDED => {
            let disk: DiskVoided = input.take()?;
            Body::HoldVoided(VoidedHold {
                amendment: amendment(&disk.amendment)?,
                reason: reason_of(disk.reason).ok_or("unknown reason")?,
            })
        }
        tag::REVERSAL => Body::Reversal(amendment(&input.take()?)?),
        tag::FRAUD_SCORED => {
            let disk: DiskScored = input.take()?;
            Body::FraudScored(Scored {
                amendment: amendment(&disk.amendment)?,
                new_score: score(disk.new_score)?,
            })
        }
        _ => return Err("of a kind that this version does not know"),
    })
}

fn read_leg_rest(
    input: &mut Input<'_>,
    leg: Option<&mut Leg>,
    held: bool,
    skip: bool,
) -> Result<(), &'static str> {
    let Some(leg) = leg else {
        return if held || skip {
            Err("flags of a leg that it has not")
        } else {
            Ok(())
        };
    };
    if held {
        leg.held_after = MinorUnits::new(input.take()?);
    }
    if skip {
        leg.link.skip = Sequence::new(input.take()?);
    }
    Ok(())
}

fn legs_mut(body: &mut Body) -> (&mut Leg, Option<&mut Leg>) {
    match body {
        Body::WalletOpened(opened) => (&mut opened.leg, None),
        Body::Transfer(m) | Body::Issuance(m) | Body::Redemption(m) => {
            (&mut m.from, Some(&mut m.to))
        }
        Body::TransferRefused(refused) => {
            (&mut refused.movement.from, Some(&mut refused.movement.to))
        }
        Body::HoldPlaced(hold) => (&mut hold.movement.from, Some(&mut hold.movement.to)),
        Body::HoldCaptured(a) | Body::Reversal(a) => (&mut a.from, Some(&mut a.to)),
        Body::HoldVoided(voided) => (&mut voided.amendment.from, Some(&mut voided.amendment.to)),
        Body::FraudScored(scored) => (&mut scored.amendment.from, Some(&mut scored.amendment.to)),
    }
}

fn set_texts(
    body: &mut Body,
    text: Option<Box<str>>,
    user_id: Option<Box<str>>,
) -> Result<(), &'static str> {
    let (text_slot, user_id_slot) = match body {
        Body::WalletOpened(_) => (None, None),
        Body::Transfer(m) | Body::Issuance(m) | Body::Redemption(m) => {
            (Some(&mut m.metadata), None)
        }
        Body::TransferRefused(refused) => (Some(&mut refused.movement.metadata), None),
        Body::HoldPlaced(hold) => (Some(&mut hold.movement.metadata), None),
        Body::HoldCaptured(a) | Body::Reversal(a) => (Some(&mut a.details), Some(&mut a.user_id)),
        Body::HoldVoided(VoidedHold { amendment: a, .. })
        | Body::FraudScored(Scored { amendment: a, .. }) => {
            (Some(&mut a.details), Some(&mut a.user_id))
        }
    };
    for (slot, value) in [(text_slot, text), (user_id_slot, user_id)] {
        match (slot, value) {
            (Some(slot), value) => *slot = value,
            (None, None) => {}
            (None, Some(_)) => return Err("a text that its kind has not"),
        }
    }
    Ok(())
}

fn leg(disk: &DiskLeg) -> Result<Leg, &'static str> {
    Ok(Leg {
        wallet: WalletId::new(Uuid::from_bytes(disk.wallet)).ok_or("the nil wallet")?,
        balance_after: MinorUnits::new(disk.balance_after),
        held_after: MinorUnits::ZERO,
        link: ChainLink {
            ordinal: disk.ordinal,
            previous: Sequence::new(disk.previous),
            skip: Sequence::ORIGIN,
        },
    })
}

fn movement(disk: &DiskMovement, transaction: TransactionId) -> Result<Movement, &'static str> {
    Ok(Movement {
        transaction,
        from: leg(&disk.from)?,
        to: leg(&disk.to)?,
        currency: Currency::from_tag(disk.currency),
        amount: MinorUnits::new(disk.amount),
        metadata: None,
    })
}

fn amendment(disk: &DiskAmendment) -> Result<Amendment, &'static str> {
    Ok(Amendment {
        transaction: TransactionId(Uuid::from_bytes(disk.transaction)),
        created: Sequence::new(disk.created),
        previous_amendment: Sequence::new(disk.previous_amendment),
        ordinal: disk.ordinal,
        from: leg(&disk.from)?,
        to: leg(&disk.to)?,
        currency: Currency::from_tag(disk.currency),
        amount: MinorUnits::new(disk.amount),
        fraud_score: score(disk.fraud_score)?,
        status_before: status_of(disk.status_before).ok_or("unknown status")?,
        user_id: None,
        details: None,
    })
}

fn time(millis: u64) -> Result<TimestampMs, &'static str> {
    let at = TimestampMs::new(millis);
    if at.get() == millis {
        Ok(at)
    } else {
        Err("time out of range")
    }
}

fn score(millionths: u32) -> Result<FraudScore, &'static str> {
    FraudScore::from_millionths(millionths).ok_or("score out of range")
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
