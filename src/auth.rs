//! Who may do what: tokens with scopes, and the checks of `dev` against strange web pages.
//!
//! Called by `http` for every request and by `ws` for first messages. Knows no route: it tells who asks, the caller
//! decides what that allows.

mod browser;
mod tokens;

pub use tokens::TokensError;

use crate::types::WalletId;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use parking_lot::RwLock;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokens::TokenTable;

/// What a token allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All reads and subscriptions.
    Read,
    /// Transfers, holds, status changes, fraud scores, wallets.
    Write,
    /// Issuance and redemption.
    Issue,
    /// Operator's calls.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Issue, Self::Admin];

    /// The word in the tokens file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Issue => "issue",
            Self::Admin => "admin",
        }
    }
}

/// Who asks, after the check.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token's name; `dev` where nobody is asked.
    pub name: Arc<str>,
    /// What it allows.
    pub scopes: Arc<[Scope]>,
    /// The only wallets it sees and moves; `None`: all.
    pub wallets: Option<Arc<HashSet<WalletId>>>,
}

impl Caller {
    /// A caller who may do everything.
    pub fn unrestricted(name: &str) -> Self {
        Self {
            name: name.into(),
            scopes: Scope::ALL.into(),
            wallets: None,
        }
    }

    /// A caller who may do nothing and sees no wallet: for what asks nobody.
    pub fn nobody() -> Self {
        Self {
            name: "nobody".into(),
            scopes: Arc::default(),
            wallets: Some(Arc::default()),
        }
    }

    /// Whether the token has `scope`.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether the caller may see and move `wallet`.
    pub fn may_see(&self, wallet: WalletId) -> bool {
        self.wallets
            .as_ref()
            .is_none_or(|wallets| wallets.contains(&wallet))
    }
}

/// Why a request is turned away before anyone looks at what it asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuthError {
    /// A token is needed and none came. 401.
    #[error("a bearer token is required")]
    Missing,
    /// The token is not in the tokens file, or the header cannot be read. 401.
    #[error("the bearer token is not valid")]
    Invalid,
    /// `dev` answers to loopback names only. 403.
    #[error("the Host header must be a loopback name")]
    StrangeHost,
    /// A web page of another site asks. 403.
    #[error("this origin is not allowed")]
    StrangeOrigin,
}

/// How callers are told apart; one for the process, shared.
#[derive(Debug)]
pub struct Access {
    mode: Mode,
    cors_origins: Box<[Box<str>]>,
}

#[derive(Debug)]
enum Mode {
    /// Nobody is asked, strange web pages are kept out.
    Dev(Caller),
    /// Nobody is asked.
    Open(Caller),
    Tokens {
        path: PathBuf,
        table: RwLock<Arc<TokenTable>>,
    },
}

impl Access {
    /// For `echopay dev`: nobody is asked for a token, but `Host` and `Origin` of every request must be loopback names
    /// (DNS rebinding, strange web pages). `cors_origins` (`https://shop.example`) are allowed beside those.
    pub fn dev(cors_origins: impl IntoIterator<Item = String>) -> Self {
        Self {
            mode: Mode::Dev(Caller::unrestricted("dev")),
            cors_origins: boxed(cors_origins),
        }
    }

    /// For `--insecure`: nobody is asked anything. No web page of another origin gets CORS leave.
    pub fn open() -> Self {
        Self {
            mode: Mode::Open(Caller::unrestricted("insecure")),
            cors_origins: Box::default(),
        }
    }

    /// For `--tokens-file`: every request needs a token of the file at `path`. Blocks while it reads.
    ///
    /// # Errors
    /// [`TokensError`]: the file cannot be read, or says something that cannot be meant.
    pub fn tokens(path: &Path) -> Result<Self, TokensError> {
        let table = RwLock::new(Arc::new(TokenTable::read(path)?));
        let mode = Mode::Tokens {
            path: path.to_owned(),
            table,
        };
        Ok(Self {
            mode,
            cors_origins: Box::default(),
        })
    }

