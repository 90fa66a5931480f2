//! What `benches/http.rs` measures: the parsing and writing of the hot path, without sockets.

use super::answer::{write_array, write_receipt};
use super::config::Config;
use super::json::{read_batch, read_object};
use super::parse::{self, Rules, TRANSFER_FIELDS};
use crate::event::TimestampText;
use crate::ledger::{MovementRequest, Receipt};
use crate::types::Currencies;

/// Reads the body of a single `POST`; `None` when it is refused.
pub fn parse_transfer(
    body: &[u8],
    currencies: &Currencies,
    config: &Config,
) -> Option<MovementRequest> {
    let fields = read_object(body, &TRANSFER_FIELDS).ok()?;
    parse::transfer(&fields, Rules { currencies, config }).ok()
}

/// Reads the body of a batch; `None` when it or one of its items is refused.
pub fn parse_batch(
    body: &[u8],
    currencies: &Currencies,
    config: &Config,
) -> Option<Vec<MovementRequest>> {
    let mut items = Vec::new();
    let mut all_valid = true;
    read_batch(body, &TRANSFER_FIELDS, config.batch_items_max, |fields| {
        let request = fields
            .ok()
            .and_then(|fields| parse::transfer(&fields, Rules { currencies, config }).ok());
        all_valid &= request.is_some();
        items.extend(request);
    })
    .ok()?;
    all_valid.then_some(items)
}

/// Appends the answers to a batch.
pub fn write_results(out: &mut Vec<u8>, receipts: &[Receipt]) {
    let mut time = TimestampText::default();
    write_array(out, receipts, |out, receipt| {
        write_receipt(out, receipt, &mut time);
    });
}
