//! Payments as a ledger records them, for who ships events without one: the bench of the pipeline, and `bare_produce`.

use echopay::ids::IdCipher;
use echopay::journal::entry::{ChainLink, Leg, Movement};
use echopay::journal::{Body, Entry};
use echopay::types::{Currency, MinorUnits, Sequence, TimestampMs, WalletId};
use uuid::Uuid;

/// Events of a payment.
pub(crate) const EVENTS_A_PAYMENT: u64 = 4;

/// The payment whose first event is `first`; payers and receivers take turns.
pub(crate) fn payment(first: Sequence, at: TimestampMs, ids: &IdCipher) -> Entry {
    Entry {
        first,
        at,
        idempotency: None,
        batch: None,
        body: Body::Transfer(Movement {
            transaction: ids.transaction_id(first, at),
            from: leg(first.get() % 1_000),
            to: leg(1_000 + first.get() % 777),
            currency: Currency::from_tag(1),
            amount: MinorUnits::new(10_010),
            metadata: None,
        }),
    }
}

#[expect(clippy::expect_used, reason = "only the id of zeros is none")]
fn leg(wallet: u64) -> Leg {
    Leg {
        wallet: WalletId::new(Uuid::from_u128(u128::from(wallet) + 1)).expect("not zero"),
        balance_after: MinorUnits::new(1_234_567),
        held_after: MinorUnits::ZERO,
        link: ChainLink::default(),
    }
}
