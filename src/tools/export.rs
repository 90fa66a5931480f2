//! `echopay export`: the journal as JSON lines, page by page, with an end by which a file that was cut off is told.

use super::files::Output;
use super::lines::{EndLine, EntryLine, Header, Hex, Line, PageLine};
use super::{Progress, ToolError, store};
use crate::config::ToolConfig;
use crate::ids::IdCipher;
use crate::journal::{Entry, JournalReader, WholePage};
use crate::types::{Currencies, Sequence};
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::path::Path;

/// What shall be exported, and how.
pub(super) struct Wanted {
    pub(super) zstd: bool,
    pub(super) from: Option<u64>,
    pub(super) to: Option<u64>,
}

/// What was exported.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    file: String,
    journal: String,
    first: u64,
    last: u64,
    entries: u64,
    pages: u64,
    head_hash: Hex<32>,
    complete: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            journal,
            first,
            last,
            entries,
            pages,
            head_hash,
            ..
        } = self;
        writeln!(
            f,
            "exported {entries} entries in {pages} pages, sequences {first} to {last}, to {file}"
        )?;
        writeln!(f, "journal   {journal}")?;
        writeln!(f, "head hash {head_hash}")?;
        if self.complete {
            f.write_str("whole: it can be imported.")?;
        } else {
            f.write_str("a part: it cannot be imported.")?;
        }
        f.write_str(" It holds the key of the ids: keep it secret.")
    }
}

pub(super) fn run(
    config: &ToolConfig,
    output: &Path,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Report, ToolError> {
    if let (Some(from), Some(to)) = (wanted.from, wanted.to)
        && from > to
    {
        return Err(ToolError::Usage(format!(
            "--from {from} is above --to {to}"
        )));
    }
    let journal = store::open(config)?;
    let reader = journal.reader();
    let exported = write(&reader, output, wanted, progress);
    drop(reader);
    // Also after a failure, so that the next start finds a clean stop.
    let closed = journal.close();
    let report = exported?;
    closed?;
    Ok(report)
}

/// Lines, hashed on their way.
struct Lines<'o> {
    out: &'o mut Output,
    path: &'o Path,
    line: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Lines<'_> {
    fn put(&mut self, line: &impl Serialize) -> Result<(), ToolError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)
            .map_err(|error| ToolError::Damaged(error.to_string()))?;
        self.line.push(b'\n');
        self.hasher.update(&self.line);
        self.out
            .write_all(&self.line)
            .map_err(ToolError::io("write", self.path))
    }
}

fn write(
    reader: &JournalReader,
    path: &Path,
    wanted: &Wanted,
    progress: &Progress,
) -> Result<Report, ToolError> {
    let (settings, lineage) = (reader.settings(), reader.lineage());
    let (oldest, durable) = (reader.oldest(), reader.durable().get());
    let first = wanted.from.map_or(oldest, Sequence::new).max(oldest);
    let last = wanted.to.map_or(durable, Sequence::new).min(durable);
    if first > last && (wanted.from.is_some() || wanted.to.is_some()) {
        return Err(ToolError::Usage(format!(
            "the journal holds sequences {oldest} to {durable}, nothing from {first} to {last}"
        )));
    }
    let mut out = Output::create(path, wanted.zstd)?;
    // What is archived cannot be made again from what is left.
    let complete = first == Sequence::ORIGIN.next() && last == durable;
    let header = Header::new(settings, lineage, (first, last), complete);
    let mut lines = Lines {
        out: &mut out,
        path,
        line: Vec::new(),
        hasher: blake3::Hasher::new(),
    };
    lines.put(&header)?;
    let cipher = IdCipher::new(&settings.id_key);
    let step = progress.step("exporting", "events", last.get());
    let (mut pages, mut entries, mut head_hash) = (0_u64, 0_u64, [0; 32]);
    let mut copy = reader.copy();
    copy.skip_to(first);
    'chunks: loop {
        let chunk = copy.next_pages()?;
        if chunk.is_empty() {
            break;
        }
        for page in &chunk {
            if page.place().first > last {
                break 'chunks;
            }
            head_hash = page.hash();
            let wanted = |entry: &Entry| entry.last() >= first && entry.first <= last;
            entries += put_page(
                &mut lines,
                page,
                head_hash,
                &cipher,
                &settings.currencies,
                wanted,
            )?;
            pages += 1;
            step.at(page.place().last.get());
        }
    }
    let lines_hash = *lines.hasher.finalize().as_bytes();
    lines.put(&Line::End(EndLine {
        pages,
        entries,
        head_hash: Hex(head_hash),
        lines_hash: Hex(lines_hash),
    }))?;
    out.commit(path)?;
    Ok(Report {
        file: path.display().to_string(),
        journal: reader.identity().to_string(),
        first: first.get(),
        last: last.get(),
        entries,
        pages,
        head_hash: Hex(head_hash),
        complete,
    })
}

/// Gives the number of entries that were wanted of the page.
fn put_page(
    lines: &mut Lines<'_>,
    page: &WholePage,
    hash: [u8; 32],
    cipher: &IdCipher,
    currencies: &Currencies,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<u64, ToolError> {
    let place = page.place();
    let damaged =
        |what: String| ToolError::Damaged(format!("page of sequence {}: {what}", place.first));
    lines.put(&Line::Page(PageLine::new(place, hash)))?;
    let mut count = 0;
    for entry in page.entries(cipher).map_err(damaged)? {
        if wanted(&entry) {
            let line = EntryLine::new(&entry, currencies).map_err(damaged)?;
            lines.put(&Line::Entry(Box::new(line)))?;
            count += 1;
        }
    }
    Ok(count)
}
