//! Which subscriptions an update may concern: by transaction, by wallet, or all.
//!
//! A subscription stands under its most selective dimension only; the others are checked on a match. So an update costs
//! its matching subscriptions, not all that exist.

use super::filter::{Filter, Visible, may_hear};
use super::outbox::Outbox;
use super::update::StatusUpdate;
use crate::types::{TransactionId, WalletId};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry as MapEntry;
use parking_lot::Mutex;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use uuid::Uuid;

/// One subscription of one connection.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Rises with each subscription of the process; what the index sorts by.
    pub(super) ordinal: u64,
    /// What the client calls it.
    pub(super) id: Uuid,
    pub(super) filter: Filter,
    pub(super) visible: Visible,
    pub(super) outbox: Arc<Outbox>,
}

impl Subscription {
    pub(super) fn wants(&self, update: &StatusUpdate) -> bool {
        self.filter.matches(update) && may_hear(&self.visible, update)
    }

    fn keys(&self) -> Keys<'_> {
        match (
            self.filter.transactions(),
            self.filter.wallets(),
            &self.visible,
        ) {
            ([], [], None) => Keys::All,
            ([], [], Some(visible)) => Keys::Wallets(visible.iter().copied().collect()),
            ([], wallets, _) => Keys::Wallets(wallets.to_vec()),
            (transactions, _, _) => Keys::Transactions(transactions),
        }
    }
}

/// Where a subscription stands in the index.
enum Keys<'s> {
    Transactions(&'s [TransactionId]),
    Wallets(Vec<WalletId>),
    All,
}

/// The subscriptions under one key; nearly always one.
#[derive(Debug)]
enum Subscriptions {
    One(Arc<Subscription>),
    Many(Vec<Arc<Subscription>>),
}

impl Subscriptions {
    fn as_slice(&self) -> &[Arc<Subscription>] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

type Shard<K> = Mutex<HashMap<K, Subscriptions, RandomState>>;

#[derive(Debug)]
struct Keyed<K> {
    hasher: RandomState,
    shards: Box<[Shard<K>]>,
    /// Number of keys in all shards, so that without any nobody hashes and takes locks.
    count: AtomicUsize,
}

impl<K: Copy + Eq + Hash> Keyed<K> {
    fn new(shards: usize) -> Self {
        let hasher = RandomState::default();
        let shard = || Mutex::new(HashMap::with_hasher(hasher.clone()));
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            hasher,
            count: AtomicUsize::new(0),
        }
    }

    fn shard(&self, key: &K) -> &Shard<K> {
        // The shards' maps hash by the low and the highest bits; these stand between.
        let hash = (self.hasher.hash_one(key) >> 32) & 0xffff;
        let at = usize::try_from(hash).unwrap_or_default() & (self.shards.len() - 1);
        &self.shards[at]
    }

