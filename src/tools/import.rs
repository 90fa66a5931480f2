//! `echopay import`: a data folder of an export. Each page is made again of its lines and must be what it was.

use super::files::open_input;
use super::lines::{EndLine, FORMAT, Header, Hex, Line, Opening, PageLine, VERSION};
use super::{Progress, ToolError, store};
use crate::config::ToolConfig;
use crate::ids::IdCipher;
use crate::journal::{Entry, Rebuild, RebuildError, Rebuilt, Settings, WholePage};
use serde::Serialize;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::path::Path;

/// The longest line is a header with 1,024 epochs; a damaged file must not cost memory.
const LINE_BYTES_MAX: u64 = 1 << 18;
/// An entry takes more than 16 bytes of a page of 4 KiB.
const PAGE_ENTRIES_MAX: u16 = 256;

/// What was made.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) data_dir: String,
    pub(super) journal: String,
    pub(super) last: u64,
    pub(super) entries: u64,
    pub(super) pages: u64,
    pub(super) head_hash: Hex<32>,
}

impl Report {
    /// Of the folder that was made.
    pub(super) fn new(config: &ToolConfig, made: &Rebuilt) -> Self {
        Self {
            data_dir: config.journal.data_dir.display().to_string(),
            journal: made.identity.to_string(),
            last: made.durable.get(),
            entries: made.entries,
            pages: made.pages,
            head_hash: Hex(made.head_hash),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            data_dir,
            journal,
            last,
            entries,
            pages,
            head_hash,
        } = self;
        writeln!(
            f,
            "{data_dir} holds {entries} entries in {pages} pages, up to sequence {last}"
        )?;
        writeln!(f, "journal   {journal}, a new epoch")?;
        write!(f, "head hash {head_hash}")
    }
}

pub(super) fn run(
    config: &ToolConfig,
    input: &Path,
    progress: &Progress,
) -> Result<Report, ToolError> {
    let mut lines = Lines {
        source: open_input(input)?,
        path: input,
        line: Vec::new(),
        number: 0,
        hasher: blake3::Hasher::new(),
    };
    let header = read_header(&mut lines)?;
    let (settings, lineage) = header.facts().map_err(|what| lines.damaged(what))?;
    let mut pages = Pages {
        rebuild: Rebuild::begin(&config.journal, settings.clone(), &lineage, &store::clock())?,
        cipher: IdCipher::new(&settings.id_key),
        settings,
        page: None,
        entries: Vec::new(),
        hash: [0; 32],
    };
    let step = progress.step("importing", "events", header.last);
    let end = loop {
        let before = lines.hasher.clone();
        if !lines.read()? {
            return Err(lines.damaged("the file ends here, but not with an end"));
        }
        let line: Line<'_> =
            serde_json::from_slice(&lines.line).map_err(|error| lines.damaged(error))?;
        let taken = match line {
            Line::End(end) => break (end, before),
            Line::Page(page) => pages.begin(page),
            Line::Entry(line) => line
                .entry(&pages.settings.currencies)
                .map_err(Into::into)
                .and_then(|entry| pages.take(entry)),
        };
        taken.map_err(|trouble| lines.trouble(trouble))?;
        step.at(pages.rebuild.newest().get());
    };
    let rebuild = pages
        .finish(&header, &end)
        .map_err(|trouble| lines.trouble(trouble))?;
    if lines.read()? {
        return Err(lines.damaged("something follows the end"));
    }
    let made = rebuild.finish()?;
    Ok(Report::new(config, &made))
}

fn read_header(lines: &mut Lines<'_>) -> Result<Header, ToolError> {
    if !lines.read()? {
        return Err(lines.damaged("not an export: it is empty"));
    }
    let opening: Opening<'_> = serde_json::from_slice(&lines.line)
        .map_err(|_| lines.damaged("not an export of echopay"))?;
    if opening.format != FORMAT {
        return Err(lines.damaged("not an export of echopay"));
    }
    if opening.version != VERSION {
        let version = opening.version;
        return Err(lines.damaged(format_args!(
            "an export of version {version}; this program reads {VERSION}"
        )));
    }
    let header: Header =
        serde_json::from_slice(&lines.line).map_err(|error| lines.damaged(error))?;
    if header.complete {
        Ok(header)
    } else {
        Err(lines.damaged("a part of a journal: only a whole one can be imported"))
    }
}

