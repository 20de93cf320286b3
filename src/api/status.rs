//! From the domain's errors to codes and reasons. Pure.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

use nix::errno::Errno;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::proto::ErrorReason;
use crate::credential::CredentialError;
use crate::engine::EngineError;
use crate::guest::client::GuestError;
use crate::guest::wire::Step;
use crate::hands::RunError;
use crate::hands::files::{EditError, FileError, SearchError};
use crate::hands::output::SpoolError;
use crate::image::ImageError;
use crate::network::ConnectError;
use crate::network::policy::Beyond;
use crate::sandbox::{ForwardError, SandboxError};
use crate::session::SessionError;
use crate::store::StoreError;
use crate::telemetry::chain;

/// The domain of every reason.
pub const DOMAIN: &str = "hands.v1";

/// Longest message, in bytes. A caller's own words may be a part of it; it travels in headers, up to three times and encoded,
/// and clients of gRPC take 8 KiB of these.
const MAX_MESSAGE: usize = 1024;

/// An error as the API tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    code: Code,
    reason: ErrorReason,
    message: String,
    field: Option<Cow<'static, str>>,
    errno: Option<i32>,
}

impl Fault {
    /// An error without more to it.
    #[must_use]
    pub fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        Self { code, reason, message: shortened(message.into()), field: None, errno: None }
    }

    /// A bad argument; `message` says what was expected.
    #[must_use]
    pub fn argument(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::argument_for(ErrorReason::ArgumentInvalid, field, message)
    }

    /// A bad argument with a reason of its own.
    #[must_use]
    pub fn argument_for(reason: ErrorReason, field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        let message = format!("{field}: {message}");
        Self { field: Some(field), ..Self::new(Code::InvalidArgument, reason, message) }
    }

    /// The same of a field that is one of another's.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        let field = self.field.map(|field| format!("{parent}.{field}").into());
        Self { field, message: format!("{parent}.{}", self.message), ..self }
    }

    /// It is about something that is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// The kind of it.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What exactly.
    #[must_use]
    pub fn reason(&self) -> ErrorReason {
        self.reason
    }

    /// For people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field that it is about.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    fn about(self, field: &'static str) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    fn errno(self, errno: i32) -> Self {
        Self { errno: Some(errno), ..self }
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push_str(" ...");
    }
    message
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let errno = fault.errno.map(|errno| ("errno".to_owned(), format!("{:?}", nix::errno::Errno::from_raw(errno))));
        let metadata: HashMap<String, String> = errno.into_iter().collect();
        let mut details = ErrorDetails::with_error_info(fault.reason.as_str_name(), DOMAIN, metadata);
        if let Some(field) = fault.field {
            details.add_bad_request_violation(field, fault.message.clone());
        }
        Self::with_error_details(fault.code, fault.message, details)
    }
}

impl From<SandboxError> for Fault {
    fn from(error: SandboxError) -> Self {
        let message = chain(&error).to_string();
        let (code, reason) = match &error {
            SandboxError::NotFound(_) => (Code::NotFound, ErrorReason::SandboxNotFound),
            SandboxError::NotRunning { .. } => (Code::FailedPrecondition, ErrorReason::SandboxNotRunning),
            SandboxError::Conflict => (Code::AlreadyExists, ErrorReason::IdempotencyConflict),
            SandboxError::TooMany { .. } => (Code::ResourceExhausted, ErrorReason::TooManyRequests),
            SandboxError::Create(source) | SandboxError::Engine { source, .. } => return engine_fault(source, message),
            SandboxError::Network(Beyond::Mode { .. }) | SandboxError::NetworkMode { .. } => {
                return Self::new(Code::FailedPrecondition, ErrorReason::NetworkUnsupported, message)
                    .about("network.mode");
            }
            SandboxError::Network(Beyond::Rule(_)) => {
                return Self::new(Code::FailedPrecondition, ErrorReason::NetworkUnsupported, message)
                    .about("network.allow");
            }
            SandboxError::SecretsWithoutProxy(_) | SandboxError::NoSecrets(_) => {
                return Self::new(Code::FailedPrecondition, ErrorReason::NetworkUnsupported, message).about("secrets");
            }
            SandboxError::TooManySecrets => return Self::argument("secrets", message),
            SandboxError::Secrets(_) => (Code::Internal, ErrorReason::InternalFault),
            SandboxError::Certificates(_) => (Code::Internal, ErrorReason::SandboxCreateFailed),
            SandboxError::Busy(_) => (Code::FailedPrecondition, ErrorReason::SandboxBusy),
            SandboxError::Guest(_) => (Code::Internal, ErrorReason::SandboxCreateFailed),
            SandboxError::Destroy { .. } => (Code::Internal, ErrorReason::InternalFault),
            SandboxError::Draining => (Code::Unavailable, ErrorReason::NodeDraining),
            SandboxError::WakesFull => (Code::ResourceExhausted, ErrorReason::TooManyRequests),
            SandboxError::Store { source: StoreError::Full { .. }, .. } => {
                (Code::ResourceExhausted, ErrorReason::DiskFull)
            }
            SandboxError::Store { .. } => (Code::Internal, ErrorReason::InternalFault),
            SandboxError::ShuttingDown => (Code::Unavailable, ErrorReason::ShuttingDown),
        };
        Self::new(code, reason, message)
    }
}

