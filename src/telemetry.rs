//! What is told of what the daemon does: logs, to standard error, for people or for machines; errors with all their causes;
//! and [`spans`] of calls, for a collector of traces.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, reload};

pub mod export;
pub mod otlp;
pub mod spans;
pub mod trace;

/// Where spans of calls are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceConfig {
    /// The root of a collector that speaks OTLP over HTTP, without a slash at its end; `None`: nowhere.
    pub otlp: Option<String>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives of `tracing_subscriber::EnvFilter`, known to be valid.
    pub filter: String,
    /// For whom.
    pub format: LogFormat,
}

/// For whom the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line, for machines.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("log filter {filter:?}")]
    Filter {
        /// As configured.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Nothing can be sent to a collector.
    #[error("a client for the collector of spans")]
    Client(#[source] reqwest::Error),
    /// Something in this process logs already.
    #[error("starting the log")]
    Started(#[source] TryInitError),
    /// Nothing in this process logs any more.
    #[error("changing the log")]
    Ended(#[source] reload::Error),
}

/// Whether lines for people are coloured; lines for machines never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// With ANSI escape sequences.
    On,
    /// Plain text.
    Off,
}

impl Colour {
    /// On if `stream` is a terminal and the user did not set `NO_COLOR` (<https://no-color.org>).
    #[must_use]
    pub fn of(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !refused { Self::On } else { Self::Off }
    }
}

/// Changes what is logged while the process runs.
pub struct LogFilter(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl LogFilter {
    /// Logs by these directives from now on.
    ///
    /// # Errors
    /// [`TelemetryError::Filter`], or the log has ended.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        (self.0)(parse(filter)?).map_err(TelemetryError::Ended)
    }
}

/// Starts the log of this process, on standard error.
///
/// # Errors
/// See [`TelemetryError`]; of a filter only if the configuration was not made by parsing.
pub fn init(config: &LogConfig) -> Result<LogFilter, TelemetryError> {
    let (subscriber, filter) = subscriber(config, Colour::of(&io::stderr()), io::stderr)?;
    subscriber.try_init().map_err(TelemetryError::Started)?;
    Ok(filter)
}

/// What is logged only where a filter names it: of each message of an MCP client, its faults among them, a line.
const QUIET: &str = "rmcp=off";

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    // The later one of two directives for the same target is in force.
    let parsed = EnvFilter::builder().parse(format!("{QUIET},{filter}"));
    parsed.map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
}

fn subscriber<W>(
    config: &LogConfig,
    colour: Colour,
    writer: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, LogFilter), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(parse(&config.filter)?).with_writer(writer);
    Ok(match config.format {
        LogFormat::Human => {
            let builder = builder.with_ansi(colour == Colour::On).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(builder.finish()), LogFilter(Box::new(move |filter| handle.reload(filter))))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_span_list(false).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(builder.finish()), LogFilter(Box::new(move |filter| handle.reload(filter))))
        }
    })
}

/// Shows an error with all its causes, outermost first: "a: b: c". A cause that the error before it has already said at
/// its end, as errors of some other crates do, is not said again.
pub fn chain(error: &dyn Error) -> impl fmt::Display {
    fmt::from_fn(move |formatter| {
        let mut said = error.to_string();
        formatter.write_str(&said)?;
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !said.ends_with(&text) {
                write!(formatter, ": {text}")?;
                said = text;
            }
            source = cause.source();
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: LogFormat, colour: Colour) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let config = LogConfig { filter: filter.to_owned(), format };
        let (subscriber, _) = subscriber(&config, colour, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("run", run.id = "run_1").entered();
            tracing::info!(bytes = 7, "drained");
            tracing::debug!("chatter");
            tracing::error!(target: "rmcp::service", "a client hung up");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn machines_get_one_object_a_line_with_the_span_it_is_in() {
        let text = logged("info", LogFormat::Json, Colour::On);
        assert_eq!(text.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["message"], &line["bytes"]), (&"drained".into(), &7.into()));
        assert_eq!(line["span"]["run.id"], "run_1");
    }

    #[test]
    fn only_a_terminal_gets_escape_sequences() {
        assert!(!logged("info", LogFormat::Human, Colour::Off).contains('\x1b'));
        assert!(logged("info", LogFormat::Human, Colour::On).contains('\x1b'));
    }

    #[test]
    fn the_filter_decides_what_is_logged() {
        assert_eq!(logged("off", LogFormat::Human, Colour::Off), "");
        assert!(logged("debug", LogFormat::Human, Colour::Off).contains("chatter"));
        let config = LogConfig { filter: "handsd=loud".to_owned(), format: LogFormat::Human };
        assert!(matches!(subscriber(&config, Colour::Off, io::sink), Err(TelemetryError::Filter { .. })));
    }

    #[test]
    fn the_filter_can_be_changed_while_it_logs() {
        let memory = Memory::default();
        let (writer, config) = (memory.clone(), LogConfig { filter: "off".to_owned(), format: LogFormat::Human });
        let (subscriber, filter) = subscriber(&config, Colour::Off, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            filter.set("info").unwrap();
            tracing::info!("after");
            assert!(matches!(filter.set("handsd=loud"), Err(TelemetryError::Filter { .. })));
        });
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("after") && !text.contains("before"), "{text}");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let below = (texts.len() > 1).then(|| Box::new(layers(&texts[1..])));
        Layer { text: texts[0], source: below }
    }

    #[test]
    fn an_error_is_shown_with_all_its_causes() {
        assert_eq!(chain(&layers(&["a"])).to_string(), "a");
        assert_eq!(chain(&layers(&["a", "b", "c"])).to_string(), "a: b: c");
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        assert_eq!(chain(&layers(&["a: b", "b", "c"])).to_string(), "a: b: c");
        assert_eq!(chain(&layers(&["a: b: c", "b: c", "c"])).to_string(), "a: b: c");
    }
}