    /// The same with these origins (`https://shop.example`) allowed to read answers from a browser.
    #[must_use]
    pub fn with_cors_origins(mut self, cors_origins: impl IntoIterator<Item = String>) -> Self {
        self.cors_origins = boxed(cors_origins);
        self
    }

    /// Reads the tokens file again (SIGHUP) and gives the number of its tokens; 0 where there is no such file. Blocks
    /// while it reads. Callers who were let in on a connection that stays open keep what they had.
    ///
    /// # Errors
    /// [`TokensError`]; the tokens as read before stay in force.
    pub fn reload(&self) -> Result<usize, TokensError> {
        let Mode::Tokens { path, table } = &self.mode else {
            return Ok(0);
        };
        let fresh = TokenTable::read(path)?;
        let count = fresh.len();
        *table.write() = Arc::new(fresh);
        Ok(count)
    }

    /// Who sends a request with these headers.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, AuthError> {
        match &self.mode {
            Mode::Open(caller) => Ok(caller.clone()),
            Mode::Dev(caller) => {
                self.check_browser(headers)?;
                Ok(caller.clone())
            }
            Mode::Tokens { .. } => {
                let header = headers.get(AUTHORIZATION).ok_or(AuthError::Missing)?;
                self.authenticate_token(bearer_token(header).ok_or(AuthError::Invalid)?)
            }
        }
    }

    /// The checks for what nobody needs a token for (probes, preflights): those of `dev` against strange web pages.
    ///
    /// # Errors
    /// [`AuthError::StrangeHost`], [`AuthError::StrangeOrigin`].
    pub fn screen(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        match &self.mode {
            Mode::Dev(_) => self.check_browser(headers),
            Mode::Open(_) | Mode::Tokens { .. } => Ok(()),
        }
    }

    /// Who wants to open a WebSocket with these headers: by `Authorization`, else by the subprotocol
    /// `bearer.<token>`, else `None`: the first message has to bring the token ([`Access::authenticate_token`]).
    ///
    /// # Errors
    /// [`AuthError`], never [`AuthError::Missing`].
    pub fn authenticate_upgrade(&self, headers: &HeaderMap) -> Result<Option<Caller>, AuthError> {
        match self.authenticate(headers) {
            Ok(caller) => Ok(Some(caller)),
            Err(AuthError::Missing) => {
                let token = subprotocols(headers).find_map(|name| name.strip_prefix("bearer."));
                token
                    .map(|token| self.authenticate_token(token))
                    .transpose()
            }
            Err(error) => Err(error),
        }
    }

    /// Who owns this token: for the first message of a WebSocket. Takes the same time for every wrong token. Where
    /// nobody is asked, every token is fine.
    ///
    /// # Errors
    /// [`AuthError::Invalid`].
    pub fn authenticate_token(&self, token: &str) -> Result<Caller, AuthError> {
        match &self.mode {
            Mode::Dev(caller) | Mode::Open(caller) => Ok(caller.clone()),
            Mode::Tokens { table, .. } => {
                let table = Arc::clone(&table.read());
                table.find(token).ok_or(AuthError::Invalid)
            }
        }
    }

    /// The origin of a request if a page of it may read the answer: the value for `Access-Control-Allow-Origin`.
    pub fn allowed_origin<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        self.origin_is_allowed(origin).then_some(origin)
    }

    fn check_browser(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(browser::is_loopback_authority) {
            return Err(AuthError::StrangeHost);
        }
        if headers
            .get_all(ORIGIN)
            .iter()
            .all(|origin| self.origin_is_allowed(origin))
        {
            Ok(())
        } else {
            Err(AuthError::StrangeOrigin)
        }
    }

    fn origin_is_allowed(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        let loopback = matches!(self.mode, Mode::Dev(_)) && browser::is_loopback_origin(origin);
        loopback || self.cors_origins.iter().any(|allowed| &**allowed == origin)
    }
}

