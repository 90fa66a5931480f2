//! What an answer says. The usual one is judged by a look at a few bytes; whatever else is read in full.

use super::requests::{ID_CHARS, IdText};
use memchr::memmem::{self, Finder};
use serde::Deserialize;

const ID_BEFORE: &[u8] = b"\"transaction_id\":\"";
const SEQUENCE_BEFORE: &[u8] = b"\"sequence\":";
/// How much of an answer that nobody expected is told.
const TOLD_CHARS_MAX: usize = 200;

/// What became of a request.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Verdict {
    /// Everything was done.
    Done(Done),
    /// Of a batch some transfers were refused.
    Partly {
        done: Done,
        refused: Vec<RefusedItem>,
    },
    /// Nothing was done.
    Refused {
        /// Status and code, as it is counted.
        word: String,
        /// Whether it stands in the journal as a failed transaction.
        is_recorded: bool,
        /// Whether the service asks to come back later.
        is_busy: bool,
    },
    /// It may have been done or not.
    Unknown(String),
    /// The answer contradicts the contract.
    Wrong(String),
}

/// What an answer to a write tells of what was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Done {
    /// The first transaction's.
    pub(super) first_id: IdText,
    /// The highest; 0 where none is told.
    pub(super) last_sequence: u64,
}

/// Of an answer that names no transaction.
const NOTHING: Done = Done {
    first_id: [0; ID_CHARS],
    last_sequence: 0,
};

impl Done {
    /// Whether there is a transaction to look up.
    pub(super) fn is_named(&self) -> bool {
        *self != NOTHING
    }
}

/// A transfer of a batch that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RefusedItem {
    pub(super) index: usize,
    pub(super) word: String,
    pub(super) is_recorded: bool,
}

/// Judges answers; searchers for words are made once.
#[derive(Debug)]
pub(super) struct Judge {
    id: Finder<'static>,
    error: Finder<'static>,
    batch: usize,
    names_each: bool,
}

impl Judge {
    /// `batch`: transfers of a write. `names_each`: the answer to a batch has to name each transaction; where nothing is
    /// audited, one without an error will do.
    pub(super) fn new(batch: u32, names_each: bool) -> Self {
        Self {
            id: Finder::new(ID_BEFORE),
            error: Finder::new(b"\"error\":"),
            batch: batch as usize,
            names_each,
        }
    }

    /// An answer to a write.
    pub(super) fn write(&self, status: u16, body: &[u8]) -> Verdict {
        match (status, self.batch) {
            (201, 1) => match done(body) {
                Some(done) => Verdict::Done(done),
                None => wrong(status, body),
            },
            (200, 2..) => self.batch(body),
            _ => refusal(status, body),
        }
    }

    fn batch(&self, body: &[u8]) -> Verdict {
        if self.error.find(body).is_some() {
            return self.mixed_batch(body);
        }
        match done(body) {
            Some(done) if !self.names_each || self.id.find_iter(body).count() == self.batch => {
                Verdict::Done(done)
            }
            None if !self.names_each => Verdict::Done(NOTHING),
            _ => wrong(200, body),
        }
    }

    /// Something was refused, or a text of ours contains the word: read in full.
    fn mixed_batch(&self, body: &[u8]) -> Verdict {
        let Ok(answer) = serde_json::from_slice::<BatchAnswer>(body) else {
            return wrong(200, body);
        };
        if answer.results.len() != self.batch {
            return wrong(200, body);
        }
        let mut refused = Vec::new();
        let mut done: Option<Done> = None;
        for (index, item) in answer.results.into_iter().enumerate() {
            let sequence = item.sequence.unwrap_or(0);
            match (item.error, item.transaction_id.as_deref().and_then(id_text)) {
                (Some(code), id) => refused.push(RefusedItem {
                    index,
                    word: code,
                    is_recorded: id.is_some(),
                }),
                (None, Some(first_id)) => {
                    let done = done.get_or_insert(Done {
                        first_id,
                        last_sequence: 0,
                    });
                    done.last_sequence = done.last_sequence.max(sequence);
                }
                (None, None) => return wrong(200, body),
            }
        }
        match (done, refused.is_empty()) {
            (Some(done), true) => Verdict::Done(done),
            (done, _) => Verdict::Partly {
                done: done.unwrap_or(NOTHING),
                refused,
            },
        }
    }