/// The file, line by line.
struct Lines<'p> {
    source: Box<dyn BufRead>,
    path: &'p Path,
    line: Vec<u8>,
    number: u64,
    hasher: blake3::Hasher,
}

impl Lines<'_> {
    /// Reads the next line; `false` at the end of the file.
    fn read(&mut self) -> Result<bool, ToolError> {
        self.line.clear();
        self.number += 1;
        let read = self
            .source
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut self.line);
        if let Err(error) = read {
            return Err(self.unreadable(error));
        }
        if self.line.is_empty() {
            return Ok(false);
        }
        if self.line.last() != Some(&b'\n') {
            return Err(self.damaged("cut off, or longer than any line of an export"));
        }
        self.hasher.update(&self.line);
        Ok(true)
    }

    /// What the system says has a number; what has none is said by who decompresses.
    fn unreadable(&self, error: io::Error) -> ToolError {
        if error.raw_os_error().is_some() {
            ToolError::io("read", self.path)(error)
        } else {
            self.damaged(error)
        }
    }

    fn damaged(&self, what: impl fmt::Display) -> ToolError {
        let (path, number) = (self.path.display(), self.number);
        ToolError::Damaged(format!("{path}, line {number}: {what}"))
    }

    fn trouble(&self, trouble: Trouble) -> ToolError {
        match trouble {
            Trouble::Line(what) | Trouble::Rebuild(RebuildError::Page(what)) => self.damaged(what),
            Trouble::Rebuild(error) => error.into(),
        }
    }
}

/// Why a line cannot be taken.
enum Trouble {
    Line(String),
    Rebuild(RebuildError),
}

impl From<&'static str> for Trouble {
    fn from(what: &'static str) -> Self {
        Self::Line(what.into())
    }
}

/// Pages made of lines.
struct Pages {
    rebuild: Rebuild,
    cipher: IdCipher,
    settings: Settings,
    /// The page whose entries come, and those that came.
    page: Option<PageLine>,
    entries: Vec<Entry>,
    /// Of the page before.
    hash: [u8; 32],
}

impl Pages {
    fn begin(&mut self, page: PageLine) -> Result<(), Trouble> {
        if self.page.is_some() {
            return Err("entries of the page before are missing".into());
        }
        if page.entries > PAGE_ENTRIES_MAX {
            return Err("more entries than a page can hold".into());
        }
        self.page = Some(page);
        Ok(())
    }

    fn take(&mut self, entry: Entry) -> Result<(), Trouble> {
        let page = self.page.ok_or("an entry without a page")?;
        self.entries.push(entry);
        if self.entries.len() < usize::from(page.entries) {
            return Ok(());
        }
        let whole = WholePage::encode(
            self.settings.identity.journal_id,
            page.place(),
            self.hash,
            &self.cipher,
            &self.entries,
        )
        .map_err(Trouble::Line)?;
        self.hash = whole.hash();
        if self.hash != page.hash.0 {
            return Err("the page that ends here is not the one that was exported".into());
        }
        self.entries.clear();
        self.page = None;
        self.rebuild.push(whole.bytes()).map_err(Trouble::Rebuild)
    }

    fn finish(
        self,
        header: &Header,
        (end, lines): &(EndLine, blake3::Hasher),
    ) -> Result<Rebuild, Trouble> {
        if self.page.is_some() {
            return Err("entries of the last page are missing".into());
        }
        let found = self.rebuild.checked().map_err(Trouble::Rebuild)?;
        let told = (end.pages, end.entries, end.head_hash.0, header.last);
        let held = (
            found.pages,
            found.entries,
            found.head_hash,
            found.durable.get(),
        );
        if told != held {
            return Err("the file does not hold what its end tells of".into());
        }
        if end.lines_hash.0 != *lines.finalize().as_bytes() {
            return Err("the lines are not those that were written".into());
        }
        Ok(self.rebuild)
    }
}
