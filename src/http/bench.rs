//! What the benches measure of HTTP: the hot path's routing, parsing and writing, without sockets. No part of the API.

use super::answer::{Body, write_array, write_receipt};
use super::config::Config;
use super::json::{read_batch, read_object};
use super::parse::{self, Rules, TRANSFER_FIELDS};
use super::router::Resource;
use super::transactions;
use crate::event::TimestampText;
use crate::ledger::{MovementRequest, Receipt, Reply};
use crate::types::Currencies;
use hyper::Response;

/// The pattern of the resource at `path`; `None` where there is nothing.
pub fn route(path: &str) -> Option<&'static str> {
    Resource::at(path).map(Resource::pattern)
}

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

/// The whole answer to a single `POST` that led to `receipt`.
pub fn answer(receipt: Receipt) -> Option<Response<Body>> {
    transactions::created(&Reply::Transaction(receipt)).ok()
}

/// Appends the answers to a batch.
pub fn write_results(out: &mut Vec<u8>, receipts: &[Receipt]) {
    let mut time = TimestampText::default();
    write_array(out, receipts, |out, receipt| {
        write_receipt(out, receipt, &mut time);
    });
}
