//! From the fields of a body to what the ledger is asked.
//!
//! The order of the checks is part of the contract: it says which error a body with two faults gets. First the shape of
//! each field in the order of the tables below, then the values: wallets, currency, amount, metadata, hold.

use super::config::{AttachmentLimits, Config};
use super::error::ErrorKind;
use super::json::{self, AttachmentError, Fields};
use crate::ledger::{Change, HoldSpec, MovementRequest, OpenWallet};
use crate::money;
use crate::types::{Currencies, CurrencyInfo, FraudScore, MinorUnits, Status, WalletId};
use std::borrow::Cow;
use uuid::Uuid;

/// What the rules of a body rest on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'r> {
    pub(super) currencies: &'r Currencies,
    pub(super) config: &'r Config,
}

/// Fields of a transfer or hold.
pub(super) const TRANSFER_FIELDS: [&str; 7] = [
    "from_wallet",
    "to_wallet",
    "amount",
    "currency",
    "metadata",
    "hold",
    "expires_in_seconds",
];

/// Fields of an issuance or redemption.
pub(super) const ISSUE_FIELDS: [&str; 4] = ["wallet_id", "amount", "currency", "metadata"];

/// Fields of a new wallet.
pub(super) const WALLET_FIELDS: [&str; 3] = ["wallet_id", "currency", "overdraft_limit"];

/// Fields of a change of status.
pub(super) const STATUS_FIELDS: [&str; 3] = ["status", "user_id", "details"];

/// Fields of a change of score.
pub(super) const SCORE_FIELDS: [&str; 2] = ["score", "details"];

/// A transfer or hold.
pub(super) fn transfer(
    fields: &Fields<'_, 7>,
    rules: Rules<'_>,
) -> Result<MovementRequest, ErrorKind> {
    let from = required_uuid(fields.get(0), "from_wallet")?;
    let to = required_uuid(fields.get(1), "to_wallet")?;
    let amount = AmountText::required(fields.get(2), "amount")?;
    let code = required_string(fields.get(3), "currency")?;
    let hold = match fields.get(5) {
        None => false,
        Some(text) => json::boolean(text).ok_or_else(|| wrong_type("hold", "a boolean"))?,
    };
    let expires_in_seconds = fields.get(6).map(whole_seconds).transpose()?;

    let from = wallet(from, "from_wallet")?;
    let to = wallet(to, "to_wallet")?;
    if from == to {
        return Err(invalid("from_wallet and to_wallet must differ"));
    }
    let currency = known_currency(&code, rules)?;
    let amount = amount.parse(currency)?;
    let metadata = fields
        .get(4)
        .map(|text| metadata(text, rules))
        .transpose()?;
    let hold = hold_spec(hold, expires_in_seconds, rules)?;
    Ok(MovementRequest {
        from,
        to,
        currency: currency.currency,
        amount,
        metadata,
        hold,
    })
}

/// An issuance or redemption: the wallet stands on both sides, the ledger replaces the one of the issuer.
pub(super) fn issue(
    fields: &Fields<'_, 4>,
    rules: Rules<'_>,
) -> Result<MovementRequest, ErrorKind> {
    let id = required_uuid(fields.get(0), "wallet_id")?;
    let amount = AmountText::required(fields.get(1), "amount")?;
    let code = required_string(fields.get(2), "currency")?;

    let id = wallet(id, "wallet_id")?;
    let currency = known_currency(&code, rules)?;
    let amount = amount.parse(currency)?;
    let metadata = fields
        .get(3)
        .map(|text| metadata(text, rules))
        .transpose()?;
    let currency = currency.currency;
    Ok(MovementRequest {
        from: id,
        to: id,
        currency,
        amount,
        metadata,
        hold: None,
    })
}

