//! The bytes of requests. Made once; before each sending only what differs is written over: ids, amounts, keys.

use super::draw::{Transfer, wallet_id};
use uuid::Uuid;

/// Characters of an id.
pub(super) const ID_CHARS: usize = 36;
/// An id as it stands in a request or an answer.
pub(super) type IdText = [u8; ID_CHARS];
/// Of an id, what tells one wallet of a run from another.
const NUMBER_CHARS: usize = 8;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Where requests go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Address {
    /// For `Host`, and in messages.
    pub(super) authority: String,
    /// Before each path; empty, or with a leading and without a trailing slash.
    pub(super) prefix: String,
    /// `Authorization`'s value; kept from `Debug` by whoever prints.
    pub(super) authorization: Option<String>,
}

impl Address {
    /// Head and body of a request.
    pub(super) fn request(&self, method: &str, path: &str, body: Option<&str>) -> Vec<u8> {
        self.with_headers(method, path, "", body)
    }

    fn with_headers(&self, method: &str, path: &str, more: &str, body: Option<&str>) -> Vec<u8> {
        let Self {
            authority, prefix, ..
        } = self;
        let mut text = format!("{method} {prefix}{path} HTTP/1.1\r\nhost: {authority}\r\n");
        if let Some(value) = &self.authorization {
            text.push_str("authorization: ");
            text.push_str(value);
            text.push_str("\r\n");
        }
        text.push_str(more);
        if let Some(body) = body {
            let length = body.len();
            text.push_str("content-type: application/json\r\ncontent-length: ");
            text.push_str(&length.to_string());
            text.push_str("\r\n\r\n");
            text.push_str(body);
        } else {
            text.push_str("\r\n");
        }
        text.into_bytes()
    }
}

/// Transfers, one or a batch.
#[derive(Clone, Debug)]
pub(super) struct TransferRequest {
    bytes: Vec<u8>,
    /// Where the first item's payer, receiver and amount stand; the others follow at equal distances.
    from_at: usize,
    to_at: usize,
    amount_at: usize,
    item_bytes: usize,
    key_at: Option<usize>,
}

impl TransferRequest {
    /// With `keyed` room for an idempotency key.
    pub(super) fn new(address: &Address, seed: u64, batch: u32, keyed: bool) -> Self {
        let nobody = wallet_id(seed, 0);
        let item = format!(
            "{{\"from_wallet\":\"{nobody}\",\"to_wallet\":\"{nobody}\",\"amount\":0.01,\"currency\":\"USD-CBDC\",\
             \"metadata\":{{\"note\":\"nineteen characters!\",\"n\":1}}}}"
        );
        let (path, body) = if batch > 1 {
            let items = vec![item.as_str(); batch as usize].join(",");
            let body = format!("{{\"transactions\":[{items}]}}");
            ("/api/v1/transactions/batch", body)
        } else {
            ("/api/v1/transactions", item.clone())
        };
        let key = Uuid::nil();
        let headers = if keyed {
            format!("idempotency-key: {key}\r\n")
        } else {
            String::new()
        };
        let bytes = address.with_headers("POST", path, &headers, Some(&body));
        let text = String::from_utf8_lossy(&bytes);
        // Where something is not found nothing is patched; the tests hold that everything is.
        let behind = |word: &str| text.find(word).map_or(usize::MAX, |at| at + word.len());
        Self {
            from_at: behind("\"from_wallet\":\""),
            to_at: behind("\"to_wallet\":\""),
            amount_at: behind("\"amount\":0.0"),
            item_bytes: item.len() + 1,
            key_at: keyed.then(|| behind("idempotency-key: ")),
            bytes,
        }
    }

    /// Writes `transfers` into the request, in order.
    pub(super) fn fill(&mut self, transfers: &[Transfer]) -> &[u8] {
        let mut offset = 0;
        for transfer in transfers {
            write_number(&mut self.bytes, self.from_at + offset, transfer.from);
            write_number(&mut self.bytes, self.to_at + offset, transfer.to);
            if let Some(digit) = self.bytes.get_mut(self.amount_at + offset) {
                *digit = b'0' + transfer.amount_minor;
            }
            offset += self.item_bytes;
        }
        &self.bytes
    }

    /// Writes the key into the request, if it has room for one.
    pub(super) fn key(&mut self, high: u64, low: u64) {
        let Some(at) = self.key_at else { return };
        let mut key = [0; 16];
        let (first, second) = key.split_at_mut(8);
        first.copy_from_slice(&high.to_be_bytes());
        second.copy_from_slice(&low.to_be_bytes());
        let key = uuid::Builder::from_random_bytes(key).into_uuid();
        if let Some(room) = self.bytes.get_mut(at..at + ID_CHARS) {
            key.hyphenated().encode_lower(room);
        }
    }

