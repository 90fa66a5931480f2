//! Money in and out: issuance and redemption (scope `issue`).

use super::error::{ApiError, ErrorKind};
use super::json::read_object;
use super::parse::{self, ISSUE_FIELDS};
use super::service::{Answer, Ask};
use super::transactions::created;
use crate::ledger::{Command, MovementRequest};

/// `POST /api/v1/issuances`.
pub(super) async fn issue(ask: &Ask<'_>, body: &[u8]) -> Answer {
    let request = read(ask, body)?;
    created(
        &ask.services()
            .ledger
            .submit(Command::Issue(request))
            .await?,
    )
}

/// `POST /api/v1/redemptions`.
pub(super) async fn redeem(ask: &Ask<'_>, body: &[u8]) -> Answer {
    let request = read(ask, body)?;
    created(
        &ask.services()
            .ledger
            .submit(Command::Redeem(request))
            .await?,
    )
}

fn read(ask: &Ask<'_>, body: &[u8]) -> Result<MovementRequest, ApiError> {
    let fields = read_object(body, &ISSUE_FIELDS).map_err(|error| ErrorKind::Shape(error.0))?;
    let request = parse::issue(&fields, ask.rules())?;
    // Either side names the wallet itself here.
    ask.check_wallet(request.to)?;
    Ok(request)
}
