//! What is printed.

use std::fmt;

use crate::sample::Value;

const HEADINGS: [&str; 8] = ["item", "p50", "p99", "floor", "× floor", "docker", "docker ×", "target"];

/// Rows, one for each item.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

/// One item.
#[derive(Debug, Default)]
pub struct Row {
    /// What was measured.
    pub item: &'static str,
    /// In the middle; of speeds and memory, the one value there is.
    pub p50: Option<Value>,
    /// At the bad end.
    pub p99: Option<Value>,
    /// The same work without us.
    pub floor: Option<Value>,
    /// The same work through Docker.
    pub docker: Option<Value>,
    /// What is to be reached.
    pub targets: Vec<Target>,
}

/// What is to be reached, and whether it was.
#[derive(Debug)]
pub struct Target {
    text: String,
    is_met: bool,
}

impl Target {
    /// At most this, in units of `value`.
    pub fn at_most(value: Option<Value>, limit: Value) -> Option<Self> {
        let is_met = value?.cost_over(limit)? <= 1.0;
        Some(Self { text: format!("≤ {limit}"), is_met })
    }

    /// At least this fast.
    pub fn at_least(value: Option<Value>, limit: Value) -> Option<Self> {
        let is_met = value?.cost_over(limit)? <= 1.0;
        Some(Self { text: format!("≥ {limit}"), is_met })
    }

    /// At most so many times the floor.
    pub fn times_floor(value: Option<Value>, floor: Option<Value>, most: f64) -> Option<Self> {
        let is_met = value?.cost_over(floor?)? <= most;
        Some(Self { text: format!("≤ {most} × floor"), is_met })
    }

    /// At least so many times faster than Docker.
    pub fn faster_than_docker(value: Option<Value>, docker: Option<Value>, least: f64) -> Option<Self> {
        let is_met = docker?.cost_over(value?)? >= least;
        Some(Self { text: format!("≥ {least} × docker"), is_met })
    }
}

impl Table {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row, and says so: the whole takes minutes.
    pub fn push(&mut self, row: Row) {
        eprintln!("measured: {}", row.item);
        self.rows.push(row);
    }
}

impl Row {
    fn cells(&self) -> [String; HEADINGS.len()] {
        let show = |value: Option<Value>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let times = |over: Option<Value>, under: Option<Value>| {
            let ratio = over.zip(under).and_then(|(over, under)| over.cost_over(under));
            ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}"))
        };
        let targets: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        [
            self.item.to_owned(),
            show(self.p50),
            show(self.p99),
            show(self.floor),
            times(self.p50, self.floor),
            show(self.docker),
            times(self.docker, self.p50),
            targets.join(", "),
        ]
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.text, if self.is_met { "met" } else { "missed" })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.rows.iter().map(Row::cells).collect();
        let headings = HEADINGS.map(str::to_owned);
        let mut widths = [0; HEADINGS.len()];
        for cells in rows.iter().chain([&headings]) {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        writeln!(formatter)?;
        for cells in [&headings].into_iter().chain(&rows) {
            let [item, numbers @ .., target] = cells;
            write!(formatter, "{item:<width$}", width = widths[0])?;
            for (cell, width) in numbers.iter().zip(&widths[1..]) {
                write!(formatter, "  {cell:>width$}")?;
            }
            writeln!(formatter, "  {target}")?;
        }
        Ok(())
    }
}
