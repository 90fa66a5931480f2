//! What a client's messages do. Everything it answers goes into the connection's queue.

use super::close::Close;
use super::endpoint::Service;
use super::protocol::{ClientMessage, ServerMessage, Subscribe};
use super::wire::text_frame;
use crate::auth::{Caller, Scope};
use crate::tracker::{CatchUp, Outbox, Subscriber};
use crate::types::WalletId;
use std::collections::VecDeque;
use std::sync::Arc;
use uuid::Uuid;

/// One client's conversation.
#[derive(Debug)]
pub(super) struct Session {
    service: Arc<Service>,
    pub(super) subscriber: Subscriber,
    /// `None` until the client has said who it is.
    caller: Option<Caller>,
    /// Subscriptions that read the journal; the first one's turn. One after the other bounds what a connection reads.
    pub(super) catch_ups: VecDeque<CatchUp>,
}

impl Session {
    /// Of `caller`, when HTTP knew already who asks.
    pub(super) fn new(service: Arc<Service>, caller: Option<Caller>) -> Self {
        let visible = caller.as_ref().and_then(|caller| caller.wallets.clone());
        let subscriber = service.tracker.connect(visible);
        Self {
            service,
            subscriber,
            caller,
            catch_ups: VecDeque::new(),
        }
    }

    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        self.subscriber.outbox()
    }

    /// Whether the client has yet to say who it is.
    pub(super) fn is_anonymous(&self) -> bool {
        self.caller.is_none()
    }

    /// Queues a message.
    pub(super) fn say(&self, message: &ServerMessage<'_>) {
        self.outbox()
            .push(text_frame(&message.to_json(self.service.clock.now())));
    }

    pub(super) fn say_error(&self, message: &str) {
        self.say(&ServerMessage::Error { message });
    }

    /// Does what a text message asks for.
    ///
    /// # Errors
    /// The connection has to end.
    pub(super) fn on_text(&mut self, text: &str) -> Result<(), Close> {
        let message = ClientMessage::parse(text);
        if self.is_anonymous() {
            return match message {
                Ok(ClientMessage::Authenticate { token }) => self.authenticate(&token),
                _ => Err(Close::Unauthenticated),
            };
        }
        match message {
            Ok(ClientMessage::Subscribe(subscribe)) => self.subscribe(&subscribe),
            Ok(ClientMessage::Unsubscribe { subscriber_id }) => self.unsubscribe(subscriber_id),
            Ok(ClientMessage::Ping) => self.say(&ServerMessage::Pong),
            Ok(ClientMessage::Authenticate { .. }) => self.say_error("already authenticated"),
            Err(error) => self.say_error(&error.to_string()),
        }
        Ok(())
    }

    fn authenticate(&mut self, token: &str) -> Result<(), Close> {
        let caller = (self.service.authenticate)(token).ok_or(Close::Unauthenticated)?;
        if !caller.has(Scope::Read) {
            return Err(Close::Forbidden);
        }
        self.subscriber.restrict(caller.wallets.clone());
        self.caller = Some(caller);
        self.say(&ServerMessage::Authenticated);
        Ok(())
    }

    fn subscribe(&mut self, asked: &Subscribe) {
        let config = &self.service.config;
        if self.subscriber.count() >= config.subscriptions_max {
            let most = config.subscriptions_max;
            return self.say_error(&format!(
                "too many subscriptions: at most {most} a connection"
            ));
        }
        if asked.ids > config.filter_ids_max {
            let most = config.filter_ids_max;
            return self.say_error(&format!("too many ids: at most {most} a subscription"));
        }
        if let Some(wallet) = asked
            .filter
            .wallets()
            .iter()
            .find(|wallet| !self.may_see(**wallet))
        {
            return self.say_error(&format!("wallet {wallet} is not visible to this token"));
        }
        let history = &self.service.history;
        let journal = history.journal();
        if let Some(message) = self.unreachable(asked, &journal) {
            let oldest = history.oldest();
            let journal = &journal;
            return self.say(&ServerMessage::ResyncRequired {
                message,
                journal,
                oldest,
            });
        }
        let now = self.service.clock.now();
        let filter = &asked.filter;
        let subscribed = |id, sequence| {
            let message = ServerMessage::Subscribed {
                id,
                filter,
                journal: &journal,
                sequence,
            };
            text_frame(&message.to_json(now))
        };
        match asked.after_sequence {
            None => {
                self.subscriber.subscribe(filter.clone(), subscribed);
            }
            Some(after) => {
                let announce = |id| subscribed(id, after);
                let catch_up = self
                    .subscriber
                    .subscribe_after(filter.clone(), after, announce);
                self.catch_ups.push_back(catch_up);
            }
        }
    }

    /// Why this journal cannot be resumed where the client asks.
    fn unreachable(&self, asked: &Subscribe, journal: &str) -> Option<&'static str> {
        let history = &self.service.history;
        // A client of the journal before a restore goes on, if it heard of nothing that the restored one lacks.
        let is_ours = |theirs: &String| {
            let shared = |after| history.has(theirs, after);
            theirs == journal || asked.after_sequence.is_some_and(shared)
        };
        if !asked.journal.as_ref().is_none_or(is_ours) {
            return Some("another journal: its sequences mean nothing here");
        }
        let after = asked.after_sequence?;
        if after > history.durable() {
            Some("after_sequence lies beyond the journal's end")
        } else if after.next() < history.oldest() {
            Some("after_sequence lies before the oldest sequence")
        } else {
            None
        }
    }

    fn may_see(&self, wallet: WalletId) -> bool {
        self.caller
            .as_ref()
            .is_some_and(|caller| caller.may_see(wallet))
    }

    fn unsubscribe(&mut self, id: Option<Uuid>) {
        match id {
            None => {
                self.subscriber.unsubscribe_all();
                self.catch_ups.clear();
            }
            Some(id) => {
                if !self.subscriber.unsubscribe(id) {
                    return self.say_error("unknown subscriber_id");
                }
                self.catch_ups.retain(|catch_up| catch_up.id() != id);
            }
        }
        self.say(&ServerMessage::Unsubscribed);
    }

    /// Ends a subscription that could not read on.
    pub(super) fn give_up(&mut self, catch_up: &CatchUp, message: &str) {
        self.subscriber.unsubscribe(catch_up.id());
        let history = &self.service.history;
        let (journal, oldest) = (history.journal(), history.oldest());
        self.say(&ServerMessage::ResyncRequired {
            message,
            journal: &journal,
            oldest,
        });
    }

    /// Ends all subscriptions: nothing is worth queueing any more.
    pub(super) fn end(&mut self) {
        self.subscriber.unsubscribe_all();
        self.catch_ups.clear();
    }
}