    fn insert(&self, key: K, subscription: &Arc<Subscription>) {
        let added = Arc::clone(subscription);
        match self.shard(&key).lock().entry(key) {
            MapEntry::Vacant(vacant) => {
                vacant.insert(Subscriptions::One(added));
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            MapEntry::Occupied(mut occupied) => match occupied.get_mut() {
                Subscriptions::One(first) => {
                    let mut many = vec![Arc::clone(first)];
                    insert_in_order(&mut many, added);
                    occupied.insert(Subscriptions::Many(many));
                }
                Subscriptions::Many(many) => insert_in_order(many, added),
            },
        }
    }

    fn remove(&self, key: K, ordinal: u64) {
        if let MapEntry::Occupied(mut occupied) = self.shard(&key).lock().entry(key) {
            let emptied = match occupied.get_mut() {
                Subscriptions::One(one) => one.ordinal == ordinal,
                Subscriptions::Many(many) => {
                    remove_in_order(many, ordinal);
                    many.is_empty()
                }
            };
            if emptied {
                occupied.remove();
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    fn for_each(&self, key: &K, mut found: impl FnMut(&Arc<Subscription>)) {
        let shard = self.shard(key).lock();
        if let Some(subscriptions) = shard.get(key) {
            subscriptions.as_slice().iter().for_each(&mut found);
        }
    }
}

/// Ordinals rise, so this is nearly always a push.
fn insert_in_order(list: &mut Vec<Arc<Subscription>>, added: Arc<Subscription>) {
    let at = list.partition_point(|other| other.ordinal < added.ordinal);
    list.insert(at, added);
}

fn remove_in_order(list: &mut Vec<Arc<Subscription>>, ordinal: u64) {
    if let Ok(at) = list.binary_search_by_key(&ordinal, |other| other.ordinal) {
        list.remove(at);
        if list.len() < list.capacity() / 4 {
            list.shrink_to_fit();
        }
    }
}

/// See the module. Its locks are held while [`Index::for_each_match`] hands out, so what is done there must not block and
/// must not come back here; nobody takes them while holding an outbox's.
#[derive(Debug)]
pub(super) struct Index {
    by_transaction: Keyed<TransactionId>,
    by_wallet: Keyed<WalletId>,
    all: Box<[Mutex<Vec<Arc<Subscription>>>]>,
    /// Number of those in `all`, so that without any nobody takes those locks.
    all_count: AtomicUsize,
}

/// Which dimensions hold anything, as of [`Index::populated`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Populated {
    by_transaction: bool,
    by_wallet: bool,
    all: bool,
}

impl Populated {
    /// Whether nobody subscribes to anything.
    pub(super) const fn is_nobody(self) -> bool {
        !(self.by_transaction || self.by_wallet || self.all)
    }
}

impl Index {
    /// An index of `shards` shards a dimension, rounded up to a power of two.
    pub(super) fn new(shards: usize) -> Self {
        let shards = shards.clamp(1, 1 << 12).next_power_of_two();
        Self {
            by_transaction: Keyed::new(shards),
            by_wallet: Keyed::new(shards),
            all: (0..shards).map(|_| Mutex::new(Vec::new())).collect(),
            all_count: AtomicUsize::new(0),
        }
    }

    pub(super) fn insert(&self, subscription: &Arc<Subscription>) {
        match subscription.keys() {
            Keys::Transactions(ids) => {
                for id in ids {
                    self.by_transaction.insert(*id, subscription);
                }
            }
            Keys::Wallets(ids) => {
                for id in ids {
                    self.by_wallet.insert(id, subscription);
                }
            }
            Keys::All => {
                let mut list = self.all_shard(subscription.ordinal).lock();
                insert_in_order(&mut list, Arc::clone(subscription));
                self.all_count.fetch_add(1, Ordering::Relaxed);
            }
        }
        // IMPORTANT: pairs with the fence in `populated`.
        fence(Ordering::SeqCst);
    }

    /// Takes out what [`Index::insert`] put in. Once for each, and not for what was never inserted.
    pub(super) fn remove(&self, subscription: &Subscription) {
        let ordinal = subscription.ordinal;
        match subscription.keys() {
            Keys::Transactions(ids) => {
                for id in ids {
                    self.by_transaction.remove(*id, ordinal);
                }
            }
            Keys::Wallets(ids) => {
                for id in ids {
                    self.by_wallet.remove(id, ordinal);
                }
            }
            Keys::All => {
                remove_in_order(&mut self.all_shard(ordinal).lock(), ordinal);
                self.all_count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Where to look for those who want to hear of entries that are durable by now. Whoever is inserted too late to be
    /// seen here finds all of them durable when it then reads the durable watermark, and so starts behind them: of the
    /// two fences one comes first, and what came before that one is seen by whoever comes behind the other.
    pub(super) fn populated(&self) -> Populated {
        fence(Ordering::SeqCst);
        let has_any = |count: &AtomicUsize| count.load(Ordering::Relaxed) > 0;
        Populated {
            by_transaction: has_any(&self.by_transaction.count),
            by_wallet: has_any(&self.by_wallet.count),
            all: has_any(&self.all_count),
        }
    }

    /// Gives each subscription that wants `update`, perhaps more than once. Looks only at what is `populated`, which must
    /// have been taken when `update` was durable.
    pub(super) fn for_each_match(
        &self,
        update: &StatusUpdate,
        populated: Populated,
        mut found: impl FnMut(&Arc<Subscription>),
    ) {
        let mut check = |subscription: &Arc<Subscription>| {
            if subscription.wants(update) {
                found(subscription);
            }
        };
        if populated.by_transaction {
            self.by_transaction
                .for_each(&update.transaction, &mut check);
        }
        if populated.by_wallet {
            self.by_wallet.for_each(&update.from, &mut check);
            self.by_wallet.for_each(&update.to, &mut check);
        }
        if populated.all {
            for shard in &self.all {
                shard.lock().iter().for_each(&mut check);
            }
        }
    }

    fn all_shard(&self, ordinal: u64) -> &Mutex<Vec<Arc<Subscription>>> {
        let at = usize::try_from(ordinal & 0xffff).unwrap_or_default() & (self.all.len() - 1);
        &self.all[at]
    }
}
