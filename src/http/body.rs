//! Request bodies: type, length, size and time, checked before anyone reads JSON.

use super::config::Config;
use super::deadline::{Deadline, Late};
use super::error::ErrorKind;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Version};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Checks what the head tells about the body, before a byte of it is asked for.
pub(super) fn check_head(
    parts: &Parts,
    declared_bytes: Option<u64>,
    bytes_max: usize,
) -> Result<(), ErrorKind> {
    let headers = &parts.headers;
    if !is_json(headers) {
        return Err(ErrorKind::UnsupportedMediaType);
    }
    // In HTTP/2 every body has an end without a word about it.
    let tells_end = parts.version == Version::HTTP_2
        || headers.contains_key(CONTENT_LENGTH)
        || headers.contains_key(TRANSFER_ENCODING);
    if !tells_end {
        return Err(ErrorKind::LengthRequired);
    }
    let fits = |declared| usize::try_from(declared).is_ok_and(|bytes| bytes <= bytes_max);
    if declared_bytes.is_none_or(fits) {
        Ok(())
    } else {
        Err(ErrorKind::BodyTooLarge { bytes_max })
    }
}

/// Reads the whole body: at most `bytes_max`, within `patience`. A body that came in one piece is not copied.
pub(super) async fn read(
    body: &mut Incoming,
    bytes_max: usize,
    deadline: &Deadline,
    patience: Duration,
) -> Result<Bytes, ErrorKind> {
    match deadline.bound(patience, collect(body, bytes_max)).await {
        Ok(read) => read,
        Err(Late) => Err(ErrorKind::BodyTimeout),
    }
}

async fn collect(body: &mut Incoming, bytes_max: usize) -> Result<Bytes, ErrorKind> {
    let mut whole = Bytes::new();
    let mut grown: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(ErrorKind::BodyIncomplete);
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let so_far = grown.as_ref().map_or(whole.len(), BytesMut::len);
        if so_far.saturating_add(data.len()) > bytes_max {
            return Err(ErrorKind::BodyTooLarge { bytes_max });
        }
        match &mut grown {
            Some(grown) => grown.extend_from_slice(&data),
            None if whole.is_empty() => whole = data,
            None => {
                let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
                let room = announced.saturating_add(so_far).saturating_add(data.len());
                let mut buffer = BytesMut::with_capacity(room.min(bytes_max));
                buffer.extend_from_slice(&whole);
                buffer.extend_from_slice(&data);
                grown = Some(buffer);
            }
        }
    }
    Ok(grown.map_or(whole, BytesMut::freeze))
}

/// Reads what is left of a refused body and forgets it, within bounds.
///
/// Why: a socket closed over unread bytes is reset, and the reset overtakes the refusal on its way to the client (RFC
/// 9112 §9.6).
pub(super) async fn discard(parts: &Parts, body: &mut Incoming, config: &Config) {
    // Who waits for `100 Continue` has sent nothing, and reading would ask for it.
    let waits = parts.headers.contains_key(EXPECT);
    // In HTTP/2 a stream is ended without the connection.
    if waits || body.is_end_stream() || parts.version == Version::HTTP_2 {
        return;
    }
    let all = async {
        let mut left = config.refused_body_bytes_max;
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Who sends more, or slower, does without the answer.
    let _late = tokio::time::timeout(config.refused_body_timeout, all).await;
}

/// `application/json`, with whatever parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = value
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Memory that a batch was given, until it is dropped.
pub(super) type Memory = OwnedSemaphorePermit;

/// Gives back what a body did not need that did not say how long it would be.
pub(super) fn give_back_surplus(memory: &mut Memory, length_bytes: usize) {
    let needed = length_bytes.div_ceil(1 << 10);
    drop(memory.split(memory.num_permits().saturating_sub(needed)));
}

/// Memory for large bodies, handed out in KiB before they are read.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget {
    kib: Arc<Semaphore>,
}

impl BodyBudget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            kib: Arc::new(Semaphore::new(
                (bytes_max >> 10).min(Semaphore::MAX_PERMITS),
            )),
        }
    }

    /// Memory for a body of `declared_bytes` (`bytes_max` when it does not say), given back by dropping it.
    pub(super) fn reserve(
        &self,
        declared_bytes: Option<u64>,
        bytes_max: usize,
    ) -> Result<Memory, ErrorKind> {
        let declared = declared_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let kib = declared
            .unwrap_or(bytes_max)
            .min(bytes_max)
            .div_ceil(1 << 10);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        Arc::clone(&self.kib)
            .try_acquire_many_owned(kib)
            .map_err(|_| ErrorKind::BatchMemory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;

    fn head(version: Version, pairs: &[(HeaderName, &str)]) -> Parts {
        let mut request = hyper::Request::new(());
        *request.version_mut() = version;
        request.headers_mut().extend(
            pairs
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().unwrap())),
        );
        request.into_parts().0
    }

    #[test]
    fn the_head_is_judged_before_the_body_is_read() {
        let length = (CONTENT_LENGTH, "7");
        for (pairs, declared, expected) in [
            (
                vec![(CONTENT_TYPE, "application/json"), length.clone()],
                Some(7),
                Ok(()),
            ),
            (
                vec![
                    (CONTENT_TYPE, "Application/JSON; charset=utf-8"),
                    length.clone(),
                ],
                Some(7),
                Ok(()),
            ),
            (
                vec![
                    (CONTENT_TYPE, "application/json"),
                    (TRANSFER_ENCODING, "chunked"),
                ],
                None,
                Ok(()),
            ),
            (
                vec![(CONTENT_TYPE, "text/plain"), length.clone()],
                Some(7),
                Err(ErrorKind::UnsupportedMediaType),
            ),
            (
                vec![(CONTENT_TYPE, "application/jsonp"), length.clone()],
                Some(7),
                Err(ErrorKind::UnsupportedMediaType),
            ),
            (
                vec![length.clone()],
                Some(7),
                Err(ErrorKind::UnsupportedMediaType),
            ),
            (
                vec![(CONTENT_TYPE, "application/json")],
                Some(0),
                Err(ErrorKind::LengthRequired),
            ),
            (
                vec![(CONTENT_TYPE, "application/json"), (CONTENT_LENGTH, "11")],
                Some(11),
                Err(ErrorKind::BodyTooLarge { bytes_max: 10 }),
            ),
        ] {
            assert_eq!(
                check_head(&head(Version::HTTP_11, &pairs), declared, 10),
                expected,
                "{pairs:?}"
            );
        }
        let pairs = [(CONTENT_TYPE, "application/json")];
        let checked = check_head(&head(Version::HTTP_2, &pairs), None, 10);
        assert_eq!(checked, Ok(()), "a stream ends by itself");
    }

    #[test]
    fn memory_for_bodies_is_given_out_once_and_comes_back() {
        let budget = BodyBudget::new(8 << 10);
        let mut unknown = budget.reserve(None, 8 << 10).unwrap();
        give_back_surplus(&mut unknown, 300);
        let rest = budget.reserve(Some(7 << 10), 8 << 10);
        assert!(rest.is_ok(), "what was not needed is there again");
        drop((unknown, rest));

        let large = budget.reserve(Some(5 << 10), 16 << 10).unwrap();
        assert_eq!(
            budget.reserve(None, 4 << 10).unwrap_err(),
            ErrorKind::BatchMemory
        );
        let small = budget.reserve(Some(3 << 10), 16 << 10).unwrap();
        assert!(budget.reserve(Some(1), 16 << 10).is_err());
        drop((large, small));
        assert!(budget.reserve(None, 8 << 10).is_ok());
    }
}