/// An account to be opened; `fresh` gives an id where the client names none.
pub(super) fn open_wallet(
    fields: &Fields<'_, 3>,
    rules: Rules<'_>,
    fresh: impl FnOnce() -> Uuid,
) -> Result<OpenWallet, ErrorKind> {
    let id = fields
        .get(0)
        .map(|text| uuid(text, "wallet_id"))
        .transpose()?;
    let code = fields
        .get(1)
        .map(|text| string(text, "currency"))
        .transpose()?;
    let limit = fields
        .get(2)
        .map(|text| AmountText::new(text, "overdraft_limit"))
        .transpose()?;

    let as_wallet = |kind| match kind {
        ErrorKind::InvalidTransaction(text) => ErrorKind::InvalidWallet(text),
        other => other,
    };
    let wallet = wallet(id.unwrap_or_else(fresh), "wallet_id").map_err(as_wallet)?;
    let default = rules.currencies.get(rules.currencies.default_currency());
    let currency = match &code {
        Some(code) => known_currency(code, rules).map_err(as_wallet)?,
        None => default.ok_or(ErrorKind::Internal)?,
    };
    let overdraft_limit =
        match limit {
            None => MinorUnits::ZERO,
            Some(limit) => money::parse_limit(&limit.text, currency.exponent, limit.lenient)
                .map_err(|error| match error {
                    money::AmountError::NotANumber => {
                        wrong_type("overdraft_limit", "a decimal number")
                    }
                    money::AmountError::TooManyDecimals => {
                        ErrorKind::InvalidWallet("overdraft_limit has too many decimals".into())
                    }
                    money::AmountError::NotPositive => {
                        ErrorKind::InvalidWallet("overdraft_limit must not be negative".into())
                    }
                    money::AmountError::TooLarge => ErrorKind::InvalidWallet(
                        "overdraft_limit exceeds the maximum of 1000000000".into(),
                    ),
                })?,
        };
    Ok(OpenWallet {
        wallet,
        currency: currency.currency,
        overdraft_limit,
    })
}

/// What a client wants of a transaction, and what it notes about that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Amending {
    /// `None` for the status `pending`, to which nothing leads.
    pub(super) change: Option<Change>,
    pub(super) user_id: Option<Box<str>>,
    pub(super) details: Option<Box<str>>,
}

/// A change of status.
pub(super) fn status_change(
    fields: &Fields<'_, 3>,
    rules: Rules<'_>,
) -> Result<Amending, ErrorKind> {
    let word = required_string(fields.get(0), "status")?;
    let status = Status::parse(&word)
        .ok_or_else(|| wrong_type("status", "pending, completed, failed or reversed"))?;
    let user_id = fields
        .get(1)
        .map(|text| string(text, "user_id"))
        .transpose()?;
    let bytes_max = rules.config.attachments.user_id_bytes_max;
    if user_id
        .as_ref()
        .is_some_and(|user_id| user_id.len() > bytes_max)
    {
        return Err(ErrorKind::UserIdTooLong { bytes_max });
    }
    let change = match status {
        Status::Pending => None,
        Status::Completed => Some(Change::Complete),
        Status::Failed => Some(Change::Fail),
        Status::Reversed => Some(Change::Reverse),
    };
    let details = fields.get(2).map(|text| details(text, rules)).transpose()?;
    Ok(Amending {
        change,
        user_id: user_id.map(Into::into),
        details,
    })
}

/// A change of score.
pub(super) fn score_change(
    fields: &Fields<'_, 2>,
    rules: Rules<'_>,
) -> Result<Amending, ErrorKind> {
    let text = fields.get(0).ok_or_else(|| missing("score"))?;
    let score: FraudScore =
        money::parse_score(text).ok_or_else(|| wrong_type("score", "a number between 0 and 1"))?;
    let details = fields.get(1).map(|text| details(text, rules)).transpose()?;
    Ok(Amending {
        change: Some(Change::Score(score)),
        user_id: None,
        details,
    })
}

fn missing(name: &str) -> ErrorKind {
    ErrorKind::Shape(format!("{name} is required").into())
}

fn wrong_type(name: &str, expected: &str) -> ErrorKind {
    ErrorKind::Shape(format!("{name} must be {expected}").into())
}

fn invalid(text: &'static str) -> ErrorKind {
    ErrorKind::InvalidTransaction(text.into())
}

