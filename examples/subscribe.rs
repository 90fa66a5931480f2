//! Hears status updates of an `echopay` and prints one line for each.
//!
//! `cargo run --example subscribe -- ws://127.0.0.1:8001/ws/transactions [wallet id]`
//!
//! It keeps the sequence of the last update it heard. When the connection ends, whatever the reason, it comes back and
//! goes on behind that sequence: nothing is missed and nothing is told twice.

#![expect(clippy::print_stdout, reason = "printing is what this example does")]

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::error::Error;
use std::time::Duration;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .unwrap_or_else(|| "ws://127.0.0.1:8001/ws/transactions".to_owned());
    let wallet = arguments.next();
    let mut place: Option<Place> = None;
    loop {
        match listen(&url, wallet.as_deref(), &mut place).await {
            Ok(Ended::Closed) => {}
            Ok(Ended::ResyncRequired) => place = None,
            Err(error) if place.is_none() => return Err(error),
            Err(error) => println!("lost the connection: {error}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Where this client has come to, and in which journal.
struct Place {
    journal: Value,
    sequence: u64,
}

enum Ended {
    /// Come back and go on.
    Closed,
    /// The place means nothing to this server: start anew.
    ResyncRequired,
}

async fn listen(
    url: &str,
    wallet: Option<&str>,
    place: &mut Option<Place>,
) -> Result<Ended, Box<dyn Error>> {
    let (mut socket, _) = connect_async(url).await?;
    let mut subscribe = json!({"type": "subscribe"});
    if let Some(wallet) = wallet {
        subscribe["wallet_ids"] = json!([wallet]);
    }
    if let Some(place) = place.as_ref() {
        subscribe["after_sequence"] = json!(place.sequence);
        subscribe["journal"] = place.journal.clone();
    }
    socket.send(Message::text(subscribe.to_string())).await?;

    while let Some(message) = socket.next().await {
        let text = match message? {
            Message::Text(text) => text,
            Message::Close(frame) => {
                println!("closed: {frame:?}");
                continue;
            }
            // Pings are answered by the library.
            _ => continue,
        };
        let message: Value = serde_json::from_str(&text)?;
        let sequence = message["sequence"].as_u64();
        match (message["type"].as_str(), sequence) {
            (Some("subscribed"), Some(sequence)) => {
                println!("listening from behind sequence {sequence}");
                *place = Some(Place {
                    journal: message["journal"].clone(),
                    sequence,
                });
            }
            (Some("status_update"), Some(sequence)) => {
                let data = &message["data"];
                println!(
                    "{sequence} {} {} {}",
                    data["transaction_id"], data["status"], data["message"]
                );
                advance(place, sequence);
            }
            // Nothing that matched came, but we need not look there again.
            (Some("position"), Some(sequence)) => advance(place, sequence),
            (Some("error"), _) if message["resync_required"] == true => {
                println!("must start anew: {message}");
                return Ok(Ended::ResyncRequired);
            }
            _ => println!("{message}"),
        }
    }
    Ok(Ended::Closed)
}

fn advance(place: &mut Option<Place>, sequence: u64) {
    if let Some(place) = place {
        place.sequence = place.sequence.max(sequence);
    }
}