    /// An answer to a look-up of a wallet's balance.
    pub(super) fn balance(status: u16, body: &[u8]) -> Verdict {
        read(status, body, memmem::find(body, b"\"balance\":").is_some())
    }

    /// An answer to a look-up of a transaction that was acknowledged: 404 is an answer that lost it.
    pub(super) fn transaction(status: u16, body: &[u8], id: &IdText) -> Verdict {
        if status == 404 {
            return wrong(status, body);
        }
        read(status, body, memmem::find(body, id).is_some())
    }
}

fn read(status: u16, body: &[u8], is_it: bool) -> Verdict {
    match (status, is_it) {
        (200, true) => Verdict::Done(NOTHING),
        (200, false) => wrong(status, body),
        _ => refusal(status, body),
    }
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    error: Option<String>,
    transaction_id: Option<String>,
    sequence: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    error: Option<String>,
    transaction_id: Option<String>,
}

fn refusal(status: u16, body: &[u8]) -> Verdict {
    let told: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let code = told.error.unwrap_or_default();
    // Counted under this name, so it must not grow without end.
    let code: String = code.chars().take(40).collect();
    let word = format!("{status} {code}").trim_end().to_owned();
    match status {
        // 408 too: the body did not arrive in time.
        400..=499 | 503 => Verdict::Refused {
            word,
            is_recorded: told.transaction_id.is_some(),
            is_busy: matches!(status, 429 | 503),
        },
        // 504 says so itself; another failure leaves it open too.
        500..=599 => Verdict::Unknown(word),
        _ => wrong(status, body),
    }
}

fn wrong(status: u16, body: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(
        body.get(..body.len().min(4 * TOLD_CHARS_MAX))
            .unwrap_or(body),
    );
    let start: String = text.chars().take(TOLD_CHARS_MAX).collect();
    Verdict::Wrong(format!("{status}: {start}"))
}

/// First id and last sequence of what was done.
fn done(body: &[u8]) -> Option<Done> {
    let at = memmem::find(body, ID_BEFORE)? + ID_BEFORE.len();
    let first_id: &IdText = body.get(at..)?.first_chunk()?;
    let last_sequence = memmem::rfind(body, SEQUENCE_BEFORE).map_or(0, |at| {
        let digits = body.get(at + SEQUENCE_BEFORE.len()..).unwrap_or_default();
        digits
            .iter()
            .take_while(|digit| digit.is_ascii_digit())
            .fold(0, |number: u64, digit| {
                number
                    .saturating_mul(10)
                    .saturating_add(u64::from(digit - b'0'))
            })
    });
    Some(Done {
        first_id: *first_id,
        last_sequence,
    })
}