fn string<'b>(text: &'b str, name: &str) -> Result<Cow<'b, str>, ErrorKind> {
    json::string(text).ok_or_else(|| wrong_type(name, "a string"))
}

fn required_string<'b>(text: Option<&'b str>, name: &str) -> Result<Cow<'b, str>, ErrorKind> {
    string(text.ok_or_else(|| missing(name))?, name)
}

fn uuid(text: &str, name: &str) -> Result<Uuid, ErrorKind> {
    // Why the raw text first: an id with escapes in it is a curiosity.
    let parsed = json::raw_string(text)
        .and_then(|raw| Uuid::try_parse(raw).ok())
        .or_else(|| Uuid::try_parse(&json::string(text)?).ok());
    parsed.ok_or_else(|| wrong_type(name, "a UUID"))
}

fn required_uuid(text: Option<&str>, name: &str) -> Result<Uuid, ErrorKind> {
    uuid(text.ok_or_else(|| missing(name))?, name)
}

fn wallet(id: Uuid, name: &str) -> Result<WalletId, ErrorKind> {
    let Some(wallet) = WalletId::new(id) else {
        let text = format!("{name} must not be the nil UUID");
        return Err(ErrorKind::InvalidTransaction(text.into()));
    };
    if wallet.is_issuer() {
        let text = format!("{name} is reserved for a currency's issuer");
        return Err(ErrorKind::InvalidTransaction(text.into()));
    }
    Ok(wallet)
}

fn known_currency<'r>(code: &str, rules: Rules<'r>) -> Result<&'r CurrencyInfo, ErrorKind> {
    rules.currencies.by_code(code).ok_or_else(|| {
        let shown: String = code.chars().take(16).collect();
        ErrorKind::InvalidTransaction(format!("unknown currency {shown:?}").into())
    })
}

/// An amount whose currency is not known yet.
struct AmountText<'b> {
    text: Cow<'b, str>,
    lenient: bool,
}

impl<'b> AmountText<'b> {
    fn new(text: &'b str, name: &str) -> Result<Self, ErrorKind> {
        if matches!(text.as_bytes(), [b'-' | b'0'..=b'9', ..]) {
            Ok(Self {
                text: Cow::Borrowed(text),
                lenient: true,
            })
        } else {
            let text =
                json::string(text).ok_or_else(|| wrong_type(name, "a number or a string"))?;
            Ok(Self {
                text,
                lenient: false,
            })
        }
    }

    fn required(text: Option<&'b str>, name: &str) -> Result<Self, ErrorKind> {
        Self::new(text.ok_or_else(|| missing(name))?, name)
    }

    fn parse(&self, currency: &CurrencyInfo) -> Result<MinorUnits, ErrorKind> {
        Ok(money::parse_amount(
            &self.text,
            currency.exponent,
            self.lenient,
        )?)
    }
}

fn metadata(text: &str, rules: Rules<'_>) -> Result<Box<str>, ErrorKind> {
    let AttachmentLimits {
        metadata_bytes_max: bytes_max,
        depth_max,
        ..
    } = rules.config.attachments;
    json::attachment(text, bytes_max, depth_max).map_err(|error| match error {
        AttachmentError::NotAnObject => wrong_type("metadata", "an object"),
        AttachmentError::Malformed(reason) => {
            ErrorKind::Shape(format!("metadata: {reason}").into())
        }
        AttachmentError::TooDeep => ErrorKind::MetadataTooDeep { depth_max },
        AttachmentError::TooLarge => ErrorKind::MetadataTooLarge { bytes_max },
    })
}

fn details(text: &str, rules: Rules<'_>) -> Result<Box<str>, ErrorKind> {
    let AttachmentLimits {
        details_bytes_max: bytes_max,
        depth_max,
        ..
    } = rules.config.attachments;
    json::attachment(text, bytes_max, depth_max).map_err(|error| match error {
        AttachmentError::NotAnObject => wrong_type("details", "an object"),
        AttachmentError::Malformed(reason) => ErrorKind::Shape(format!("details: {reason}").into()),
        AttachmentError::TooDeep => ErrorKind::DetailsTooDeep { depth_max },
        AttachmentError::TooLarge => ErrorKind::DetailsTooLarge { bytes_max },
    })
}

