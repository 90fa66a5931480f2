//! Wallets: open, balance, history, totals.

use super::answer::{self, write_integer, write_time};
use super::error::{CURSOR_EXPECTED, ErrorKind};
use super::json::read_object;
use super::parse::{self, WALLET_FIELDS};
use super::query::wallet_id;
use super::service::{Answer, Ask, Services};
use super::transactions::write_list;
use crate::auth::Scope;
use crate::event::{write_sequence, write_uuid};
use crate::ledger::{Command, Reply};
use crate::money;
use crate::types::{FraudScore, MinorUnits, Sequence, TimestampMs};
use hyper::StatusCode;
use hyper::header::{HeaderValue, LOCATION};

const HISTORY_LIMIT_DEFAULT: usize = 50;
const HISTORY_LIMIT_MAX: usize = 100;
/// Beyond this a page costs more reading than it is worth: `cursor` costs the same on every page.
const OFFSET_MAX: usize = 10_000;
/// How far `stats` looks back unless told.
const STATS_DEFAULT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// `POST /api/v1/wallets`.
pub(super) async fn open(ask: &Ask<'_>, body: &[u8]) -> Answer {
    let Services { ledger, clock, .. } = ask.services();
    let fields = read_object(body, &WALLET_FIELDS).map_err(|error| ErrorKind::Shape(error.0))?;
    let request = parse::open_wallet(&fields, ask.rules(), || clock.random_uuid())?;
    ask.check_wallet(request.wallet)?;
    if request.overdraft_limit != MinorUnits::ZERO {
        // Why: what a wallet may overdraw can be spent like money that was issued to it.
        ask.check_scope(Scope::Issue)?;
    }
    let reply = ledger.submit(Command::OpenWallet(request)).await?;
    let Reply::WalletOpened { sequence, at } = reply else {
        return Err(ErrorKind::Internal.into());
    };
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"wallet_id\":\"");
    write_uuid(&mut out, request.wallet.uuid());
    out.extend_from_slice(b"\",\"currency\":");
    ask.money().currency(&mut out, request.currency);
    out.extend_from_slice(b",\"overdraft_limit\":");
    ask.money()
        .amount(&mut out, request.overdraft_limit, request.currency);
    out.extend_from_slice(b",\"timestamp\":\"");
    write_time(&mut out, at);
    out.extend_from_slice(b"\",\"sequence\":");
    write_sequence(&mut out, sequence);
    out.push(b'}');
    let mut response = answer::json(StatusCode::CREATED, out);
    let location = format!("/api/v1/wallets/{}/balance", request.wallet);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `GET /api/v1/wallets/{id}/balance`.
pub(super) fn balance(ask: &Ask<'_>, id: &str) -> Answer {
    let wallet = wallet_id(id)?;
    let currency = ask.query.currency(&ask.services().currencies)?.currency;
    ask.check_wallet(wallet)?;
    let view = ask.services().queries.balance(wallet, currency);
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"wallet_id\":\"");
    write_uuid(&mut out, wallet.uuid());
    out.extend_from_slice(b"\",\"currency\":");
    ask.money().currency(&mut out, currency);
    out.extend_from_slice(b",\"balance\":");
    ask.money().amount(&mut out, view.balance, currency);
    out.extend_from_slice(b",\"held\":");
    ask.money().amount(&mut out, view.held, currency);
    out.extend_from_slice(b",\"updated_at\":\"");
    // Why now: the old service told the time of asking for a wallet it did not know.
    write_time(
        &mut out,
        view.updated_at
            .unwrap_or_else(|| ask.services().clock.now()),
    );
    out.extend_from_slice(b"\",\"sequence\":");
    write_sequence(&mut out, view.sequence);
    out.push(b'}');
    Ok(answer::json(StatusCode::OK, out))
}

