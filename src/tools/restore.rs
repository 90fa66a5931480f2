//! `echopay restore`: a data folder of a backup.

use super::files::open_plain;
use super::import::Report;
use super::{Progress, ToolError, store};
use crate::config::ToolConfig;
use crate::journal::{BackupParser, Piece, Rebuild};
use std::path::Path;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

pub(super) fn run(
    config: &ToolConfig,
    input: &Path,
    progress: &Progress,
) -> Result<Report, ToolError> {
    restore(config, input, progress).map_err(|error| match error {
        ToolError::Backup(damage) => ToolError::Damaged(format!("{}: {damage}", input.display())),
        other => other,
    })
}

fn restore(config: &ToolConfig, input: &Path, progress: &Progress) -> Result<Report, ToolError> {
    let (mut file, total) = open_plain(input)?;
    let step = progress.step("restoring", "bytes", total);
    let clock = store::clock();
    let mut parser = BackupParser::default();
    let mut rebuild: Option<Rebuild> = None;
    let mut buffer = vec![0; READ_BYTES];
    let mut done = 0_u64;
    loop {
        let read = file
            .read(&mut buffer)
            .map_err(ToolError::input("read", input))?;
        if read == 0 {
            break;
        }
        parser.feed(buffer.get(..read).unwrap_or_default(), &mut |piece| {
            match (piece, &mut rebuild) {
                (
                    Piece::Begin {
                        settings, lineage, ..
                    },
                    rebuild,
                ) => {
                    *rebuild = Some(Rebuild::begin(
                        &config.journal,
                        *settings,
                        &lineage,
                        &clock,
                    )?);
                }
                (Piece::Page(page), Some(rebuild)) => rebuild.push(page)?,
                // Why not: the parser gives the beginning first.
                (Piece::Page(_), None) => {}
            }
            Ok::<_, ToolError>(())
        })?;
        done = done.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        step.at(done);
    }
    let Some(rebuild) = rebuild else {
        return Err(ToolError::Damaged(format!(
            "{}: cut off before its first page",
            input.display()
        )));
    };
    parser.finish(&rebuild.checked()?)?;
    let made = rebuild.finish()?;
    Ok(Report::new(config, &made))
}