fn whole_seconds(text: &str) -> Result<u64, ErrorKind> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse().ok().filter(|_| digits);
    seconds.ok_or_else(|| wrong_type("expires_in_seconds", "a whole number of seconds"))
}

fn hold_spec(
    hold: bool,
    expires_in_seconds: Option<u64>,
    rules: Rules<'_>,
) -> Result<Option<HoldSpec>, ErrorKind> {
    let seconds_max = rules.config.hold_expiry_max.as_secs();
    match (hold, expires_in_seconds) {
        (false, None) => Ok(None),
        (false, Some(_)) => Err(invalid("expires_in_seconds needs hold")),
        (true, None) => Err(invalid("hold needs expires_in_seconds")),
        (true, Some(seconds)) if (1..=seconds_max).contains(&seconds) => Ok(Some(HoldSpec {
            expires_in_ms: seconds.saturating_mul(1000),
        })),
        (true, Some(_)) => {
            let text = format!("expires_in_seconds must be between 1 and {seconds_max}");
            Err(ErrorKind::InvalidTransaction(text.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "00000000-0000-0000-0000-0000000000aa";
    const B: &str = "00000000-0000-0000-0000-0000000000BB";

    fn with<T>(read: impl FnOnce(Rules<'_>) -> T) -> T {
        let (currencies, config) = (Currencies::default(), Config::default());
        read(Rules {
            currencies: &currencies,
            config: &config,
        })
    }

    fn parse(body: &str) -> Result<MovementRequest, String> {
        let fields = json::read_object(body.as_bytes(), &TRANSFER_FIELDS).unwrap();
        with(|rules| transfer(&fields, rules)).map_err(|kind| format!("{} {kind}", kind.code()))
    }

    /// A good body in which `from` is replaced by `to`.
    fn changed(from: &str, to: &str) -> String {
        let body = format!(
            r#"{{"from_wallet":"{A}","to_wallet":"{B}","amount":100.10,"currency":"USD-CBDC","metadata":{{"k":1}},"hold":false}}"#
        );
        assert!(body.contains(from), "{from}");
        body.replace(from, to)
    }

    #[test]
    fn a_transfer_is_read_whole() {
        let request = parse(&changed("100.10", "\"100.10\"")).unwrap();
        assert_eq!(request.from, WalletId::new(Uuid::from_u128(0xaa)).unwrap());
        assert_eq!(request.to, WalletId::new(Uuid::from_u128(0xbb)).unwrap());
        assert_eq!(request.amount, MinorUnits::new(10_010));
        assert_eq!(request.currency.tag(), 1);
        assert_eq!(request.metadata.as_deref(), Some("{\"k\":1}"));
        assert_eq!(request.hold, None);
    }

    #[test]
    fn a_hold_needs_its_end_and_an_end_its_hold() {
        let hold = |text| parse(&changed("\"hold\":false", text));
        let request = hold("\"hold\":true,\"expires_in_seconds\":60").unwrap();
        assert_eq!(
            request.hold,
            Some(HoldSpec {
                expires_in_ms: 60_000
            })
        );
        for (text, error) in [
            (
                "\"hold\":true",
                "INVALID_TRANSACTION hold needs expires_in_seconds",
            ),
            (
                "\"expires_in_seconds\":60",
                "INVALID_TRANSACTION expires_in_seconds needs hold",
            ),
            (
                "\"hold\":true,\"expires_in_seconds\":0",
                "INVALID_TRANSACTION expires_in_seconds must be between 1 and 2592000",
            ),
            (
                "\"hold\":true,\"expires_in_seconds\":2592001",
                "INVALID_TRANSACTION expires_in_seconds must be between 1 and 2592000",
            ),
            (
                "\"hold\":true,\"expires_in_seconds\":1.5",
                "INVALID_REQUEST expires_in_seconds must be a whole number of seconds",
            ),
            (
                "\"hold\":true,\"expires_in_seconds\":-1",
                "INVALID_REQUEST expires_in_seconds must be a whole number of seconds",
            ),
            ("\"hold\":1", "INVALID_REQUEST hold must be a boolean"),
        ] {
            assert_eq!(hold(text).unwrap_err(), error);
        }
    }

    /// Each row: what is replaced in a good body, by what, and the code and text of the answer.
    fn assert_faults(rows: &[(&str, &str, &str)]) {
        for (from, to, error) in rows {
            assert_eq!(parse(&changed(from, to)).unwrap_err(), *error, "{to}");
        }
    }

    #[test]
    fn each_fault_of_a_wallet_has_its_own_text() {
        let nil = "00000000-0000-0000-0000-000000000000";
        let issuer = WalletId::issuer(crate::types::Currency::from_tag(1)).to_string();
        assert_faults(&[
            (
                "from_wallet",
                "from",
                "INVALID_REQUEST from_wallet is required",
            ),
            (A, "seven", "INVALID_REQUEST from_wallet must be a UUID"),
            (
                A,
                nil,
                "INVALID_TRANSACTION from_wallet must not be the nil UUID",
            ),
            (
                B,
                nil,
                "INVALID_TRANSACTION to_wallet must not be the nil UUID",
            ),
            (
                B,
                A,
                "INVALID_TRANSACTION from_wallet and to_wallet must differ",
            ),
            (
                A,
                &issuer,
                "INVALID_TRANSACTION from_wallet is reserved for a currency's issuer",
            ),
        ]);
    }

    #[test]
    fn each_fault_of_money_has_its_own_text() {
        let (amount, many) = ("100.10", "\"0.30000000000000004\"");
        let no_number = "INVALID_REQUEST amount must be a number or a string";
        let no_decimal = "INVALID_REQUEST amount must be a decimal number";
        let too_many = "INVALID_TRANSACTION amount has too many decimals";
        let too_small = "INVALID_TRANSACTION amount must be greater than zero";
        let too_large = "INVALID_TRANSACTION amount exceeds the maximum of 1000000000";
        assert_faults(&[
            (
                "USD-CBDC",
                "usd-cbdc",
                "INVALID_TRANSACTION unknown currency \"usd-cbdc\"",
            ),
            (
                "\"USD-CBDC\"",
                "7",
                "INVALID_REQUEST currency must be a string",
            ),
            (amount, "null", "INVALID_REQUEST amount is required"),
            (amount, "true", no_number),
            (amount, "{}", no_number),
            (amount, "\"ten\"", no_decimal),
            (amount, "\"NaN\"", no_decimal),
            (amount, "\"\"", no_decimal),
            (amount, "0", too_small),
            (amount, "-1", too_small),
            (amount, "1e400", too_large),
            (amount, "1e-3", too_many),
            (amount, many, too_many),
        ]);
    }

    #[test]
    fn each_fault_of_metadata_has_its_own_text() {
        let metadata = "{\"k\":1}";
        let large = format!("{{\"k\":\"{}\"}}", "x".repeat(2048));
        let too_large = "METADATA_TOO_LARGE metadata is larger than 2048 bytes";
        let too_deep = "METADATA_TOO_DEEP metadata is nested deeper than 4 levels";
        let repeated = "INVALID_REQUEST metadata: repeated key \"k\"";
        assert_faults(&[
            (
                metadata,
                "[1]",
                "INVALID_REQUEST metadata must be an object",
            ),
            (metadata, "{\"k\":1,\"k\":2}", repeated),
            (metadata, &large, too_large),
            (metadata, "{\"k\":[[[[]]]]}", too_deep),
        ]);
    }

    #[test]
    fn of_two_faults_the_documented_one_is_told() {
        let body = changed("100.10", "0").replace(B, A);
        let error = "INVALID_TRANSACTION from_wallet and to_wallet must differ";
        assert_eq!(parse(&body).unwrap_err(), error);
        let body = changed("100.10", "true").replace(B, A);
        let error = "INVALID_REQUEST amount must be a number or a string";
        assert_eq!(parse(&body).unwrap_err(), error);
    }

    #[test]
    fn a_wallet_needs_nothing_but_takes_id_currency_and_limit() {
        let open = |body: &str| {
            let fields = json::read_object(body.as_bytes(), &WALLET_FIELDS).unwrap();
            with(|rules| open_wallet(&fields, rules, || Uuid::from_u128(0xcc)))
                .map_err(|kind| format!("{} {kind}", kind.code()))
        };
        let opened = open("{}").unwrap();
        assert_eq!(opened.wallet.uuid(), Uuid::from_u128(0xcc));
        assert_eq!(
            (opened.currency.tag(), opened.overdraft_limit),
            (1, MinorUnits::ZERO)
        );
        let body =
            format!(r#"{{"wallet_id":"{A}","currency":"EUR-CBDC","overdraft_limit":"10.5"}}"#);
        let opened = open(&body).unwrap();
        assert_eq!(opened.wallet.uuid(), Uuid::from_u128(0xaa));
        assert_eq!(
            (opened.currency.tag(), opened.overdraft_limit.get()),
            (2, 1050)
        );
        for (body, error) in [
            (
                r#"{"overdraft_limit":-1}"#,
                "INVALID_WALLET overdraft_limit must not be negative",
            ),
            (
                r#"{"overdraft_limit":0.001}"#,
                "INVALID_WALLET overdraft_limit has too many decimals",
            ),
            (
                r#"{"overdraft_limit":"x"}"#,
                "INVALID_REQUEST overdraft_limit must be a decimal number",
            ),
            (
                r#"{"currency":"XXX"}"#,
                "INVALID_WALLET unknown currency \"XXX\"",
            ),
            (
                r#"{"wallet_id":7}"#,
                "INVALID_REQUEST wallet_id must be a UUID",
            ),
            (
                r#"{"wallet_id":"00000000-0000-0000-0000-000000000000"}"#,
                "INVALID_WALLET wallet_id must not be the nil UUID",
            ),
        ] {
            assert_eq!(open(body).unwrap_err(), error);
        }
    }

    #[test]
    fn a_change_of_status_takes_the_four_words_only() {
        let change = |body: &str| {
            let fields = json::read_object(body.as_bytes(), &STATUS_FIELDS).unwrap();
            with(|rules| status_change(&fields, rules))
                .map_err(|kind| format!("{} {kind}", kind.code()))
        };
        let full = change(r#"{"status":"reversed","user_id":"ann","details":{ "why": "x" }}"#);
        let expected = Amending {
            change: Some(Change::Reverse),
            user_id: Some("ann".into()),
            details: Some("{\"why\":\"x\"}".into()),
        };
        assert_eq!(full, Ok(expected));
        assert_eq!(change(r#"{"status":"pending"}"#).unwrap().change, None);
        let words = "INVALID_REQUEST status must be pending, completed, failed or reversed";
        assert_eq!(change(r#"{"status":"done"}"#).unwrap_err(), words);
        assert_eq!(
            change("{}").unwrap_err(),
            "INVALID_REQUEST status is required"
        );
        let long = format!(r#"{{"status":"failed","user_id":"{}"}}"#, "x".repeat(129));
        assert_eq!(
            change(&long).unwrap_err(),
            "USER_ID_TOO_LONG user_id is longer than 128 bytes"
        );
    }

    #[test]
    fn a_score_is_a_number_between_zero_and_one() {
        let score = |text: &str| {
            let body = format!("{{\"score\":{text}}}");
            let fields = json::read_object(body.as_bytes(), &SCORE_FIELDS).unwrap();
            with(|rules| score_change(&fields, rules))
                .ok()
                .and_then(|amending| amending.change)
        };
        let half = FraudScore::from_millionths(500_000).unwrap();
        assert_eq!(score("0.5"), Some(Change::Score(half)));
        for text in ["\"0.5\"", "1.1", "-0.1", "null", "{}", "1e400"] {
            assert_eq!(score(text), None, "{text}");
        }
    }
}
