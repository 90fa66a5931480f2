//! A service that forgets some payments that it has acknowledged: a proxy before a real one, which makes up answers.

use crate::support::http::TRANSACTIONS;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Of a connection's payments, each so many is a lie.
const LIE_EVERY: usize = 10;

/// Runs until it is dropped.
pub(super) struct Proxy {
    address: SocketAddr,
    lies: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl Proxy {
    pub(super) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lies = Arc::new(AtomicU64::new(0));
        let mut serving = JoinSet::new();
        let counted = Arc::clone(&lies);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let lies = Arc::clone(&counted);
                connections.spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    // Ends with either side's connection.
                    let _ended = forward(client, server, &lies).await;
                });
            }
        });
        Self {
            address,
            lies,
            _serving: serving,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn lies(&self) -> u64 {
        self.lies.load(Ordering::Relaxed)
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    lies: &AtomicU64,
) -> std::io::Result<()> {
    let mut payments = 0;
    let mut last_answer = Vec::new();
    let payment = format!("POST {TRANSACTIONS} ");
    loop {
        let request = message(&mut client).await?;
        let is_payment = request.starts_with(payment.as_bytes());
        payments += usize::from(is_payment);
        if is_payment && payments.is_multiple_of(LIE_EVERY) && !last_answer.is_empty() {
            lies.fetch_add(1, Ordering::Relaxed);
            client.write_all(&last_answer).await?;
            continue;
        }
        server.write_all(&request).await?;
        let answer = message(&mut server).await?;
        client.write_all(&answer).await?;
        if is_payment {
            last_answer = answer;
        }
    }
}

/// A head and as much body as it says.
async fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut whole = usize::MAX;
    while bytes.len() < whole {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let head_bytes = head.len() + 4;
            let length = head.to_lowercase();
            let length = length.split_once("content-length: ");
            let length = length.and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
            whole = head_bytes + length.unwrap_or(0);
        }
    }
    Ok(bytes)
}