fn boxed(origins: impl IntoIterator<Item = String>) -> Box<[Box<str>]> {
    let trimmed = |origin: String| origin.trim_end_matches('/').into();
    origins.into_iter().map(trimmed).collect()
}

/// The token of `Authorization: Bearer …` (the scheme in any case, RFC 9110 §11.1).
fn bearer_token(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use uuid::Uuid;

    /// SHA-256 of `sesame`, of `letmein`.
    const SESAME: &str = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";
    const LETMEIN: &str = "1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (
                hyper::header::HeaderName::from_static(name),
                value.parse().unwrap(),
            )
        };
        pairs.iter().map(pair).collect()
    }

    fn write(path: &Path, text: &str) {
        std::fs::File::create(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn tokens(text: &str) -> (tempfile::TempDir, PathBuf, Result<Access, TokensError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        write(&path, text);
        let access = Access::tokens(&path);
        (folder, path, access)
    }

    fn one_token() -> String {
        format!(
            "[[token]]\nname = \"till\"\nsha256 = \"{SESAME}\"\nscopes = [\"read\", \"write\"]\n\
             wallets = [\"00000000-0000-0000-0000-0000000000aa\"]\n"
        )
    }

    #[test]
    fn a_token_gives_its_name_scopes_and_wallets() {
        let (_folder, _, access) = tokens(&one_token());
        let headers = headers(&[("authorization", "bearer sesame")]);
        let caller = access.unwrap().authenticate(&headers).unwrap();
        assert_eq!(&*caller.name, "till");
        assert!(caller.has(Scope::Read) && caller.has(Scope::Write));
        assert!(!caller.has(Scope::Issue) && !caller.has(Scope::Admin));
        assert!(caller.may_see(WalletId::new(Uuid::from_u128(0xaa)).unwrap()));
        assert!(!caller.may_see(WalletId::new(Uuid::from_u128(0xbb)).unwrap()));
    }

    #[test]
    fn no_token_and_a_wrong_token_are_told_apart() {
        let (_folder, _, access) = tokens(&one_token());
        let access = access.unwrap();
        assert_eq!(
            access.authenticate(&headers(&[])).unwrap_err(),
            AuthError::Missing
        );
        for value in [
            "Bearer letmein",
            "Bearer",
            "Bearer ",
            "Basic sesame",
            "sesame",
        ] {
            let error = access
                .authenticate(&headers(&[("authorization", value)]))
                .unwrap_err();
            assert_eq!(error, AuthError::Invalid, "{value}");
        }
    }

    #[test]
    fn a_websocket_may_bring_its_token_as_subprotocol_or_later() {
        let (_folder, _, access) = tokens(&one_token());
        let access = access.unwrap();
        let upgrade = |pairs: &[_]| {
            let caller = access.authenticate_upgrade(&headers(pairs));
            caller.map(|caller| caller.map(|caller| caller.name.to_string()))
        };
        assert_eq!(upgrade(&[]), Ok(None));
        assert_eq!(
            upgrade(&[("sec-websocket-protocol", "echopay.v1")]),
            Ok(None)
        );
        let offered = [("sec-websocket-protocol", "echopay.v1, bearer.sesame")];
        assert_eq!(upgrade(&offered), Ok(Some("till".to_owned())));
        let wrong = [("sec-websocket-protocol", "bearer.letmein")];
        assert_eq!(upgrade(&wrong), Err(AuthError::Invalid));
        let header_wins = [("authorization", "Bearer letmein"), offered[0]];
        assert_eq!(upgrade(&header_wins), Err(AuthError::Invalid));
    }

    #[test]
    fn a_reload_takes_the_new_file_and_keeps_the_old_one_when_it_is_broken() {
        let (_folder, path, access) = tokens(&one_token());
        let access = access.unwrap();
        write(&path, "[[token]]\nname = 7");
        assert!(access.reload().is_err());
        assert!(access.authenticate_token("sesame").is_ok());
        let both = format!(
            "{}[[token]]\nname = \"ops\"\nsha256 = \"{LETMEIN}\"\nscopes = [\"admin\"]\n",
            one_token()
        );
        write(&path, &both);
        assert_eq!(access.reload().unwrap(), 2);
        assert_eq!(&*access.authenticate_token("letmein").unwrap().name, "ops");
        write(&path, &both.replace(SESAME, &"0".repeat(64)));
        assert_eq!(access.reload().unwrap(), 2);
        assert_eq!(
            access.authenticate_token("sesame").unwrap_err(),
            AuthError::Invalid
        );
    }

    #[test]
    fn a_tokens_file_that_cannot_be_meant_is_refused() {
        let good = one_token();
        for (bad, reason) in [
            (String::new(), "no tokens"),
            (format!("{good}{good}"), "till"),
            (good.replace(SESAME, "abc"), "sha256"),
            (good.replace(SESAME, &SESAME.replace('d', "x")), "sha256"),
            (good.replace("\"read\", \"write\"", ""), "scopes"),
            (good.replace("\"read\"", "\"root\""), "root"),
            (good.replace("wallets", "wallet"), "wallet"),
            (good.replace("0000000000aa", "000000000000"), "wallets"),
            (good.replace("till", ""), "name"),
            (good.replace("till", "twin") + &good, "same token"),
        ] {
            let (_folder, _, access) = tokens(&bad);
            let text = access.unwrap_err().to_string();
            assert!(text.contains(reason), "{bad}\n{text}");
        }
        assert!(matches!(
            Access::tokens(Path::new("/nowhere")),
            Err(TokensError::Unreadable { .. })
        ));
    }

    #[test]
    fn dev_answers_to_loopback_names_only() {
        let access = Access::dev(["https://shop.example/".to_owned()]);
        for (host, fine) in [
            ("localhost", true),
            ("LOCALHOST:8001", true),
            ("127.0.0.1:8001", true),
            ("127.9.9.9", true),
            ("[::1]:8001", true),
            ("[::1]", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("localhost:port", false),
            ("[::2]", false),
            ("10.0.0.1:8001", false),
            ("", false),
        ] {
            let result = access.authenticate(&headers(&[("host", host)]));
            assert_eq!(
                result.err(),
                (!fine).then_some(AuthError::StrangeHost),
                "{host}"
            );
        }
        assert_eq!(
            access.authenticate(&headers(&[])).unwrap_err(),
            AuthError::StrangeHost
        );
    }

    #[test]
    fn dev_lets_in_loopback_pages_and_the_configured_ones() {
        let access = Access::dev(["https://shop.example/".to_owned()]);
        for (origin, fine) in [
            ("http://localhost:3000", true),
            ("https://127.0.0.1", true),
            ("http://[::1]:5173", true),
            ("https://shop.example", true),
            ("https://shop.example.evil.example", false),
            ("http://shop.example", false),
            ("https://evil.example", false),
            ("null", false),
            ("file://localhost", false),
        ] {
            let headers = headers(&[("host", "localhost:8001"), ("origin", origin)]);
            let result = access.authenticate(&headers);
            assert_eq!(
                result.err(),
                (!fine).then_some(AuthError::StrangeOrigin),
                "{origin}"
            );
            assert_eq!(access.allowed_origin(&headers).is_some(), fine, "{origin}");
        }
    }

    #[test]
    fn open_asks_nobody_and_gives_no_page_leave() {
        let access = Access::open();
        let headers = headers(&[("origin", "http://localhost"), ("host", "evil.example")]);
        assert!(access.authenticate(&headers).is_ok());
        assert!(access.allowed_origin(&headers).is_none());
    }
}
