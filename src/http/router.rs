//! Which resource a path names, and what it takes. Pure: knows no handler.

use crate::auth::Scope;
use hyper::Method;

/// What a path names, with the ids in it as they were sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Resource<'p> {
    Health,
    Livez,
    Readyz,
    Metrics,
    Transactions,
    Batch,
    PendingTransactions,
    Transaction(&'p str),
    TransactionStatus(&'p str),
    TransactionFraudScore(&'p str),
    Wallets,
    WalletTransactions(&'p str),
    WalletBalance(&'p str),
    WalletStats(&'p str),
    Issuances,
    Redemptions,
    Events,
    Quarantine,
    Backup,
    Sequence,
    ServiceMetrics,
    WebSocketInfo,
    WebSocket,
}

/// The one method of a resource. `GET` serves `HEAD` too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Get,
    Post,
    Patch,
}

impl Verb {
    /// Whether `method` asks for it.
    pub(super) fn takes(self, method: &Method) -> bool {
        match self {
            Self::Get => method == Method::GET || method == Method::HEAD,
            Self::Post => method == Method::POST,
            Self::Patch => method == Method::PATCH,
        }
    }

    /// The value of `Allow`.
    pub(super) const fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD, OPTIONS",
            Self::Post => "POST, OPTIONS",
            Self::Patch => "PATCH, OPTIONS",
        }
    }
}

impl<'p> Resource<'p> {
    /// The resource at `path` (without a query); `None` where there is nothing.
    pub(super) fn at(path: &'p str) -> Option<Self> {
        let Some(api_path) = path.strip_prefix("/api/v1/") else {
            return match path {
                "/health" => Some(Self::Health),
                "/livez" => Some(Self::Livez),
                "/readyz" => Some(Self::Readyz),
                "/metrics" => Some(Self::Metrics),
                "/ws/transactions" => Some(Self::WebSocket),
                _ => None,
            };
        };
        let mut parts = api_path.split('/');
        let segments = (parts.next()?, parts.next(), parts.next());
        if parts.next().is_some() {
            return None;
        }
        match segments {
            ("transactions", None, None) => Some(Self::Transactions),
            ("transactions", Some("batch"), None) => Some(Self::Batch),
            ("transactions", Some("pending"), None) => Some(Self::PendingTransactions),
            ("transactions", Some(id), None) => Some(Self::Transaction(id)),
            ("transactions", Some(id), Some("status")) => Some(Self::TransactionStatus(id)),
            ("transactions", Some(id), Some("fraud-score")) => {
                Some(Self::TransactionFraudScore(id))
            }
            ("wallets", None, None) => Some(Self::Wallets),
            ("wallets", Some(id), Some("transactions")) => Some(Self::WalletTransactions(id)),
            ("wallets", Some(id), Some("balance")) => Some(Self::WalletBalance(id)),
            ("wallets", Some(id), Some("stats")) => Some(Self::WalletStats(id)),
            ("issuances", None, None) => Some(Self::Issuances),
            ("redemptions", None, None) => Some(Self::Redemptions),
            ("events", None, None) => Some(Self::Events),
            ("events", Some("quarantine"), None) => Some(Self::Quarantine),
            ("backup", None, None) => Some(Self::Backup),
            ("sequence", None, None) => Some(Self::Sequence),
            ("metrics", Some("service"), None) => Some(Self::ServiceMetrics),
            ("ws", Some("info"), None) => Some(Self::WebSocketInfo),
            _ => None,
        }
    }

    /// The pattern of its path: what metrics are labelled with.
    pub(super) const fn pattern(self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Transactions => "/api/v1/transactions",
            Self::Batch => "/api/v1/transactions/batch",
            Self::PendingTransactions => "/api/v1/transactions/pending",
            Self::Transaction(_) => "/api/v1/transactions/{id}",
            Self::TransactionStatus(_) => "/api/v1/transactions/{id}/status",
            Self::TransactionFraudScore(_) => "/api/v1/transactions/{id}/fraud-score",
            Self::Wallets => "/api/v1/wallets",
            Self::WalletTransactions(_) => "/api/v1/wallets/{id}/transactions",
            Self::WalletBalance(_) => "/api/v1/wallets/{id}/balance",
            Self::WalletStats(_) => "/api/v1/wallets/{id}/stats",
            Self::Issuances => "/api/v1/issuances",
            Self::Redemptions => "/api/v1/redemptions",
            Self::Events => "/api/v1/events",
            Self::Quarantine => "/api/v1/events/quarantine",
            Self::Backup => "/api/v1/backup",
            Self::Sequence => "/api/v1/sequence",
            Self::ServiceMetrics => "/api/v1/metrics/service",
            Self::WebSocketInfo => "/api/v1/ws/info",
            Self::WebSocket => "/ws/transactions",
        }
    }

    /// The method it takes.
    pub(super) const fn verb(self) -> Verb {
        match self {
            Self::Transactions
            | Self::Batch
            | Self::Wallets
            | Self::Issuances
            | Self::Redemptions => Verb::Post,
            Self::TransactionStatus(_) | Self::TransactionFraudScore(_) => Verb::Patch,
            Self::Health
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::PendingTransactions
            | Self::Transaction(_)
            | Self::WalletTransactions(_)
            | Self::WalletBalance(_)
            | Self::WalletStats(_)
            | Self::Events
            | Self::Quarantine
            | Self::Backup
            | Self::Sequence
            | Self::ServiceMetrics
            | Self::WebSocketInfo
            | Self::WebSocket => Verb::Get,
        }
    }

    /// The scope a caller needs; `None` for the probes, which ask nobody.
    pub(super) const fn scope(self) -> Option<Scope> {
        match self {
            Self::Health | Self::Livez | Self::Readyz => None,
            Self::Issuances | Self::Redemptions => Some(Scope::Issue),
            Self::Quarantine | Self::Backup => Some(Scope::Admin),
            Self::Transactions
            | Self::Batch
            | Self::Wallets
            | Self::TransactionStatus(_)
            | Self::TransactionFraudScore(_) => Some(Scope::Write),
            Self::Metrics
            | Self::PendingTransactions
            | Self::Transaction(_)
            | Self::WalletTransactions(_)
            | Self::WalletBalance(_)
            | Self::WalletStats(_)
            | Self::Events
            | Self::Sequence
            | Self::ServiceMetrics
            | Self::WebSocketInfo
            | Self::WebSocket => Some(Scope::Read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_of_the_contract_leads_to_its_resource() {
        for (path, resource) in [
            ("/health", Resource::Health),
            ("/livez", Resource::Livez),
            ("/readyz", Resource::Readyz),
            ("/metrics", Resource::Metrics),
            ("/ws/transactions", Resource::WebSocket),
            ("/api/v1/transactions", Resource::Transactions),
            ("/api/v1/transactions/batch", Resource::Batch),
            (
                "/api/v1/transactions/pending",
                Resource::PendingTransactions,
            ),
            ("/api/v1/transactions/7", Resource::Transaction("7")),
            (
                "/api/v1/transactions/7/status",
                Resource::TransactionStatus("7"),
            ),
            (
                "/api/v1/transactions/7/fraud-score",
                Resource::TransactionFraudScore("7"),
            ),
            ("/api/v1/wallets", Resource::Wallets),
            (
                "/api/v1/wallets/7/transactions",
                Resource::WalletTransactions("7"),
            ),
            ("/api/v1/wallets/7/balance", Resource::WalletBalance("7")),
            ("/api/v1/wallets/7/stats", Resource::WalletStats("7")),
            ("/api/v1/issuances", Resource::Issuances),
            ("/api/v1/redemptions", Resource::Redemptions),
            ("/api/v1/events", Resource::Events),
            ("/api/v1/events/quarantine", Resource::Quarantine),
            ("/api/v1/backup", Resource::Backup),
            ("/api/v1/sequence", Resource::Sequence),
            ("/api/v1/metrics/service", Resource::ServiceMetrics),
            ("/api/v1/ws/info", Resource::WebSocketInfo),
        ] {
            assert_eq!(Resource::at(path), Some(resource), "{path}");
            assert_eq!(resource.pattern().replace("{id}", "7"), path);
        }
    }

    #[test]
    fn other_paths_lead_nowhere() {
        for path in [
            "",
            "/",
            "*",
            "/health/",
            "/api/v1",
            "/api/v1/",
            "/api/v1/transactions/",
            "/api/v1/transactions/7/",
            "/api/v1/transactions/7/status/x",
            "/api/v1/transactions/7/colour",
            "/api/v1/wallets/7",
            "/api/v2/transactions",
            "//api/v1/transactions",
        ] {
            let found = Resource::at(path);
            // Why: an empty id reads as an id, and is refused as one.
            assert!(
                matches!(found, None | Some(Resource::Transaction(""))),
                "{path}: {found:?}"
            );
        }
    }

    #[test]
    fn a_get_serves_head_and_nothing_else() {
        assert!(Verb::Get.takes(&Method::HEAD) && Verb::Get.takes(&Method::GET));
        assert!(!Verb::Get.takes(&Method::POST) && !Verb::Post.takes(&Method::GET));
        assert!(Verb::Patch.takes(&Method::PATCH) && !Verb::Patch.takes(&Method::PUT));
    }

    #[test]
    fn whatever_changes_something_needs_more_than_read() {
        for path in [
            "/api/v1/transactions",
            "/api/v1/transactions/batch",
            "/api/v1/transactions/7/status",
            "/api/v1/transactions/7/fraud-score",
            "/api/v1/wallets",
        ] {
            assert_eq!(
                Resource::at(path).and_then(Resource::scope),
                Some(Scope::Write),
                "{path}"
            );
        }
        assert_eq!(Resource::Issuances.scope(), Some(Scope::Issue));
        assert_eq!(Resource::Redemptions.scope(), Some(Scope::Issue));
    }
}
