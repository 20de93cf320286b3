//! What a run does, told to the caller: its output as it comes, and how it ended.

use std::io::Write;

use handsd::api::proto::exited::{Reason, Status};
use handsd::api::proto::run_event::Event;
use handsd::api::proto::{Exited, OutputStream};

use crate::output::{printable, write_flushed};
use crate::{errors, json};

/// As timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// What a shell adds to the number of a signal.
const SIGNALED: u8 = 128;
/// A fork bomb leaves thousands of killed processes; nobody reads more than this.
const SHOWN_PROCESSES: usize = 8;

/// How events are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes as they are, on stdout and stderr.
    Text,
    /// A JSON object a line, all on stdout.
    Json,
}

/// Tells one event; flushed, so that the caller sees it now. The order of the bytes is that of the events.
pub fn tell(format: Format, event: &Event, out: &mut impl Write, err: &mut impl Write) -> anyhow::Result<()> {
    match (format, event) {
        (Format::Json, event) => write_flushed(out, format!("{}\n", json::event(event)).as_bytes()),
        (Format::Text, Event::Output(output)) => match output.stream() {
            OutputStream::Stderr => write_flushed(err, &output.data),
            OutputStream::Stdout | OutputStream::Unspecified => write_flushed(out, &output.data),
        },
        (Format::Text, Event::Gap(gap)) => {
            errors::note(&format!("bytes {} to {} of the output were not kept", gap.from, gap.to));
            Ok(())
        }
        (Format::Text, Event::Started(_) | Event::Exited(_)) => Ok(()),
    }
}

/// The exit code that says how the run ended.
pub fn exit_code(exited: &Exited) -> u8 {
    match (exited.reason(), exited.status) {
        (Reason::TimedOut, _) => TIMED_OUT,
        (_, Some(Status::Code(code))) => u8::try_from(code).unwrap_or(errors::FAILED),
        (_, Some(Status::Signal(signal))) => {
            u8::try_from(signal).map_or(errors::FAILED, |it| SIGNALED.saturating_add(it))
        }
        (_, None) => errors::FAILED,
    }
}

/// What the exit code does not say, in one line; `None` if it says all.
pub fn ending(exited: &Exited) -> Option<String> {
    let what = match exited.reason() {
        Reason::Unspecified | Reason::Exited | Reason::Signaled => return None,
        Reason::TimedOut => "the run timed out",
        Reason::Canceled => "the run was canceled",
        Reason::OomKilled => "the sandbox's memory was used up, and the kernel ended the run",
        Reason::SandboxLost => "the sandbox ended before the run did",
    };
    let mut text = what.to_owned();
    let names = exited.killed.iter().take(SHOWN_PROCESSES).map(|it| format!("{} ({})", printable(&it.name), it.pid));
    let names: Vec<String> = names.collect();
    if !names.is_empty() {
        text.push_str(&format!("; ended {}", names.join(", ")));
    }
    if exited.killed.len() > names.len() {
        text.push_str(&format!(" and {} more", exited.killed.len() - names.len()));
    }
    if exited.degraded {
        text.push_str("; without a cgroup, a process that forks fast may have escaped");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use handsd::api::proto::{KilledProcess, Output};

    use super::*;

    fn ended(reason: Reason, status: Option<Status>) -> Exited {
        Exited { reason: reason.into(), status, ..Default::default() }
    }

    #[test]
    fn the_exit_code_is_the_commands_own() {
        assert_eq!(exit_code(&ended(Reason::Exited, Some(Status::Code(7)))), 7);
        assert_eq!(exit_code(&ended(Reason::Canceled, Some(Status::Code(0)))), 0);
        assert_eq!(exit_code(&ended(Reason::Signaled, Some(Status::Signal(9)))), 137);
        assert_eq!(exit_code(&ended(Reason::OomKilled, Some(Status::Signal(9)))), 137);
    }

    #[test]
    fn a_timeout_is_124_and_an_end_nobody_saw_is_125_and_never_0() {
        assert_eq!(exit_code(&ended(Reason::TimedOut, Some(Status::Code(0)))), 124);
        assert_eq!(exit_code(&ended(Reason::SandboxLost, None)), 125);
        assert_eq!(exit_code(&ended(Reason::Exited, Some(Status::Code(256)))), 125);
        assert_eq!(exit_code(&ended(Reason::Exited, Some(Status::Code(-1)))), 125);
    }

    #[test]
    fn the_ending_names_some_of_what_was_killed() {
        assert_eq!(ending(&ended(Reason::Exited, Some(Status::Code(1)))), None);
        let killed = |count| (1..=count).map(|pid| KilledProcess { pid, name: "a\nb".to_owned() }).collect();
        let two = Exited { killed: killed(2), ..ended(Reason::TimedOut, None) };
        assert_eq!(ending(&two).as_deref(), Some("the run timed out; ended a?b (1), a?b (2)"));
        let many = Exited { killed: killed(10), ..ended(Reason::Canceled, None) };
        assert!(ending(&many).is_some_and(|text| text.ends_with("a?b (8) and 2 more")));
    }

    fn told(format: Format, stream: OutputStream) -> (Vec<u8>, Vec<u8>) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let event = Event::Output(Output { stream: stream.into(), cursor: 0, data: b"\xffx".as_slice().into() });
        tell(format, &event, &mut out, &mut err).expect("memory takes it");
        (out, err)
    }

    #[test]
    fn bytes_go_unchanged_to_the_stream_they_came_from() {
        assert_eq!(told(Format::Text, OutputStream::Stdout), (b"\xffx".to_vec(), vec![]));
        assert_eq!(told(Format::Text, OutputStream::Stderr), (vec![], b"\xffx".to_vec()));
    }

    #[test]
    fn json_is_a_line_on_stdout_for_either_stream() {
        let (out, err) = told(Format::Json, OutputStream::Stderr);
        assert!(out.ends_with(b"}\n") && out.iter().filter(|byte| **byte == b'\n').count() == 1);
        assert_eq!(err, b"");
    }
}
