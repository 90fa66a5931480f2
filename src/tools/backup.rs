//! `echopay backup`: asks a running service for a backup, checks every page of it on the way, and keeps it only when its
//! end has come.

use super::files::Sink;
use super::lines::Hex;
use super::{Progress, ToolError};
use crate::journal::{BackupParser, PageCheck, Piece};
use crate::tasks::{OnExit, Supervisor};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;

/// Where the service gives it.
const PATH: &str = "/api/v1/backup";
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the service may take until it answers, and between two pieces of the answer.
const SILENCE_TIMEOUT: Duration = Duration::from_mins(1);
/// How much of a refusal is read.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// Whom to ask.
pub(super) struct Source<'s> {
    pub(super) url: &'s str,
    pub(super) token_file: Option<&'s Path>,
}

/// What was taken.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    file: String,
    journal: String,
    last: u64,
    entries: u64,
    pages: u64,
    size_bytes: u64,
    head_hash: Hex<32>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            journal,
            last,
            entries,
            pages,
            head_hash,
            ..
        } = self;
        writeln!(
            f,
            "{file} holds {entries} entries in {pages} pages, up to sequence {last}"
        )?;
        writeln!(f, "journal   {journal}")?;
        writeln!(f, "head hash {head_hash}")?;
        f.write_str("It holds the key of the ids: keep it secret.")
    }
}

pub(super) fn run(
    from: &Source<'_>,
    output: &Path,
    progress: &Progress,
) -> Result<Report, ToolError> {
    let place = Place::of(from.url)?;
    let token = from.token_file.map(token).transpose()?;
    let mut file = Sink::create(output)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ToolError::io("start a runtime for", output))?;
    let report = runtime.block_on(async {
        let answer = ask(&place, token.as_ref()).await?;
        receive(answer, &place, &mut file, output, progress).await
    })?;
    file.commit(output)?;
    Ok(report)
}

/// Where a service listens, as `--url` tells it.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// For `Host`, and in errors.
    pub(crate) authority: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Before each path, without a slash at its end.
    pub(crate) prefix: String,
}

impl Place {
    /// # Errors
    /// [`ToolError::Usage`] for what is no `http://host[:port][/prefix]`.
    pub(crate) fn of(url: &str) -> Result<Self, ToolError> {
        let usage = |what: &str| ToolError::Usage(format!("--url {url}: {what}"));
        let uri: Uri = url.parse().map_err(|_| usage("not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(usage(
                    "only http:// is spoken; go through a tunnel, or take the backup by curl",
                ));
            }
            _ => return Err(usage("expected http://host[:port]")),
        }
        let authority = uri.authority().ok_or_else(|| usage("it names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(usage("expected http://host[:port]"));
        }
        let host = authority.host().trim_matches(['[', ']']);
        Ok(Self {
            authority: authority.to_string(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    fn unavailable(&self, what: impl fmt::Display) -> ToolError {
        ToolError::Unavailable(format!("http://{}: {what}", self.authority))
    }
}

fn token(path: &Path) -> Result<HeaderValue, ToolError> {
    let mut value = HeaderValue::try_from(read_bearer(path)?).map_err(|_| no_token(path))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `Authorization` with the token that a file holds.
///
/// # Errors
/// When the file cannot be read or holds none.
pub(crate) fn read_bearer(path: &Path) -> Result<String, ToolError> {
    let text = std::fs::read_to_string(path).map_err(ToolError::io("read", path))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(no_token(path));
    }
    Ok(format!("Bearer {token}"))
}

fn no_token(path: &Path) -> ToolError {
    ToolError::Usage(format!("{} holds no token", path.display()))
}

async fn ask(place: &Place, token: Option<&HeaderValue>) -> Result<Response<Incoming>, ToolError> {
    let connecting = TcpStream::connect((place.host.as_str(), place.port));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| place.unavailable("no connection in time"))?
        .map_err(|error| place.unavailable(error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| place.unavailable(error))?;
    // What it has to say of an error, the answer's body says too.
    Supervisor::new().spawn_task("backup-connection", OnExit::Continue, async move {
        let _ended = connection.await;
    });
    let mut request = Request::get(format!("{}{PATH}", place.prefix))
        .header(HOST, place.authority.as_str())
        .header(ACCEPT, "application/octet-stream");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| ToolError::Usage(error.to_string()))?;
    let answer = tokio::time::timeout(SILENCE_TIMEOUT, sender.send_request(request))
        .await
        .map_err(|_| place.unavailable("no answer in time"))?
        .map_err(|error| place.unavailable(error))?;
    if answer.status() == StatusCode::OK {
        return Ok(answer);
    }
    let status = answer.status();
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect();
    let body = tokio::time::timeout(SILENCE_TIMEOUT, body).await;
    let text = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => Bytes::new(),
    };
    let text = String::from_utf8_lossy(&text);
    Err(place.unavailable(format_args!("{status}: {}", text.trim())))
}

/// Writes the answer to `file`, each page checked.
async fn receive(
    answer: Response<Incoming>,
    place: &Place,
    file: &mut Sink,
    output: &Path,
    progress: &Progress,
) -> Result<Report, ToolError> {
    let mut body = answer.into_body();
    let mut parser = BackupParser::default();
    let mut check: Option<PageCheck> = None;
    let mut step = None;
    let mut size_bytes = 0_u64;
    loop {
        let frame = tokio::time::timeout(SILENCE_TIMEOUT, body.frame())
            .await
            .map_err(|_| place.unavailable("the backup stopped in the middle"))?;
        let Some(frame) = frame else { break };
        let frame = frame
            .map_err(|error| place.unavailable(format_args!("the backup was cut off: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        parser.feed(&data, &mut |piece| {
            match piece {
                Piece::Begin {
                    settings,
                    lineage,
                    end,
                } => {
                    check = Some(PageCheck::new(&settings, &lineage));
                    step = Some(progress.step("backing up", "events", end.durable.get()));
                }
                Piece::Page(page) => {
                    if let Some(check) = &mut check {
                        check.take(page).map_err(ToolError::Damaged)?;
                    }
                }
            }
            Ok::<_, ToolError>(())
        })?;
        file.write_all(&data)
            .map_err(ToolError::io("write", output))?;
        size_bytes = size_bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if let (Some(step), Some(check)) = (&step, &check) {
            step.at(check.newest().get());
        }
    }
    let check = check.ok_or_else(|| place.unavailable("what came is no backup"))?;
    let found = check.finish().map_err(ToolError::Damaged)?;
    parser.finish(&found)?;
    Ok(Report {
        file: output.display().to_string(),
        journal: found.identity.to_string(),
        last: found.durable.get(),
        entries: found.entries,
        pages: found.pages,
        size_bytes,
        head_hash: Hex(found.head_hash),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_what_is_not_spoken_is_refused() {
        let place = Place::of("http://[::1]:9/ledger/").unwrap();
        assert_eq!((&*place.host, place.port), ("::1", 9));
        assert_eq!(place.prefix, "/ledger");
        assert_eq!(Place::of("http://a").unwrap().port, 80);
        for (url, what) in [
            ("https://a", "only http://"),
            ("a:80", "expected http://"),
            ("ftp://a", "expected http://"),
            ("http://a?x=1", "expected http://"),
            ("http://user@a", "expected http://"),
        ] {
            let refused = Place::of(url).unwrap_err();
            assert!(matches!(refused, ToolError::Usage(_)), "{url}: {refused}");
            assert!(refused.to_string().contains(what), "{url}: {refused}");
        }
    }
}