    /// What a request takes on the wire.
    pub(super) fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// A look-up of something with an id in its path.
#[derive(Clone, Debug)]
pub(super) struct LookUp {
    bytes: Vec<u8>,
    id_at: usize,
}

impl LookUp {
    pub(super) fn balance(address: &Address, seed: u64) -> Self {
        Self::new(address, "/api/v1/wallets/", wallet_id(seed, 0), "/balance")
    }

    pub(super) fn transaction(address: &Address) -> Self {
        Self::new(address, "/api/v1/transactions/", Uuid::nil(), "")
    }

    fn new(address: &Address, before: &str, id: Uuid, behind: &str) -> Self {
        let bytes = address.request("GET", &format!("{before}{id}{behind}"), None);
        // "GET ", then the path.
        let id_at = 4 + address.prefix.len() + before.len();
        Self { bytes, id_at }
    }

    /// Of a wallet of the run.
    pub(super) fn wallet(&mut self, number: u32) -> &[u8] {
        write_number(&mut self.bytes, self.id_at, number);
        &self.bytes
    }

    /// Of any id.
    pub(super) fn id(&mut self, id: &IdText) -> &[u8] {
        if let Some(room) = self.bytes.get_mut(self.id_at..self.id_at + ID_CHARS) {
            room.copy_from_slice(id);
        }
        &self.bytes
    }
}

/// Eight characters of hexadecimal, at `at`.
fn write_number(bytes: &mut [u8], at: usize, number: u32) {
    let Some(room) = bytes.get_mut(at..at.saturating_add(NUMBER_CHARS)) else {
        return;
    };
    let mut rest = number;
    for digit in room.iter_mut().rev() {
        *digit = HEX[(rest & 15) as usize];
        rest >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn address() -> Address {
        Address {
            authority: "127.0.0.1:8001".into(),
            prefix: "/ledger".into(),
            authorization: Some("Bearer t".into()),
        }
    }

    fn parts(request: &[u8]) -> (String, Value) {
        let text = std::str::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{head}");
        (head.to_owned(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn each_transfer_of_a_request_is_the_one_that_was_drawn() {
        let transfers: Vec<Transfer> = (0..7)
            .map(|number| Transfer {
                from: number * 1_000_003,
                to: 0xfedc_ba98 - number,
                amount_minor: u8::try_from(number).unwrap() + 1,
            })
            .collect();
        let mut request = TransferRequest::new(&address(), 5, 7, false);
        for turn in 0..2 {
            let (head, body) = parts(request.fill(&transfers));
            assert!(head.starts_with("POST /ledger/api/v1/transactions/batch HTTP/1.1\r\n"));
            assert!(head.contains("\r\nauthorization: Bearer t\r\n"), "{turn}");
            for (item, drawn) in body["transactions"]
                .as_array()
                .unwrap()
                .iter()
                .zip(&transfers)
            {
                let from = wallet_id(5, drawn.from).to_string();
                assert_eq!(item["from_wallet"], from);
                assert_eq!(item["to_wallet"], wallet_id(5, drawn.to).to_string());
                let amount = f64::from(drawn.amount_minor) / 100.0;
                assert_eq!(item["amount"].to_string(), amount.to_string());
            }
        }
    }

    #[test]
    fn a_key_stands_in_its_header_and_changes_nothing_else() {
        let mut request = TransferRequest::new(&address(), 5, 1, true);
        let drawn = Transfer {
            from: 1,
            to: 2,
            amount_minor: 3,
        };
        let (before, body) = parts(request.fill(&[drawn]));
        request.key(7, 8);
        let (after, same) = parts(request.fill(&[drawn]));
        assert_eq!(body, same);
        let key = |head: &str| head.split("idempotency-key: ").nth(1).unwrap()[..36].to_owned();
        assert_ne!(key(&before), key(&after));
        assert!(Uuid::parse_str(&key(&after)).is_ok());
    }

    #[test]
    fn a_look_up_asks_for_the_id_that_it_was_given() {
        let mut look_up = LookUp::balance(&address(), 9);
        let text = String::from_utf8(look_up.wallet(77).to_vec()).unwrap();
        let wallet = wallet_id(9, 77);
        assert!(
            text.starts_with(&format!(
                "GET /ledger/api/v1/wallets/{wallet}/balance HTTP/1.1\r\n"
            )),
            "{text}"
        );
        let mut id = [0; ID_CHARS];
        wallet.hyphenated().encode_lower(&mut id);
        let mut look_up = LookUp::transaction(&address());
        let text = String::from_utf8(look_up.id(&id).to_vec()).unwrap();
        assert!(
            text.starts_with(&format!(
                "GET /ledger/api/v1/transactions/{wallet} HTTP/1.1\r\n"
            )),
            "{text}"
        );
    }
}
