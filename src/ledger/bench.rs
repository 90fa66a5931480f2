//! The rules and the books as the benches drive them, without thread or disk: no part of the API.

use super::books::Books;
use super::state::{Rules, State};
use super::{Command, Config, MovementRequest};
use crate::ids::IdCipher;
use crate::journal::Entry;
use crate::types::{Currency, MinorUnits, Sequence, TimestampMs, WalletId};
use std::sync::Arc;
use uuid::Uuid;

const CURRENCY: Currency = Currency::from_tag(1);
const METADATA: &str = "{\"note\":\"nineteen characters!\",\"n\":1}";
const OPENED_A_GROUP: u64 = 512;

/// The ledger thread's work on a group, less the journal: decide, apply, merge.
#[derive(Debug)]
pub struct Rulebook {
    state: State,
    wallets: u64,
    now: TimestampMs,
    /// Of a small generator: which wallets the next transfer names.
    draw: u64,
}

impl Rulebook {
    /// Books in which `wallets` wallets, two at least, have money. The groups of entries that brought them there go to
    /// `opened`, in order. Their transactions have ids under `id_key`: the journal's, if they are to go into one.
    pub fn new(
        id_key: &[u8; 16],
        wallets: u64,
        now: TimestampMs,
        mut opened: impl FnMut(Vec<Entry>),
    ) -> Self {
        let defaults = Config::default();
        let rules = Rules {
            open_holds_max: defaults.open_holds_max,
            audit_entries_max: defaults.audit_entries_max,
            opening_balances: Some(vec![(CURRENCY, MinorUnits::new(1 << 40))]),
        };
        let ids = IdCipher::new(id_key);
        let books = Arc::new(Books::new());
        let mut rulebook = Self {
            state: State::new(books, ids, rules, Sequence::ORIGIN),
            wallets: wallets.max(2),
            now,
            draw: 1,
        };
        // Why by transfers: that is how `echopay dev` opens wallets, so no further door is needed.
        let mut number = 0;
        while number < rulebook.wallets {
            let end = rulebook.wallets.min(number + OPENED_A_GROUP);
            let openings = (number..end).filter_map(|to| transfer((to + 1) % rulebook.wallets, to));
            let entries = rulebook.decide(openings.collect());
            opened(entries);
            rulebook.merge();
            number = end;
        }
        rulebook
    }

    /// Commands between wallets drawn at random, always the same ones in the same order.
    pub fn commands(&mut self, count: usize) -> Vec<Command> {
        let mut pick = || {
            // SplitMix64 (Steele, Lea, Flood 2014), cheap and good enough to spread over the shards.
            self.draw = self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.draw;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % self.wallets
        };
        std::iter::repeat_with(|| {
            let (from, to) = (pick(), pick());
            let other = if from == to {
                (to + 1) % self.wallets
            } else {
                to
            };
            transfer(from, other)
        })
        .take(count)
        .flatten()
        .collect()
    }

    /// Decides and applies a group; the entries it leads to.
    pub fn decide(&mut self, commands: Vec<Command>) -> Vec<Entry> {
        let mut entries = Vec::new();
        for command in commands {
            // Why ignored: what was recorded stands in the entries, and the caller counts them.
            let _ = self.state.execute(command, self.now, &mut entries);
        }
        entries
    }

    /// The group is durable: into the books.
    pub fn merge(&mut self) {
        self.state.merge();
    }
}

fn transfer(from: u64, to: u64) -> Option<Command> {
    // Why spread: real ids are random, and shards and maps should see what they see in life.
    let wallet = |number: u64| WalletId::new(Uuid::from_u128(u128::from(number + 1) << 64 | 1));
    Some(Command::Transfer(MovementRequest {
        from: wallet(from)?,
        to: wallet(to)?,
        currency: CURRENCY,
        amount: MinorUnits::new(1),
        metadata: Some(METADATA.into()),
        hold: None,
    }))
}
