//! The bytes between a connection and tungstenite: server frames made from queue items, and a pipe that lets tungstenite
//! read the socket without ever writing to it.

use crate::tracker::Item;
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// First byte of a whole text message (RFC 6455 §5.2: FIN, opcode 1).
const TEXT: u8 = 0x81;
/// A ping without a payload.
pub(super) const PING: Bytes = Bytes::from_static(&[0x89, 0]);

/// Appends the header of an unmasked text frame.
fn write_text_header(size_bytes: usize, out: &mut Vec<u8>) {
    out.push(TEXT);
    match (u8::try_from(size_bytes), u16::try_from(size_bytes)) {
        (Ok(short @ ..126), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(size_bytes as u64).to_be_bytes());
        }
    }
}

/// A text message as a frame.
pub(super) fn text_frame(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 4);
    write_text_header(text.len(), &mut out);
    out.extend_from_slice(text.as_bytes());
    out.into()
}

/// Appends a queue item as it goes to the socket.
pub(super) fn write_item(item: &Item, out: &mut Vec<u8>) {
    match item {
        Item::Own(bytes) => out.extend_from_slice(bytes),
        Item::Update {
            update,
            subscribers,
        } => {
            let ids = subscribers.as_slice();
            write_text_header(update.size_bytes(ids.len()), out);
            update.write(ids, out);
        }
    }
}

/// What tungstenite takes for the socket: reads come from it, writes (pongs and close frames, always whole) are collected
/// for the connection's queue. So two writers can never tear a frame.
pub(super) struct Pipe<'p, 'c, S> {
    pub(super) io: Pin<&'p mut S>,
    pub(super) cx: &'p mut Context<'c>,
    pub(super) written: &'p mut Vec<u8>,
}

impl<S: AsyncRead> Read for Pipe<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match self.io.as_mut().poll_read(self.cx, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S> Write for Pipe<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_headers_have_the_three_lengths_of_the_protocol() {
        for (size, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            write_text_header(size, &mut out);
            assert_eq!(out, header);
        }
    }
}