fn id_text(text: &str) -> Option<IdText> {
    text.as_bytes().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: &str = "019aae05-7ae5-7000-8000-000000000007";

    fn accepted(id: &str, sequence: u64) -> serde_json::Value {
        json!({"transaction_id": id, "status": "completed", "timestamp": "2026-11-23T00:00:00.000Z",
               "fraud_score": 0, "estimated_settlement": "immediate", "sequence": sequence})
    }

    fn done_of(verdict: &Verdict) -> Done {
        let (Verdict::Done(done) | Verdict::Partly { done, .. }) = verdict else {
            panic!("{verdict:?}");
        };
        *done
    }

    #[test]
    fn an_acknowledged_payment_tells_its_id_and_sequence() {
        let verdict = Judge::new(1, true).write(201, accepted(ID, 44).to_string().as_bytes());
        assert_eq!(done_of(&verdict).last_sequence, 44);
        assert_eq!(&done_of(&verdict).first_id, ID.as_bytes());
    }

    #[test]
    fn a_201_that_names_no_transaction_is_wrong() {
        for body in ["", "{}", "{\"transaction_id\":\"short\"}"] {
            let verdict = Judge::new(1, true).write(201, body.as_bytes());
            assert!(matches!(verdict, Verdict::Wrong(_)), "{body}: {verdict:?}");
        }
        let verdict = Judge::new(1, true).write(200, accepted(ID, 1).to_string().as_bytes());
        assert!(matches!(verdict, Verdict::Wrong(_)), "200 is not 201");
    }

    #[test]
    fn each_result_of_a_batch_is_looked_at() {
        let judge = Judge::new(3, true);
        let refused = json!({"error": "INSUFFICIENT_FUNDS", "message": "m", "transaction_id": ID, "sequence": 9});
        let unread = json!({"error": "INVALID_REQUEST", "message": "m"});
        let batch = |results: &[serde_json::Value]| json!({"results": results}).to_string();

        let whole = batch(&[accepted(ID, 4), accepted(ID, 8), accepted(ID, 12)]);
        assert_eq!(
            done_of(&judge.write(200, whole.as_bytes())).last_sequence,
            12
        );

        let short = batch(&[accepted(ID, 4), accepted(ID, 8)]);
        assert!(matches!(
            judge.write(200, short.as_bytes()),
            Verdict::Wrong(_)
        ));

        let mixed = batch(&[refused, accepted(ID, 8), unread]);
        let Verdict::Partly { done, refused } = judge.write(200, mixed.as_bytes()) else {
            panic!("not all were done");
        };
        assert_eq!(done.last_sequence, 8);
        let found: Vec<_> = refused
            .iter()
            .map(|item| (item.index, item.is_recorded))
            .collect();
        assert_eq!(found, [(0, true), (2, false)]);
    }

    #[test]
    fn a_refusal_is_told_from_an_unknown_outcome() {
        let judge = Judge::new(1, true);
        let body = json!({"error": "LEDGER_BUSY", "message": "m"}).to_string();
        let Verdict::Refused {
            word,
            is_recorded,
            is_busy,
        } = judge.write(503, body.as_bytes())
        else {
            panic!("a refusal");
        };
        assert_eq!(
            (&*word, is_recorded, is_busy),
            ("503 LEDGER_BUSY", false, true)
        );
        let body =
            json!({"error": "INSUFFICIENT_FUNDS", "transaction_id": ID, "sequence": 2}).to_string();
        let verdict = judge.write(402, body.as_bytes());
        assert!(matches!(
            verdict,
            Verdict::Refused {
                is_recorded: true,
                is_busy: false,
                ..
            }
        ));
        for status in [500, 502, 504] {
            assert!(
                matches!(judge.write(status, b""), Verdict::Unknown(_)),
                "{status}"
            );
        }
    }

    #[test]
    fn a_transaction_that_is_not_found_again_is_wrong() {
        let id = ID.as_bytes().try_into().unwrap();
        let found = format!("{{\"id\":\"{ID}\"}}");
        assert!(matches!(
            Judge::transaction(200, found.as_bytes(), &id),
            Verdict::Done(_)
        ));
        let lost = json!({"error": "TRANSACTION_NOT_FOUND"}).to_string();
        assert!(matches!(
            Judge::transaction(404, lost.as_bytes(), &id),
            Verdict::Wrong(_)
        ));
        assert!(matches!(
            Judge::transaction(200, b"{\"id\":\"other\"}", &id),
            Verdict::Wrong(_)
        ));
        assert!(matches!(
            Judge::balance(200, b"{\"balance\":1}"),
            Verdict::Done(_)
        ));
        assert!(matches!(Judge::balance(200, b"{}"), Verdict::Wrong(_)));
    }
}
