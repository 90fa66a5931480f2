//! A WebSocket client that waits with deadlines.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper that cannot go on fails the test"
)]

use crate::support::server::{DEADLINE, Response, TestServer};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// A status update, as far as the tests look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Update {
    pub(crate) sequence: u64,
    pub(crate) transaction: String,
    pub(crate) status: String,
    pub(crate) message: String,
    pub(crate) subscribers: Vec<String>,
}

impl From<&Value> for Update {
    fn from(message: &Value) -> Self {
        assert_eq!(message["type"], "status_update", "{message}");
        let text = |field: &str| message["data"][field].as_str().unwrap().to_owned();
        let ids = message["subscriber_ids"].as_array().unwrap();
        Self {
            sequence: message["sequence"].as_u64().unwrap(),
            transaction: text("transaction_id"),
            status: text("status"),
            message: text("message"),
            subscribers: ids
                .iter()
                .map(|id| id.as_str().unwrap().to_owned())
                .collect(),
        }
    }
}

/// How a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Closed {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

impl Closed {
    /// The sequence in the reason.
    #[track_caller]
    pub(crate) fn resume_after(&self) -> u64 {
        let reason: Value = serde_json::from_str(&self.reason).expect("the reason is JSON");
        reason["resume_after"]
            .as_u64()
            .expect("it tells where to resume")
    }
}

/// All that came over a connection until it ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) updates: Vec<Update>,
    /// The last position that was told with a keep-alive.
    pub(crate) position: Option<u64>,
    /// The close frame, if one came.
    pub(crate) closed: Option<Closed>,
}

/// A connection to `/ws/transactions`.
#[derive(Debug)]
pub(crate) struct WsClient {
    socket: WebSocketStream<TcpStream>,
}

impl WsClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::handshake(TcpStream::connect(address).await.unwrap(), address).await
    }

    /// One whose kernel takes few bytes ahead of whoever reads.
    pub(crate) async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::handshake(socket.connect(address).await.unwrap(), address).await
    }

    async fn handshake(stream: TcpStream, address: SocketAddr) -> Self {
        let url = format!("ws://{address}/ws/transactions");
        let shaken = tokio::time::timeout(DEADLINE, client_async(url, stream)).await;
        Self {
            socket: shaken
                .expect("an answer comes in time")
                .expect("the upgrade succeeds")
                .0,
        }
    }

    pub(crate) async fn say(&mut self, message: &Value) {
        self.say_raw(Message::text(message.to_string())).await;
    }

    pub(crate) async fn say_raw(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    pub(crate) async fn hear_raw(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(DEADLINE, self.socket.next())
            .await
            .expect("something is heard in time")
    }

    /// The next text message.
    pub(crate) async fn hear(&mut self) -> Value {
        loop {
            match self
                .hear_raw()
                .await
                .expect("the connection is open")
                .unwrap()
            {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("heard {other:?}"),
            }
        }
    }

    /// The next text message, which must be an update.
    pub(crate) async fn hear_update(&mut self) -> Update {
        Update::from(&self.hear().await)
    }

    pub(crate) async fn hear_updates(&mut self, count: usize) -> Vec<Update> {
        let mut updates = Vec::new();
        while updates.len() < count {
            updates.push(self.hear_update().await);
        }
        updates
    }

    /// Subscribes; gives the answer.
    pub(crate) async fn subscribe(&mut self, fields: Value) -> Value {
        let mut message = json!({"type": "subscribe"});
        message
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        self.say(&message).await;
        self.hear().await
    }

    /// Like [`WsClient::subscribe`], and it must succeed; gives the subscription's id.
    pub(crate) async fn subscribed(&mut self, fields: Value) -> String {
        let answer = self.subscribe(fields).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        answer["data"]["subscriber_id"].as_str().unwrap().to_owned()
    }

    /// Reads until the connection ends; gives the updates before that and the close frame, if one came.
    pub(crate) async fn hear_end(&mut self) -> (Vec<Update>, Option<Closed>) {
        let heard = self.hear_all().await;
        assert_eq!(heard.position, None, "nobody asked for positions");
        (heard.updates, heard.closed)
    }

    /// Reads until the connection ends, however it does.
    pub(crate) async fn hear_all(&mut self) -> Heard {
        let mut heard = Heard::default();
        while let Some(Ok(message)) = self.hear_raw().await {
            match message {
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if message["type"] == "position" {
                        heard.position = message["sequence"].as_u64();
                    } else {
                        heard.updates.push(Update::from(&message));
                    }
                }
                Message::Close(frame) => {
                    heard.closed = frame.map(|frame| Closed {
                        code: frame.code.into(),
                        reason: frame.reason.as_str().to_owned(),
                    });
                }
                _ => {}
            }
        }
        heard
    }
}

/// Body of a transfer of one unit.
pub(crate) fn transfer_body(from: &str, to: &str) -> String {
    json!({"from_wallet": from, "to_wallet": to, "amount": 1, "currency": "USD-CBDC"}).to_string()
}

/// A wallet's id: the same for the same number.
pub(crate) fn wallet(number: u32) -> String {
    format!("6f0c4a52-1d3e-4b5a-9c7d-{number:012}")
}

/// Transfers one unit; gives the answer. In `dev` the first transfer of a wallet opens it, which is heard of too: tests
/// that count updates make one before they subscribe.
pub(crate) async fn transfer(server: &TestServer, from: &str, to: &str) -> Value {
    let response: Response = server
        .post_json("/api/v1/transactions", &transfer_body(from, to))
        .await;
    assert_eq!(response.status, 201, "{}", response.body);
    response.json()
}
