//! Why a connection ends: the close codes (RFC 6455 §7.4; 4000 and up are ours).

use crate::types::Sequence;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Why the service ends a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Close {
    /// 1002: the client broke the protocol.
    Protocol,
    /// 1007: a text message that is not UTF-8.
    NotUtf8,
    /// 1009: a message above the limit.
    TooBig,
    /// 1012: the service stops; come back and resume.
    Restart { resume_after: Sequence },
    /// 4008: the client did not keep up and its queue passed the bound; come back and resume.
    TooSlow { resume_after: Sequence },
    /// 4401: nobody knows this token, or none came in time.
    Unauthenticated,
    /// 4403: the token does not allow to read.
    Forbidden,
}

/// What metrics count when the client closed without a code (RFC 6455 §7.1.5).
pub(super) const NO_CODE: u16 = 1005;
/// What metrics count when a connection broke or was dropped (RFC 6455 §7.1.5).
pub(super) const ABNORMAL: u16 = 1006;

impl Close {
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig => 1009,
            Self::Restart { .. } => 1012,
            Self::TooSlow { .. } => 4008,
            Self::Unauthenticated => 4401,
            Self::Forbidden => 4403,
        }
    }

    /// At most 123 bytes, as RFC 6455 §5.5 has it.
    fn reason(self) -> Utf8Bytes {
        match self {
            Self::Protocol => Utf8Bytes::from_static("protocol error"),
            Self::NotUtf8 => Utf8Bytes::from_static("text is not UTF-8"),
            Self::TooBig => Utf8Bytes::from_static("message too big"),
            Self::Restart { resume_after } | Self::TooSlow { resume_after } => {
                format!("{{\"resume_after\":{resume_after}}}").into()
            }
            Self::Unauthenticated => Utf8Bytes::from_static("authentication required"),
            Self::Forbidden => Utf8Bytes::from_static("the token lacks the scope read"),
        }
    }

    pub(super) fn frame(self) -> CloseFrame {
        CloseFrame {
            code: self.code().into(),
            reason: self.reason(),
        }
    }
}
