//! `GET /api/v1/backup`: the journal as it stands, while it is read as fast as the client takes it.
//!
//! Pulled, not pushed: the next megabyte is read when the last one went to the socket. So there is no queue, no thread
//! waits for a slow client, and a client that goes away takes everything with it.

use super::answer::{Body, with_body};
use super::error::{ApiError, ErrorKind};
use super::service::{Answer, Ask};
use crate::journal::{BackupSource, ReadError};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, CONTENT_DISPOSITION, HeaderValue};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// One at a time: each keeps closed volumes open and the disk busy.
pub(super) const BACKUPS_MAX: usize = 1;

/// Answers with the stream; its end proves that it is whole.
pub(super) fn stream(ask: &Ask<'_>) -> Answer {
    if ask.caller.wallets.is_some() {
        let reason = "a backup holds every wallet; the token is bound to some";
        return Err(ErrorKind::Forbidden(reason).into());
    }
    let place = Arc::clone(&ask.state.backups).try_acquire_owned();
    let place = place.map_err(|_| ErrorKind::BackupRunning)?;
    let source = ask
        .services()
        .reader
        .backup()
        .map_err(|error| refused(&error))?;
    let caller: Box<str> = (*ask.caller.name).into();
    info!(%caller, "a backup was begun");
    let stream = BackupStream {
        _place: place,
        state: State::Idle(Box::new(source)),
        caller,
        sent_bytes: 0,
    };
    let media = HeaderValue::from_static("application/octet-stream");
    let mut response = with_body(StatusCode::OK, Body::from(stream), media);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let name = HeaderValue::from_static("attachment; filename=\"echopay.backup\"");
    headers.insert(CONTENT_DISPOSITION, name);
    Ok(response)
}

fn refused(error: &ReadError) -> ApiError {
    match error {
        ReadError::Archived { oldest } => ErrorKind::Archived { oldest: *oldest }.into(),
        ReadError::Unreadable { .. } => ErrorKind::StorageUnreadable.into(),
    }
}

/// A backup on its way to one client.
#[derive(Debug)]
pub struct BackupStream {
    _place: OwnedSemaphorePermit,
    state: State,
    caller: Box<str>,
    sent_bytes: usize,
}

type Read = (Box<BackupSource>, Result<Option<Vec<u8>>, ReadError>);

#[derive(Debug)]
enum State {
    Idle(Box<BackupSource>),
    Reading(JoinHandle<Read>),
    Ended,
}

/// The stream ends before its end: the connection is cut off, which no client takes for a whole backup.
#[derive(Debug, thiserror::Error)]
#[error("the backup cannot go on")]
pub struct BackupCut;

impl BackupStream {
    /// The next piece.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BackupCut>>> {
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::Idle(mut source) => {
                    let reading = tokio::task::spawn_blocking(move || {
                        let chunk = source.next_chunk();
                        (source, chunk)
                    });
                    self.state = State::Reading(reading);
                }
                State::Reading(mut reading) => match Pin::new(&mut reading).poll(cx) {
                    Poll::Pending => {
                        self.state = State::Reading(reading);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok((source, Ok(Some(chunk))))) => {
                        self.state = State::Idle(source);
                        self.sent_bytes = self.sent_bytes.saturating_add(chunk.len());
                        return Poll::Ready(Some(Ok(Frame::data(chunk.into()))));
                    }
                    Poll::Ready(Ok((_, Ok(None)))) => {
                        let (caller, sent_bytes) = (&self.caller, self.sent_bytes);
                        info!(%caller, sent_bytes, "a backup was given whole");
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Ok((_, Err(reason)))) => {
                        error!(%reason, caller = %self.caller, "a backup found the journal unreadable");
                        return Poll::Ready(Some(Err(BackupCut)));
                    }
                    Poll::Ready(Err(reason)) => {
                        error!(%reason, caller = %self.caller, "a backup was stopped");
                        return Poll::Ready(Some(Err(BackupCut)));
                    }
                },
            }
        }
    }

    /// Whether everything was given.
    pub(super) const fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }
}

/// Whose client went away, or whose process stops. An answer to HEAD was never begun.
impl Drop for BackupStream {
    fn drop(&mut self) {
        if !self.is_ended() && self.sent_bytes > 0 {
            let (caller, sent_bytes) = (&self.caller, self.sent_bytes);
            warn!(%caller, sent_bytes, "a backup was cut off before its end");
        }
    }
}
