//! One request's way: resource, caller, body, handler, answer.

use super::answer::{self, Body, MoneyWriter, Style};
use super::body::{self, BodyBudget, Memory};
use super::config::Config;
use super::counters::ServiceCounters;
use super::deadline::{Deadline, Late};
use super::error::{ApiError, ErrorKind};
use super::parse::Rules;
use super::query::Query;
use super::router::{Resource, Verb};
use super::{backup, batch, events, http2, issuances, status, transactions, wallets};
use crate::auth::{Access, Caller, Scope};
use crate::clock::SharedClock;
use crate::ids::IdCipher;
use crate::journal::JournalReader;
use crate::ledger::{LedgerHandle, Queries};
use crate::metrics::{HttpAnswers, Metrics};
use crate::pipeline::PipelineHandle;
use crate::tracker::TrackerHandle;
use crate::types::{Currencies, WalletId};
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, HOST, HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Takes a request for `/ws/transactions` over and answers it (101, or why not). The caller is `None` where the first
/// message has to bring the token.
pub type UpgradeHandler =
    Box<dyn Fn(Request<Incoming>, Option<Caller>) -> Response<Body> + Send + Sync>;

/// The text of `/metrics`.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// The components, and how each is.
pub type Readiness = Arc<dyn Fn() -> Vec<(&'static str, Health)> + Send + Sync>;

/// How a component is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// As it should be.
    Ok,
    /// In trouble that nobody who asks for something has to wait for; the text says which.
    Degraded(String),
    /// Keeps the service from its work, or waits for the operator; the text says why.
    Failed(String),
}

/// All that HTTP needs of the rest of the program.
pub struct Services {
    /// Who decides.
    pub ledger: LedgerHandle,
    /// Who knows.
    pub queries: Queries,
    /// For the counts of `ws/info` and the delivered watermark.
    pub tracker: TrackerHandle,
    /// For the published watermark.
    pub pipeline: PipelineHandle,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Who may.
    pub access: Arc<Access>,
    /// Time and fresh ids.
    pub clock: SharedClock,
    /// For the journal's identity and watermark.
    pub reader: JournalReader,
    /// Ids of events in audit trails and in `GET /api/v1/events`, sequences of ids.
    pub ids: IdCipher,
    /// The currency table.
    pub currencies: Currencies,
    /// Who takes the upgrades.
    pub upgrade: UpgradeHandler,
    /// The text of `/metrics`.
    pub render_metrics: RenderMetrics,
    /// What `/readyz` asks.
    pub readiness: Readiness,
    /// Limits and times.
    pub config: Config,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The services with what HTTP keeps for itself; one for the process.
#[derive(Debug)]
pub(super) struct State {
    pub(super) services: Services,
    pub(super) counters: ServiceCounters,
    batch_budget: BodyBudget,
    /// Places for backups.
    pub(super) backups: Arc<Semaphore>,
}

impl State {
    pub(super) fn new(services: Services) -> Self {
        let batch_budget = BodyBudget::new(services.config.batch_bytes_in_flight_max);
        Self {
            services,
            counters: ServiceCounters::default(),
            batch_budget,
            backups: Arc::new(Semaphore::new(backup::BACKUPS_MAX)),
        }
    }
}

/// One request after all that is common to requests was checked.
#[derive(Debug)]
pub(super) struct Ask<'r> {
    pub(super) state: &'r State,
    pub(super) caller: &'r Caller,
    pub(super) headers: &'r HeaderMap,
    pub(super) query: Query<'r>,
    pub(super) style: Style,
}

impl<'r> Ask<'r> {
    pub(super) fn services(&self) -> &'r Services {
        &self.state.services
    }

    pub(super) fn rules(&self) -> Rules<'r> {
        let Services {
            currencies, config, ..
        } = self.services();
        Rules { currencies, config }
    }

    pub(super) fn money(&self) -> MoneyWriter<'r> {
        MoneyWriter {
            currencies: &self.services().currencies,
            style: self.style,
        }
    }

    /// Refuses a caller whose token lacks `scope`: for what needs more than its resource asks of everyone.
    pub(super) fn check_scope(&self, scope: Scope) -> Result<(), ErrorKind> {
        if self.caller.has(scope) {
            Ok(())
        } else {
            Err(ErrorKind::Forbidden(lacking(scope)))
        }
    }

    /// Refuses a wallet that the caller is not bound to.
    pub(super) fn check_wallet(&self, wallet: WalletId) -> Result<(), ErrorKind> {
        if self.caller.may_see(wallet) {
            Ok(())
        } else {
            Err(ErrorKind::Forbidden(
                "the token is not bound to this wallet",
            ))
        }
    }
}

/// What a handler gives.
pub(super) type Answer = Result<Response<Body>, ApiError>;

/// A connection, as its requests see it: what the last one leaves for the next.
#[derive(Debug)]
pub(super) struct Connection {
    state: Arc<State>,
    deadline: Deadline,
    /// Most clients ask the same thing again.
    last_answers: Mutex<Option<HttpAnswers>>,
}

