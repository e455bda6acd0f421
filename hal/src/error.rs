//! The one error type of the workspace.
//!
//! An error says what was being done, what was wrong, and what to do next:
//! `Corrupt: read model.safetensors: header claims 8 GiB, file has 12 KiB (copy the file again)`.

use std::fmt;

/// `Result` with [`Error`] as its default error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// The class of an [`Error`]; callers branch on this, people read the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device or this build cannot do it; another device, dtype or option may.
    Unsupported,
    /// The caller passed something that no device accepts (shape, dtype, range).
    InvalidArgument,
    /// An allocation, or a plan for one, exceeds what the device or host has.
    OutOfMemory,
    /// The device stopped answering; its accelerator is unusable from now on.
    DeviceLost,
    /// A kernel did not compile.
    CompileFailed,
    /// A file, tensor, device or library is not there.
    NotFound,
    /// A file contradicts its own format.
    Corrupt,
    /// NaN or infinity where numbers must be.
    Numeric,
    /// The operating system refused (permission, disk full, broken pipe).
    Io,
    /// A bug, ours or a driver's.
    Unexpected,
}

impl ErrorKind {
    /// Every class.
    pub const ALL: [ErrorKind; 10] = [
        ErrorKind::Unsupported,
        ErrorKind::InvalidArgument,
        ErrorKind::OutOfMemory,
        ErrorKind::DeviceLost,
        ErrorKind::CompileFailed,
        ErrorKind::NotFound,
        ErrorKind::Corrupt,
        ErrorKind::Numeric,
        ErrorKind::Io,
        ErrorKind::Unexpected,
    ];
}

/// An error with its class, the act that failed, the reason, and the next step.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    doing: String,
    detail: String,
    next: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` met while `doing` something (a verb phrase), because of `detail`.
    pub fn new(kind: ErrorKind, doing: impl Into<String>, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            doing: doing.into(),
            detail: detail.into(),
            next: None,
            source: None,
        }))
    }

    /// Shorthand for [`ErrorKind::InvalidArgument`].
    pub fn invalid(doing: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, doing, detail)
    }

    /// Shorthand for [`ErrorKind::Unsupported`].
    pub fn unsupported(doing: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, doing, detail)
    }

    /// Shorthand for [`ErrorKind::Corrupt`].
    pub fn corrupt(doing: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, doing, detail)
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn next_step(mut self, next: impl Into<String>) -> Self {
        self.0.next = Some(next.into());
        self
    }

    /// Attaches the underlying error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was being done.
    pub fn doing(&self) -> &str {
        &self.0.doing
    }

    /// What was wrong.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What the user can do next, when we know.
    pub fn next(&self) -> Option<&str> {
        self.0.next.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.0.kind, self.0.doing, self.0.detail)?;
        match &self.0.next {
            Some(next) => write!(f, " ({next})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match &self.0.source {
            Some(source) => write!(f, ": {source:?}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|s| &**s as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_why_and_next() {
        let e = Error::unsupported("plan rms_norm on cuda:0", "dtype f64").next_step("use f32");
        assert_eq!(
            e.to_string(),
            "Unsupported: plan rms_norm on cuda:0: dtype f64 (use f32)"
        );
        assert_eq!(e.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
