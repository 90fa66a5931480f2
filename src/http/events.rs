//! `GET /api/v1/events`: the journal's events as Kafka gets them, by sequence.

use super::answer;
use super::error::ErrorKind;
use super::service::{Answer, Ask, Services};
use crate::auth::Caller;
use crate::event::{EventEncoder, write_sequence};
use crate::journal::{Entry, Event, EventDetail, EventKind};
use crate::types::{Sequence, TransactionId, WalletId};
use hyper::StatusCode;
use uuid::Uuid;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// Which events a client asked for; an empty field takes all.
struct Filter<'c> {
    caller: &'c Caller,
    wallet: Option<WalletId>,
    transaction: Option<TransactionId>,
    kind: Option<EventKind>,
}

/// `GET /api/v1/events`.
pub(super) async fn list(ask: &Ask<'_>) -> Answer {
    let Services {
        reader,
        queries,
        ids,
        currencies,
        config,
        ..
    } = ask.services();
    let after = Sequence::new(ask.query.number("after_sequence", 0)?);
    let limit = ask.query.limit(LIMIT_DEFAULT, LIMIT_MAX);
    let filter = Filter::parse(ask)?;

    let mut looked_at = after;
    let mut count = 0_usize;
    let mut encoder = EventEncoder::new(reader.identity(), ids.clone(), currencies.clone());
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(b"{\"events\":[");
    let entries = if after < reader.durable().get() {
        queries
            .entries_after(after, config.events_read_bytes_max)
            .await?
    } else {
        Vec::new()
    };
    let events = entries.iter().flat_map(Entry::events);
    for event in events.filter(|event| event.sequence > after) {
        if count == limit {
            break;
        }
        looked_at = event.sequence;
        if filter.takes(&event) {
            if count > 0 {
                out.push(b',');
            }
            encoder.encode(&event, &mut out);
            count = count.saturating_add(1);
        }
    }
    out.extend_from_slice(b"],\"next_after_sequence\":");
    write_sequence(&mut out, looked_at);
    out.push(b'}');
    Ok(answer::json(StatusCode::OK, out))
}

impl<'c> Filter<'c> {
    fn parse(ask: &Ask<'c>) -> Result<Self, ErrorKind> {
        let wallet = ask.query.wallet()?;
        let transaction = match ask.query.get("transaction_id") {
            None => None,
            Some(text) => {
                let id = Uuid::try_parse(&text).map_err(|_| ErrorKind::TransactionIdFormat)?;
                Some(TransactionId(id))
            }
        };
        let kind = match ask.query.get("type") {
            None => None,
            Some(word) => {
                let expected = "an event type (transaction.created, balance.updated, …)";
                let unknown = ErrorKind::Parameter {
                    name: "type",
                    expected,
                };
                Some(EventKind::parse(&word).ok_or(unknown)?)
            }
        };
        if let Some(wallet) = wallet {
            ask.check_wallet(wallet)?;
        }
        Ok(Self {
            caller: ask.caller,
            wallet,
            transaction,
            kind,
        })
    }

    fn takes(&self, event: &Event<'_>) -> bool {
        self.kind.is_none_or(|kind| event.kind() == kind)
            && self.wallet.is_none_or(|wallet| event.concerns(wallet))
            && self
                .transaction
                .is_none_or(|id| event.transaction() == Some(id))
            && self.is_visible(event)
    }

    /// An event belongs to its own wallets: a balance is never shown to the other side.
    fn is_visible(&self, event: &Event<'_>) -> bool {
        match &event.detail {
            EventDetail::Transaction(detail) => {
                self.caller.may_see(detail.from) || self.caller.may_see(detail.to)
            }
            EventDetail::Balance(detail) => self.caller.may_see(detail.wallet),
            EventDetail::Wallet(detail) => self.caller.may_see(detail.wallet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;
    use crate::journal::entry::{Body, ChainLink, Leg, Movement};
    use crate::types::{Currency, MinorUnits, TimestampMs};
    use std::sync::Arc;

    fn wallet(number: u128) -> WalletId {
        WalletId::new(Uuid::from_u128(number)).unwrap()
    }

    fn transfer() -> Entry {
        let leg = |number| Leg {
            wallet: wallet(number),
            balance_after: MinorUnits::new(5),
            held_after: MinorUnits::ZERO,
            link: ChainLink::default(),
        };
        let movement = Movement {
            transaction: TransactionId(Uuid::from_u128(7)),
            from: leg(1),
            to: leg(2),
            currency: Currency::from_tag(1),
            amount: MinorUnits::new(5),
            metadata: None,
        };
        let (first, at) = (Sequence::new(1), TimestampMs::new(1));
        Entry {
            first,
            at,
            idempotency: None,
            batch: None,
            body: Body::Transfer(movement),
        }
    }

    fn taken(filter: &Filter<'_>) -> Vec<u64> {
        let entry = transfer();
        let taken = entry.events().filter(|event| filter.takes(event));
        taken.map(|event| event.sequence.get()).collect()
    }

    fn all(caller: &Caller) -> Filter<'_> {
        Filter {
            caller,
            wallet: None,
            transaction: None,
            kind: None,
        }
    }

    #[test]
    fn filters_narrow_and_combine() {
        let caller = Caller::unrestricted("dev");
        assert_eq!(taken(&all(&caller)), [1, 2, 3, 4]);
        assert_eq!(
            taken(&Filter {
                wallet: Some(wallet(1)),
                ..all(&caller)
            }),
            [1, 2, 3]
        );
        assert_eq!(
            taken(&Filter {
                wallet: Some(wallet(2)),
                ..all(&caller)
            }),
            [1, 2, 4]
        );
        assert!(
            taken(&Filter {
                wallet: Some(wallet(3)),
                ..all(&caller)
            })
            .is_empty()
        );
        let kind = Some(EventKind::BalanceUpdated);
        assert_eq!(
            taken(&Filter {
                kind,
                ..all(&caller)
            }),
            [3, 4]
        );
        assert_eq!(
            taken(&Filter {
                kind,
                wallet: Some(wallet(2)),
                ..all(&caller)
            }),
            [4]
        );
        let transaction = Some(TransactionId(Uuid::from_u128(7)));
        assert_eq!(
            taken(&Filter {
                transaction,
                ..all(&caller)
            }),
            [1, 2, 3, 4]
        );
        let transaction = Some(TransactionId(Uuid::from_u128(8)));
        assert!(
            taken(&Filter {
                transaction,
                ..all(&caller)
            })
            .is_empty()
        );
    }

    #[test]
    fn a_bound_caller_never_sees_the_other_sides_balance() {
        let bound = |number| Caller {
            name: "till".into(),
            scopes: Arc::new([Scope::Read]),
            wallets: Some(Arc::new([wallet(number)].into_iter().collect())),
        };
        assert_eq!(taken(&all(&bound(1))), [1, 2, 3]);
        assert_eq!(taken(&all(&bound(2))), [1, 2, 4]);
        assert!(taken(&all(&bound(3))).is_empty());
        assert!(taken(&all(&Caller::nobody())).is_empty());
    }
}