impl Connection {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self {
            state,
            deadline: Deadline::default(),
            last_answers: Mutex::default(),
        }
    }

    fn observe(&self, method: &'static str, route: &'static str, status: u16, took: Duration) {
        let mut last = self.last_answers.lock();
        let metrics = &self.state.services.metrics;
        let answers = last
            .take_if(|answers| answers.are(method, route, status))
            .unwrap_or_else(|| metrics.http_answers(method, route, status));
        answers.observe(took);
        *last = Some(answers);
    }
}

/// Answers one request. Never fails: what goes wrong is an answer too.
pub(super) async fn handle(
    connection: &Connection,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let state = &*connection.state;
    let is_http2 = request.version() == Version::HTTP_2;
    let is_head = request.method() == Method::HEAD;
    if is_http2 {
        name_host(&mut request);
    }
    let Services { clock, access, .. } = &state.services;
    let started = clock.monotonic();
    let method = method_label(request.method());
    let style = Style::of(request.headers());
    let origin = access.allowed_origin(request.headers()).cloned();
    let uri = request.uri().clone();
    let resource = Resource::at(uri.path());
    let is_write = resource.is_some_and(|resource| {
        let verb = resource.verb();
        verb != Verb::Get && verb.takes(request.method())
    });
    let mut response = match answer(connection, request, resource, style, started).await {
        Ok(response) => response,
        Err(error) => error.response(style, clock.now()),
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("Location, Retry-After, Preference-Applied"),
        );
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    let took = clock.monotonic().saturating_sub(started);
    let status = response.status();
    let pattern = resource.map_or("unknown", Resource::pattern);
    connection.observe(method, pattern, status.as_u16(), took);
    if is_write {
        state.counters.observe(status.is_success(), took);
    }
    if is_http2 {
        http2::shape(response, is_head)
    } else {
        response
    }
}

/// The authority of an HTTP/2 request is what `Host` is in HTTP/1, and overrules it (RFC 9113 §8.3.1).
fn name_host(request: &mut Request<Incoming>) {
    let authority = request.uri().authority().map(Authority::as_str);
    let host = authority.and_then(|name| HeaderValue::from_str(name).ok());
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
}

async fn answer(
    connection: &Connection,
    request: Request<Incoming>,
    resource: Option<Resource<'_>>,
    style: Style,
    started: Duration,
) -> Answer {
    let Connection {
        state, deadline, ..
    } = connection;
    let Services {
        access,
        clock,
        config,
        upgrade,
        ..
    } = &state.services;
    if request.version() == Version::HTTP_2 && !http2::has_place() {
        return Err(ErrorKind::TooManyRequests.into());
    }
    let (resource, caller) = match admit(access, &request, resource) {
        Ok(Admitted::Options(verb)) => return Ok(options(access, request.headers(), verb)),
        Ok(Admitted::Upgrade(caller)) => return Ok(upgrade(request, caller)),
        Ok(Admitted::Call(resource, caller)) => (resource, caller),
        Err(error) => {
            let (parts, mut incoming) = request.into_parts();
            body::discard(&parts, &mut incoming, config).await;
            return Err(error);
        }
    };
    let remaining = || {
        config
            .request_timeout
            .saturating_sub(clock.monotonic().saturating_sub(started))
    };
    let (parts, mut incoming) = request.into_parts();
    let reading = read_body(connection, &parts, &mut incoming, resource, remaining());
    let (body, memory) = match reading.await {
        Ok(read) => read,
        Err(kind @ (ErrorKind::BodyTimeout | ErrorKind::BodyIncomplete)) => return Err(kind.into()),
        Err(kind) => {
            body::discard(&parts, &mut incoming, config).await;
            return Err(kind.into());
        }
    };
    // What came with a read has no use, and is in memory until then.
    drop(incoming);
    let ask = Ask {
        state,
        caller: &caller,
        headers: &parts.headers,
        query: Query::new(parts.uri.query()),
        style,
    };
    let dispatched = dispatch(&ask, resource, body, memory);
    match deadline.bound(remaining(), dispatched).await {
        Ok(answer) => answer,
        Err(Late) if resource.verb() == Verb::Get => Err(ErrorKind::QueryTimeout.into()),
        Err(Late) => Err(ErrorKind::OutcomeUnknown.into()),
    }
}

/// What may go on after route, caller, method and scope were looked at.
enum Admitted<'p> {
    Options(Verb),
    /// `None`: the first message has to bring the token.
    Upgrade(Option<Caller>),
    Call(Resource<'p>, Caller),
}

fn admit<'p>(
    access: &Access,
    request: &Request<Incoming>,
    resource: Option<Resource<'p>>,
) -> Result<Admitted<'p>, ApiError> {
    let Some(resource) = resource else {
        access.screen(request.headers())?;
        return Err(ErrorKind::NotFound.into());
    };
    let caller = authenticate(access, resource, request)?;
    let verb = resource.verb();
    if request.method() == Method::OPTIONS {
        return Ok(Admitted::Options(verb));
    }
    if !verb.takes(request.method()) {
        return Err(ErrorKind::MethodNotAllowed {
            allow: verb.allow(),
        }
        .into());
    }
    if let (Some(scope), Some(caller)) = (resource.scope(), &caller)
        && !caller.has(scope)
    {
        return Err(ErrorKind::Forbidden(lacking(scope)).into());
    }
    if resource == Resource::WebSocket {
        return Ok(Admitted::Upgrade(caller));
    }
    Ok(Admitted::Call(
        resource,
        caller.unwrap_or_else(Caller::nobody),
    ))
}