fn engine_fault(error: &EngineError, message: String) -> Fault {
    match error {
        EngineError::Image { source, .. } => image_fault(source, message).about("image"),
        EngineError::LimitUnsupported { .. } => {
            Fault::new(Code::FailedPrecondition, ErrorReason::LimitUnsupported, message).about("limits")
        }
        EngineError::NetworkUnsupported { .. } => {
            Fault::new(Code::FailedPrecondition, ErrorReason::NetworkUnsupported, message).about("network.mode")
        }
        EngineError::FreezeUnsupported => {
            Fault::new(Code::FailedPrecondition, ErrorReason::HibernateUnsupported, message)
        }
        EngineError::ImageUnsupported { .. } => {
            Fault::new(Code::InvalidArgument, ErrorReason::ArgumentInvalid, message).about("image")
        }
        EngineError::RuntimeUnknown { .. } | EngineError::Unavailable { .. } => {
            Fault::new(Code::Unavailable, ErrorReason::EngineUnavailable, message)
        }
        EngineError::Step { source, .. } if is_disk_full(source) => {
            Fault::new(Code::ResourceExhausted, ErrorReason::DiskFull, message).errno(raw(source))
        }
        EngineError::Step { .. } => Fault::new(Code::Internal, ErrorReason::SandboxCreateFailed, message),
        EngineError::Gone => Fault::new(Code::Unavailable, ErrorReason::ShuttingDown, message),
    }
}

fn image_fault(error: &ImageError, message: String) -> Fault {
    let (code, reason) = match error {
        ImageError::Io { source, .. } if is_disk_full(source) => {
            return Fault::new(Code::ResourceExhausted, ErrorReason::DiskFull, message).errno(raw(source));
        }
        ImageError::NotFound | ImageError::NotInArchive { .. } => (Code::NotFound, ErrorReason::ImageNotFound),
        ImageError::NameNeeded { .. } => (Code::InvalidArgument, ErrorReason::ArgumentInvalid),
        ImageError::Invalid { .. } | ImageError::TooLarge { .. } => {
            (Code::FailedPrecondition, ErrorReason::ImageInvalid)
        }
        ImageError::Pull { .. } | ImageError::PullRefused { .. } | ImageError::PullTimeout { .. } => {
            (Code::Unavailable, ErrorReason::ImagePullFailed)
        }
        ImageError::Io { .. } => (Code::Internal, ErrorReason::SandboxCreateFailed),
    };
    Fault::new(code, reason, message)
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        let message = chain(&error).to_string();
        match error {
            StoreError::Expired { .. } => Self::new(Code::OutOfRange, ErrorReason::EventsExpired, message),
            StoreError::Ahead { newest } => {
                Self::argument("after_seq", format!("is beyond the newest event, {newest}"))
            }
            StoreError::Gone => Self::new(Code::Unavailable, ErrorReason::ShuttingDown, message),
            _ => Self::new(Code::Internal, ErrorReason::InternalFault, message),
        }
    }
}

impl From<ForwardError> for Fault {
    fn from(error: ForwardError) -> Self {
        let message = chain(&error).to_string();
        match error {
            ForwardError::Sandbox(error) => error.into(),
            ForwardError::Connect { source: ConnectError::Closed { .. }, .. } => {
                Self::new(Code::FailedPrecondition, ErrorReason::PortClosed, message)
            }
            ForwardError::Connect { source: ConnectError::Silent { .. }, .. } => {
                Self::new(Code::Unavailable, ErrorReason::PortClosed, message)
            }
            ForwardError::Connect {
                source: ConnectError::Guest(GuestError::Refused { errno: Errno::EOPNOTSUPP, .. }),
                ..
            } => Self::new(Code::FailedPrecondition, ErrorReason::NetworkUnsupported, message),
            ForwardError::Connect { source: ConnectError::Guest(_) | ConnectError::Socket { .. }, .. } => {
                Self::new(Code::Unavailable, ErrorReason::SandboxLost, message)
            }
        }
    }
}

