//! The section `telemetry`: where the spans of calls go.

use super::Config;
use super::brains::base_url;
use super::print;
use super::section::{Section, text};
use crate::telemetry::TraceConfig;

/// The word for a collector that there is not.
const OFF: &str = "off";

pub(super) fn telemetry(telemetry: &mut Section<'_, '_>) -> TraceConfig {
    let collector = |text: &str| match text {
        OFF => Ok(None),
        url => base_url(url).map(Some).map_err(|expected| format!("{expected}, or \"{OFF}\"")),
    };
    TraceConfig { otlp: telemetry.take("otlp", text(collector)).flatten() }
}

impl Config {
    pub(super) fn telemetry(&self) -> String {
        format!(
            "\
[telemetry]
# Where a span of each call is sent: a collector that speaks OTLP over HTTP, such as \"http://127.0.0.1:4318\"; or \"off\".
otlp = {}
",
            print::text(self.telemetry.otlp.as_deref().unwrap_or(OFF)),
        )
    }
}
