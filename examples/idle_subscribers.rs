//! Subscribers that hear nothing: what does it cost the payments that they are there?
//!
//! `cargo run --release --example idle_subscribers -- 127.0.0.1:8001 1000`
//!
//! Each has a WebSocket connection and a subscription to a wallet of its own that nobody uses. Prints `ready` once all
//! are subscribed, then answers pings until it is killed.

#![expect(clippy::print_stdout, reason = "printing is what an example does")]

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::error::Error;
use tokio::task::JoinSet;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("usage: idle_subscribers ADDRESS:PORT COUNT".into());
    };
    let url = format!("ws://{address}/ws/transactions");
    let mut subscribers = JoinSet::new();
    for number in 0..count.parse::<u128>()? {
        let (mut socket, _) = connect_async(&url).await?;
        // Far from the numbers that `echopay bench` gives its wallets.
        let wallet = Uuid::from_u128((0xffff_0000_0000_0000 + number) << 64 | 1 << 63 | 1);
        let subscribe = json!({"type": "subscribe", "wallet_ids": [wallet]});
        socket.send(Message::text(subscribe.to_string())).await?;
        let answer = socket.next().await.ok_or("the connection ended")??;
        if !answer.to_text()?.contains("\"subscribed\"") {
            return Err(format!("not subscribed: {answer}").into());
        }
        // Reading is what answers pings.
        subscribers.spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
    }
    println!("ready");
    while subscribers.join_next().await.is_some() {}
    Err("all connections ended".into())
}