impl From<CredentialError> for Fault {
    fn from(error: CredentialError) -> Self {
        let message = chain(&error).to_string();
        let (code, reason) = match error {
            CredentialError::Invalid { field, message } => return Self::argument(field, message),
            CredentialError::NotFound(_) => (Code::NotFound, ErrorReason::CredentialNotFound),
            CredentialError::Exists(_) => (Code::AlreadyExists, ErrorReason::CredentialExists),
            CredentialError::Store(StoreError::Full { .. }) => (Code::ResourceExhausted, ErrorReason::DiskFull),
            CredentialError::Store(StoreError::Locked { .. }) => (Code::Unavailable, ErrorReason::InternalFault),
            CredentialError::Store(_) | CredentialError::Seal(_) => (Code::Internal, ErrorReason::InternalFault),
        };
        Self::new(code, reason, message)
    }
}

impl From<SessionError> for Fault {
    fn from(error: SessionError) -> Self {
        let message = chain(&error).to_string();
        let (code, reason) = match error {
            SessionError::Invalid { field, message } => return Self::argument(field, message),
            SessionError::Credential(error) => return error.into(),
            SessionError::UnknownAgent(_) => (Code::NotFound, ErrorReason::AgentNotFound),
            SessionError::AgentDiffers { .. } => (Code::AlreadyExists, ErrorReason::AgentDiffers),
            SessionError::AgentChanged(_) => (Code::Aborted, ErrorReason::AgentChanged),
            SessionError::NotFound(_) => (Code::NotFound, ErrorReason::SessionNotFound),
            SessionError::UnknownTurn(_) => (Code::NotFound, ErrorReason::TurnNotFound),
            SessionError::UnknownEvent(_) => (Code::NotFound, ErrorReason::EventNotFound),
            SessionError::Conflict { .. } => (Code::AlreadyExists, ErrorReason::IdempotencyConflict),
            SessionError::Archived(_) => (Code::FailedPrecondition, ErrorReason::SessionArchived),
            SessionError::Busy { .. } => (Code::ResourceExhausted, ErrorReason::TooManyRequests),
            SessionError::Store(StoreError::Full { .. }) => (Code::ResourceExhausted, ErrorReason::DiskFull),
            SessionError::Store(StoreError::Locked { .. }) => (Code::Unavailable, ErrorReason::InternalFault),
            SessionError::Runtime(_) => (Code::FailedPrecondition, ErrorReason::RuntimeUnavailable),
            SessionError::Store(_) | SessionError::Content(_) | SessionError::Record { .. } => {
                (Code::Internal, ErrorReason::InternalFault)
            }
            SessionError::ShuttingDown => (Code::Unavailable, ErrorReason::ShuttingDown),
        };
        Self::new(code, reason, message)
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        let message = chain(&error).to_string();
        let (code, reason) = match &error {
            RunError::NotFound(_) => (Code::NotFound, ErrorReason::RunNotFound),
            RunError::Conflict => (Code::AlreadyExists, ErrorReason::IdempotencyConflict),
            RunError::TooMany { .. } => (Code::ResourceExhausted, ErrorReason::TooManyRequests),
            RunError::Refused { step, errno, .. } => return refused(*step, *errno as i32, message),
            RunError::StdinClosed(_) => (Code::FailedPrecondition, ErrorReason::StdinClosed),
            RunError::NoTerminal(_) => (Code::FailedPrecondition, ErrorReason::NoPty),
            RunError::CursorBeyond { .. } => return Self::argument("cursor", message),
            RunError::Lost(_) => (Code::Unavailable, ErrorReason::SandboxLost),
            RunError::Output(SpoolError::File { source, .. }) if is_disk_full(source) => {
                return Self::new(Code::ResourceExhausted, ErrorReason::DiskFull, message).errno(raw(source));
            }
            RunError::Output(SpoolError::File { source, .. }) | RunError::Host { source, .. }
                if is_out_of_files(source) =>
            {
                return Self::new(Code::ResourceExhausted, ErrorReason::TooManyRequests, message).errno(raw(source));
            }
            RunError::Output(_) | RunError::Host { .. } => (Code::Internal, ErrorReason::InternalFault),
        };
        Self::new(code, reason, message)
    }
}

/// The node's own disk is full.
fn is_disk_full(error: &io::Error) -> bool {
    matches!(raw(error), libc::ENOSPC | libc::EDQUOT)
}

/// The daemon, or the whole node, has as many files open as it may have.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(raw(error), libc::EMFILE | libc::ENFILE)
}