/// The body of a write, with the memory that a batch was given for it; nothing for a read.
async fn read_body(
    connection: &Connection,
    parts: &Parts,
    incoming: &mut Incoming,
    resource: Resource<'_>,
    patience: Duration,
) -> Result<(Bytes, Option<Memory>), ErrorKind> {
    let Connection {
        state, deadline, ..
    } = connection;
    let config = &state.services.config;
    let declared = incoming.size_hint().exact();
    match (resource.verb(), resource) {
        (Verb::Get, _) => Ok((Bytes::new(), None)),
        (_, Resource::Batch) => {
            let bytes_max = config.batch_bytes_max;
            body::check_head(parts, declared, bytes_max)?;
            let mut memory = state.batch_budget.reserve(declared, bytes_max)?;
            let body = body::read(incoming, bytes_max, deadline, patience).await?;
            body::give_back_surplus(&mut memory, body.len());
            Ok((body, Some(memory)))
        }
        _ => {
            let bytes_max = config.body_bytes_max;
            body::check_head(parts, declared, bytes_max)?;
            let body = body::read(incoming, bytes_max, deadline, patience).await?;
            Ok((body, None))
        }
    }
}

async fn dispatch(
    ask: &Ask<'_>,
    resource: Resource<'_>,
    body: Bytes,
    memory: Option<Memory>,
) -> Answer {
    if let (Resource::Batch, Some(memory)) = (resource, memory) {
        return batch::create(ask, body, memory).await;
    }
    let body = &body;
    match resource {
        Resource::Health => Ok(status::health(ask)),
        Resource::Livez => Ok(status::livez()),
        Resource::Readyz => Ok(status::readyz(ask)),
        Resource::Metrics => Ok(status::metrics(ask)),
        Resource::Transactions => transactions::create(ask, body).await,
        Resource::PendingTransactions => transactions::pending(ask).await,
        Resource::Transaction(id) => transactions::read(ask, id).await,
        Resource::TransactionStatus(id) => transactions::set_status(ask, id, body).await,
        Resource::TransactionFraudScore(id) => transactions::set_score(ask, id, body).await,
        Resource::Wallets => wallets::open(ask, body).await,
        Resource::WalletTransactions(id) => wallets::history(ask, id).await,
        Resource::WalletBalance(id) => wallets::balance(ask, id),
        Resource::WalletStats(id) => wallets::stats(ask, id).await,
        Resource::Issuances => issuances::issue(ask, body).await,
        Resource::Redemptions => issuances::redeem(ask, body).await,
        Resource::Events => events::list(ask).await,
        Resource::Quarantine => Ok(status::quarantine(ask)),
        Resource::Backup => backup::stream(ask),
        Resource::Sequence => Ok(status::sequence(ask)),
        Resource::ServiceMetrics => Ok(status::service_metrics(ask)),
        Resource::WebSocketInfo => Ok(status::websocket_info(ask)),
        // Why unreachable: the request went to the upgrade handler, which needs it whole; a batch has its memory.
        Resource::WebSocket | Resource::Batch => Err(ErrorKind::Internal.into()),
    }
}

/// Who asks; `None` for a WebSocket whose first message will tell, for probes, and for `OPTIONS` (a browser sends no
/// token with a preflight).
fn authenticate(
    access: &Access,
    resource: Resource<'_>,
    request: &Request<Incoming>,
) -> Result<Option<Caller>, ApiError> {
    let headers = request.headers();
    if resource.scope().is_none() || request.method() == Method::OPTIONS {
        access.screen(headers)?;
        return Ok(None);
    }
    if resource == Resource::WebSocket {
        return Ok(access.authenticate_upgrade(headers)?);
    }
    Ok(Some(access.authenticate(headers)?))
}

const fn lacking(scope: Scope) -> &'static str {
    match scope {
        Scope::Read => "the token lacks the scope read",
        Scope::Write => "the token lacks the scope write",
        Scope::Issue => "the token lacks the scope issue",
        Scope::Admin => "the token lacks the scope admin",
    }
}

/// `OPTIONS`: what the resource takes, and for a preflight of an allowed page (Fetch standard §3.2) the leave to ask it.
fn options(access: &Access, headers: &HeaderMap, verb: Verb) -> Response<Body> {
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    let out = response.headers_mut();
    out.insert(ALLOW, HeaderValue::from_static(verb.allow()));
    if access.allowed_origin(headers).is_some() {
        out.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(verb.allow()),
        );
        out.insert(
            ACCESS_CONTROL_ALLOW_HEADERS,
            HeaderValue::from_static("Accept, Authorization, Content-Type, Prefer"),
        );
        out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    } else if headers.contains_key(ORIGIN) {
        out.insert(VARY, HeaderValue::from_static("Origin"));
    }
    response
}

/// A label of bounded variety.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