/// `GET /api/v1/wallets/{id}/transactions`.
pub(super) async fn history(ask: &Ask<'_>, id: &str) -> Answer {
    let wallet = wallet_id(id)?;
    let limit = ask.query.limit(HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX);
    let offset = usize::try_from(ask.query.number("offset", 0)?).unwrap_or(usize::MAX);
    if offset > OFFSET_MAX {
        return Err(ErrorKind::OffsetTooLarge {
            offset_max: OFFSET_MAX,
        }
        .into());
    }
    let before = ask
        .query
        .get("cursor")
        .map(|text| parse_cursor(&text))
        .transpose()?;
    ask.check_wallet(wallet)?;
    let page = ask
        .services()
        .queries
        .history(wallet, before, offset, limit)
        .await?;
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(b"{\"transactions\":");
    write_list(&mut out, &page.transactions, ask);
    out.extend_from_slice(b",\"pagination\":{\"limit\":");
    write_integer(&mut out, limit);
    out.extend_from_slice(b",\"offset\":");
    write_integer(&mut out, offset);
    out.extend_from_slice(b",\"count\":");
    write_integer(&mut out, page.transactions.len());
    out.push(b'}');
    if let Some(before) = page.next_before {
        out.extend_from_slice(b",\"next_cursor\":\"");
        out.extend_from_slice(cursor(before).as_bytes());
        out.push(b'"');
    }
    out.push(b'}');
    Ok(answer::json(StatusCode::OK, out))
}

/// `GET /api/v1/wallets/{id}/stats`.
pub(super) async fn stats(ask: &Ask<'_>, id: &str) -> Answer {
    let wallet = wallet_id(id)?;
    let currency = ask.query.currency(&ask.services().currencies)?.currency;
    let since = match ask.query.time("since")? {
        Some(since) => since,
        None => TimestampMs::new(
            ask.services()
                .clock
                .now()
                .get()
                .saturating_sub(STATS_DEFAULT_MS),
        ),
    };
    ask.check_wallet(wallet)?;
    let stats = ask
        .services()
        .queries
        .stats(wallet, currency, since)
        .await?;
    let mut out = Vec::with_capacity(192);
    for (name, count) in [
        ("{\"total_count\":", stats.total_count),
        (",\"completed_count\":", stats.completed_count),
        (",\"failed_count\":", stats.failed_count),
        (",\"reversed_count\":", stats.reversed_count),
    ] {
        out.extend_from_slice(name.as_bytes());
        write_integer(&mut out, count);
    }
    out.extend_from_slice(b",\"total_amount\":");
    ask.money().total(&mut out, stats.total_amount, currency);
    out.extend_from_slice(b",\"avg_fraud_score\":");
    money::write_score(
        &mut out,
        average_score(stats.fraud_score_millionths_sum, stats.total_count),
    );
    out.push(b'}');
    Ok(answer::json(StatusCode::OK, out))
}

/// Zero for none; cut, not rounded.
fn average_score(millionths_sum: u64, count: u64) -> FraudScore {
    let average = millionths_sum.checked_div(count).unwrap_or_default();
    u32::try_from(average)
        .ok()
        .and_then(FraudScore::from_millionths)
        .unwrap_or_default()
}

/// Opaque to clients: version, then the creation sequence to continue before.
fn cursor(before: Sequence) -> String {
    format!("v1-{:016x}", before.get())
}

fn parse_cursor(text: &str) -> Result<Sequence, ErrorKind> {
    let digits = text.strip_prefix("v1-").filter(|digits| {
        digits.len() == 16
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    });
    let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number
        .map(Sequence::new)
        .filter(|sequence| !sequence.is_origin() && *sequence <= Sequence::MAX)
        .ok_or(ErrorKind::Parameter {
            name: "cursor",
            expected: CURSOR_EXPECTED,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cursor_that_was_never_given_out_is_refused() {
        for text in [
            "",
            "7",
            "v1-",
            "v1-7",
            "v1-0000000000000000",
            "v1-000000000000000G",
            "v1-000000000000000A",
            "v1-+00000000000000a",
            "v1-ffffffffffffffff",
            "v2-0000000000000007",
            "v1-00000000000000007",
        ] {
            assert!(parse_cursor(text).is_err(), "{text}");
        }
    }

    #[test]
    fn averages_are_between_zero_and_one() {
        assert_eq!(average_score(0, 0), FraudScore::ZERO);
        assert_eq!(average_score(1_500_000, 3).millionths(), 500_000);
        assert_eq!(average_score(2, 3).millionths(), 0);
    }

    proptest! {
        #[test]
        fn cursors_lead_back_to_their_sequence(number in 1..=Sequence::MAX.get()) {
            let sequence = Sequence::new(number);
            prop_assert_eq!(parse_cursor(&cursor(sequence)), Ok(sequence));
        }
    }
}