fn raw(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// A run that the guest could not start: the caller's doing, or the sandbox's.
fn refused(step: Step, errno: i32, message: String) -> Fault {
    if (step, errno) == (Step::Pty, libc::EOPNOTSUPP) {
        let message = "an earlier version made this sandbox, which had no terminals where guests are reached by stdio; one \
                       that is made now has";
        return Fault::new(Code::FailedPrecondition, ErrorReason::TerminalUnsupported, message).about("pty");
    }
    let (code, reason, field) = match (step, errno) {
        (Step::User | Step::Credentials, _) => (Code::FailedPrecondition, ErrorReason::UserNotFound, Some("user")),
        (Step::Cwd, _) => (Code::FailedPrecondition, ErrorReason::CwdInvalid, Some("cwd")),
        (Step::Interpreter, _) | (Step::Exec, libc::ENOEXEC | libc::ELIBBAD | libc::EINVAL) => {
            (Code::FailedPrecondition, ErrorReason::ProgramFormat, Some("argv"))
        }
        (Step::Exec, libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG) => {
            (Code::NotFound, ErrorReason::ProgramNotFound, Some("argv"))
        }
        (Step::Exec, libc::EACCES | libc::EPERM | libc::EISDIR) => {
            (Code::FailedPrecondition, ErrorReason::ProgramNotExecutable, Some("argv"))
        }
        (Step::Exec, libc::E2BIG) => (Code::InvalidArgument, ErrorReason::ArgumentsTooLong, Some("argv")),
        (Step::Fork | Step::Pty, libc::EAGAIN | libc::ENOMEM | libc::ENOSPC | libc::EMFILE) => {
            (Code::ResourceExhausted, ErrorReason::ProcessLimit, None)
        }
        (Step::Request, _) => (Code::InvalidArgument, ErrorReason::ArgumentInvalid, Some("argv")),
        (Step::Exec | Step::Fork | Step::Pty | Step::Gone | Step::Socket | Step::Unspecified, _) => {
            (Code::Internal, ErrorReason::SpawnFailed, None)
        }
    };
    let fault = Fault::new(code, reason, message).errno(errno);
    field.into_iter().fold(fault, Fault::about)
}

/// An error of the file system that tells of what was asked for, and not of a fault of its own: another file system on the
/// way (EXDEV), something that is mounted or executed (EBUSY, ETXTBSY).
fn is_refusal(errno: i32) -> bool {
    matches!(Errno::from_raw(errno), Errno::EXDEV | Errno::EBUSY | Errno::ETXTBSY)
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        let message = chain(&error).to_string();
        let (code, reason, errno) = match error {
            FileError::NotFound { errno, .. } => (Code::NotFound, ErrorReason::FileNotFound, Some(errno)),
            FileError::Exists { errno, .. } => (Code::AlreadyExists, ErrorReason::FileExists, Some(errno)),
            FileError::Permission { errno, .. } => (Code::PermissionDenied, ErrorReason::FilePermission, Some(errno)),
            FileError::IsDirectory { errno, .. } => (Code::FailedPrecondition, ErrorReason::IsDirectory, Some(errno)),
            FileError::NotDirectory { errno, .. } => (Code::FailedPrecondition, ErrorReason::NotDirectory, Some(errno)),
            FileError::NotRegular { .. } => (Code::FailedPrecondition, ErrorReason::NotRegular, None),
            FileError::NotEmpty { errno, .. } => {
                (Code::FailedPrecondition, ErrorReason::DirectoryNotEmpty, Some(errno))
            }
            FileError::PathInvalid { errno, .. } => {
                let fault = Self::argument_for(ErrorReason::PathInvalid, "path", message);
                return fault.errno(errno);
            }
            FileError::DiskFull { errno, .. } => (Code::ResourceExhausted, ErrorReason::DiskFull, Some(errno)),
            FileError::ChecksumMismatch { .. } => (Code::FailedPrecondition, ErrorReason::ChecksumMismatch, None),
            FileError::UserNotFound { errno, .. } => (Code::FailedPrecondition, ErrorReason::UserNotFound, Some(errno)),
            FileError::PageTokenInvalid { .. } => return Self::argument("page_token", message),
            FileError::Busy { .. } => (Code::ResourceExhausted, ErrorReason::TooManyRequests, None),
            FileError::NoThread { errno, .. } => (Code::ResourceExhausted, ErrorReason::ProcessLimit, Some(errno)),
            FileError::Lost { .. } => (Code::Unavailable, ErrorReason::SandboxLost, None),
            FileError::Other { errno, .. } if is_refusal(errno) => {
                (Code::FailedPrecondition, ErrorReason::FileFailed, Some(errno))
            }
            FileError::Other { errno, .. } => (Code::Internal, ErrorReason::FileFailed, Some(errno)),
        };
        let fault = Self::new(code, reason, message);
        errno.filter(|errno| *errno != 0).into_iter().fold(fault, Self::errno)
    }
}

