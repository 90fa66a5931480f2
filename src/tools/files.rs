//! Files that a command writes or reads: new ones that are whole or not there, and inputs that may be compressed.

use super::ToolError;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What these files hold is a secret: the key of the ids is in them.
const OWNER_ONLY: u32 = 0o600;
const BUFFER_BYTES: usize = 1 << 20;
/// First bytes of a Zstandard frame (RFC 8878 §3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A file that gets its name when it is whole. Dropping it takes away what was written.
#[derive(Debug)]
pub(super) struct NewFile {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    is_done: bool,
}

impl NewFile {
    /// Begins `path`, which must not exist. Until the end its bytes are in a file beside it, `.part` behind its name.
    pub(super) fn create(path: &Path) -> Result<Self, ToolError> {
        refuse_existing(path)?;
        let mut part = OsString::from(path);
        part.push(".part");
        let part = PathBuf::from(part);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(OWNER_ONLY)
            .open(&part)
            .map_err(ToolError::output("create", &part))?;
        // What a kill left there is written over; what another process writes is not.
        file.try_lock()
            .map_err(io::Error::from)
            .and_then(|()| file.set_len(0))
            .and_then(|()| file.set_permissions(Permissions::from_mode(OWNER_ONLY)))
            .map_err(ToolError::output("take", &part))?;
        Ok(Self {
            path: path.into(),
            part,
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            is_done: false,
        })
    }

    /// Makes it durable under its name.
    pub(super) fn commit(mut self) -> Result<(), ToolError> {
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(ToolError::io("write", &self.part))?;
        refuse_existing(&self.path)?;
        fs::rename(&self.part, &self.path).map_err(ToolError::io("rename", &self.part))?;
        self.is_done = true;
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(ToolError::io("sync", folder))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn refuse_existing(path: &Path) -> Result<(), ToolError> {
    if path.symlink_metadata().is_ok() {
        return Err(ToolError::Exists { path: path.into() });
    }
    Ok(())
}

/// Whether the path means stdin or stdout.
pub(super) fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Where an export goes.
pub(super) enum Output {
    /// As it is.
    Plain(Sink),
    /// Compressed.
    Zstd(zstd::stream::write::Encoder<'static, Sink>),
}

/// Where its bytes go.
pub(super) enum Sink {
    /// A pipe.
    Stdout(BufWriter<io::Stdout>),
    /// A new file.
    File(NewFile),
}

impl Output {
    /// To `path`, or to stdout where it is `-`.
    pub(super) fn create(path: &Path, zstd: bool) -> Result<Self, ToolError> {
        let sink = Sink::create(path)?;
        if !zstd {
            return Ok(Self::Plain(sink));
        }
        let level = zstd::DEFAULT_COMPRESSION_LEVEL;
        let mut encoder = zstd::stream::write::Encoder::new(sink, level)
            .map_err(ToolError::io("compress", path))?;
        encoder
            .include_checksum(true)
            .map_err(ToolError::io("compress", path))?;
        Ok(Self::Zstd(encoder))
    }

    /// Makes it whole.
    pub(super) fn commit(self, path: &Path) -> Result<(), ToolError> {
        let sink = match self {
            Self::Plain(sink) => sink,
            Self::Zstd(encoder) => encoder.finish().map_err(ToolError::io("write", path))?,
        };
        sink.commit(path)
    }
}

impl Sink {
    /// To `path`, or to stdout where it is `-`.
    pub(super) fn create(path: &Path) -> Result<Self, ToolError> {
        Ok(if is_pipe(path) {
            Self::Stdout(BufWriter::with_capacity(BUFFER_BYTES, io::stdout()))
        } else {
            Self::File(NewFile::create(path)?)
        })
    }

    /// Makes it whole.
    pub(super) fn commit(self, path: &Path) -> Result<(), ToolError> {
        match self {
            Self::Stdout(mut out) => out.flush().map_err(ToolError::io("write", path)),
            Self::File(file) => file.commit(),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(sink) => sink.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

/// The bytes of `path`, or of stdin where it is `-`, as they are; with their number where that is known.
pub(super) fn open_plain(path: &Path) -> Result<(Box<dyn Read>, u64), ToolError> {
    if is_pipe(path) {
        return Ok((Box::new(io::stdin()), 0));
    }
    let file = File::open(path).map_err(ToolError::input("open", path))?;
    let size_bytes = file.metadata().map_or(0, |metadata| metadata.len());
    Ok((Box::new(file), size_bytes))
}

/// Like [`open_plain`], decompressed where they are compressed.
pub(super) fn open_input(path: &Path) -> Result<Box<dyn BufRead>, ToolError> {
    let (mut source, _) = open_plain(path)?;
    let mut head = Vec::new();
    let magic_bytes = u64::try_from(ZSTD_MAGIC.len()).unwrap_or(u64::MAX);
    source
        .by_ref()
        .take(magic_bytes)
        .read_to_end(&mut head)
        .map_err(ToolError::input("read", path))?;
    let is_zstd = head == ZSTD_MAGIC;
    let whole = io::Cursor::new(head).chain(source);
    if is_zstd {
        let decoder =
            zstd::stream::read::Decoder::new(whole).map_err(ToolError::io("decompress", path))?;
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)))
    } else {
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, whole)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_whole_and_the_owners_alone_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        let second = NewFile::create(&path).unwrap_err();
        assert_eq!(second.exit(), crate::cli::Exit::TryAgain, "{second}");
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        // What a kill left is written over.
        fs::write(folder.path().join("out.part"), "longer than what follows").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"whole").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, OWNER_ONLY);
        let again = NewFile::create(&path).unwrap_err();
        assert!(matches!(again, ToolError::Exists { .. }), "{again}");
    }

    #[test]
    fn compressed_and_plain_files_read_alike_and_a_cut_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let text = "one line\n".repeat(10_000);
        for zstd in [false, true] {
            let path = folder.path().join(if zstd { "zstd" } else { "plain" });
            let mut output = Output::create(&path, zstd).unwrap();
            output.write_all(text.as_bytes()).unwrap();
            output.commit(&path).unwrap();
            let mut read = String::new();
            open_input(&path)
                .unwrap()
                .read_to_string(&mut read)
                .unwrap();
            assert_eq!(read, text);
        }
        let path = folder.path().join("zstd");
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() < text.len() / 10);
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut read = String::new();
        assert!(
            open_input(&path)
                .unwrap()
                .read_to_string(&mut read)
                .is_err()
        );
    }
}
