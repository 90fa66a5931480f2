//! Not there yet.
use super::{Progress, ToolError};
use crate::config::ToolConfig;
use std::path::Path;
#[derive(Debug, serde::Serialize)]
pub(super) struct Report {}
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("")
    }
}
pub(super) struct Source<'s> {
    pub(super) url: &'s str,
    pub(super) token_file: Option<&'s Path>,
}
pub(super) fn run(
    _from: &Source<'_>,
    _output: &Path,
    _progress: &Progress,
) -> Result<Report, ToolError> {
    Err(ToolError::Usage("not built yet".into()))
}