impl From<EditError> for Fault {
    fn from(error: EditError) -> Self {
        let message = chain(&error).to_string();
        let precondition = |reason, field| Self::new(Code::FailedPrecondition, reason, message.clone()).about(field);
        match error {
            EditError::File(source) => source.into(),
            EditError::TooLarge { .. } => precondition(ErrorReason::FileTooLarge, "path"),
            EditError::Outgrown { .. } => precondition(ErrorReason::FileTooLarge, "new_text"),
            EditError::Pointless => Self::argument("old_text", message),
            EditError::Absent { .. } => precondition(ErrorReason::TextNotFound, "old_text"),
            EditError::Ambiguous { .. } => precondition(ErrorReason::TextAmbiguous, "old_text"),
        }
    }
}

impl From<SearchError> for Fault {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Pattern { field, message } => Self::argument(field, message),
            SearchError::File(source) => source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason_of(step: Step, errno: i32) -> (Code, ErrorReason) {
        let fault = refused(step, errno, String::new());
        (fault.code, fault.reason)
    }

    #[test]
    fn each_way_a_program_cannot_start_has_its_own_reason() {
        let cases = [
            (Step::Exec, libc::ENOENT, Code::NotFound, ErrorReason::ProgramNotFound),
            (Step::Exec, libc::EACCES, Code::FailedPrecondition, ErrorReason::ProgramNotExecutable),
            (Step::Exec, libc::ENOEXEC, Code::FailedPrecondition, ErrorReason::ProgramFormat),
            (Step::Interpreter, libc::ENOENT, Code::FailedPrecondition, ErrorReason::ProgramFormat),
            (Step::Exec, libc::E2BIG, Code::InvalidArgument, ErrorReason::ArgumentsTooLong),
            (Step::Cwd, libc::ENOENT, Code::FailedPrecondition, ErrorReason::CwdInvalid),
            (Step::Cwd, libc::ENOTDIR, Code::FailedPrecondition, ErrorReason::CwdInvalid),
            (Step::User, libc::ENOENT, Code::FailedPrecondition, ErrorReason::UserNotFound),
            (Step::Fork, libc::EAGAIN, Code::ResourceExhausted, ErrorReason::ProcessLimit),
        ];
        for (step, errno, code, reason) in cases {
            assert_eq!(reason_of(step, errno), (code, reason), "{step:?} {errno}");
        }
    }

    #[test]
    fn what_the_node_lacks_or_the_caller_asks_for_is_no_fault_of_the_daemons() {
        let step = |errno| EngineError::Step { step: String::new(), source: io::Error::from_raw_os_error(errno) };
        let of = |fault: Fault| (fault.code, fault.reason);
        let full = (Code::ResourceExhausted, ErrorReason::DiskFull);
        assert_eq!(of(engine_fault(&step(libc::ENOSPC), String::new())), full);
        let image = ImageError::Io { step: String::new(), source: io::Error::from_raw_os_error(libc::EDQUOT).into() };
        assert_eq!(of(image_fault(&image, String::new())), full);
        let broken = (Code::Internal, ErrorReason::SandboxCreateFailed);
        assert_eq!(of(engine_fault(&step(libc::EIO), String::new())), broken);
        let files = RunError::Host { step: "", source: io::Error::from_raw_os_error(libc::EMFILE) };
        assert_eq!(of(files.into()), (Code::ResourceExhausted, ErrorReason::TooManyRequests));
        let other = |errno| of(FileError::Other { path: String::new(), errno }.into());
        assert_eq!(other(libc::EXDEV), (Code::FailedPrecondition, ErrorReason::FileFailed));
        assert_eq!(other(libc::EIO), (Code::Internal, ErrorReason::FileFailed));
    }

    #[test]
    fn a_message_with_much_of_the_caller_in_it_is_cut() {
        let fault = Fault::new(Code::NotFound, ErrorReason::AgentNotFound, "é".repeat(1_000));
        assert_eq!(fault.message, "é".repeat(512) + " ...");
    }

    #[test]
    fn a_status_carries_reason_field_and_errno() {
        let status = Status::from(refused(Step::Exec, libc::ENOENT, "nope: not found".to_owned()));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PROGRAM_NOT_FOUND", DOMAIN));
        assert_eq!(info.metadata.get("errno").map(String::as_str), Some("ENOENT"));
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "argv");
    }
}
