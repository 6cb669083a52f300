//! The one table at the end, with the aim of each figure beside it.

use std::fmt::Write;

use serde::Serialize;

/// One measured value.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In which unit.
    pub unit: &'static str,
    /// The value.
    pub value: f64,
}

impl Figure {
    /// A value under a name.
    pub fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
enum Aim {
    /// At most this value.
    AtMost(f64),
    /// At least so many times etcd's value.
    TimesAtLeast(f64),
    /// At most this part of etcd's value.
    TimesAtMost(f64),
}

/// The aims of the design. Each names its figure in full.
const AIMS: &[(&str, Aim)] = &[
    ("idle: CPU of one node", Aim::AtMost(0.5)),
    ("memory after start, three nodes", Aim::TimesAtMost(0.3)),
    ("memory of one node after start", Aim::AtMost(20.0 * 1.048_576)),
    ("memory under load, three nodes", Aim::TimesAtMost(0.3)),
    ("put, 1 client at leader: p50", Aim::TimesAtMost(0.6)),
    ("put, 1 client at follower: p50", Aim::TimesAtMost(0.6)),
    ("put, 1 client at leader: disk", Aim::TimesAtMost(4.0)),
    ("put, 64 clients: rate", Aim::TimesAtLeast(3.0)),
    ("put, 64 clients: p99", Aim::TimesAtMost(0.3)),
    ("put, 64 clients: server CPU", Aim::TimesAtMost(0.3)),
    ("put, 64 clients: disk", Aim::TimesAtMost(1.5)),
    ("put, 256 clients: rate", Aim::TimesAtLeast(4.0)),
    ("get, 64 clients: rate", Aim::TimesAtLeast(4.0)),
    ("get local, 64 clients: rate", Aim::TimesAtLeast(6.0)),
    ("lock acquire, uncontended: p50", Aim::TimesAtMost(0.6)),
    ("lock cycles, 32 locks: rate", Aim::TimesAtLeast(4.0)),
    ("hand-over on one lock, 32 waiters: p50", Aim::TimesAtMost(0.4)),
    ("watch delivery, 1 watchers: p50", Aim::TimesAtMost(0.5)),
    ("watch delivery, 1000 watchers: p50", Aim::TimesAtMost(0.6)),
    ("5000 leases kept alive: CPU", Aim::AtMost(0.02)),
    ("leader killed: first write p50", Aim::AtMost(1_500.0)),
    ("holder killed: next one holds p50", Aim::AtMost(50.0)),
    ("bound process killed: next one holds p50", Aim::AtMost(50.0)),
    ("release binary", Aim::AtMost(15.0 * 1.048_576)),
];

/// A line of the table.
#[derive(Serialize)]
pub struct Row {
    name: String,
    unit: &'static str,
    quorumd: Option<f64>,
    etcd: Option<f64>,
    ratio: Option<f64>,
    aim: Option<String>,
    met: Option<bool>,
}

/// Puts the figures of both side by side.
pub fn rows(ours: &[Figure], theirs: &[Figure]) -> Vec<Row> {
    let other = |name: &str| theirs.iter().find(|figure| figure.name == name);
    let mut rows: Vec<Row> =
        ours.iter().map(|figure| row(figure, Some(figure.value), other(&figure.name))).collect();
    for figure in theirs {
        if !ours.iter().any(|own| own.name == figure.name) {
            rows.push(row(figure, None, Some(figure)));
        }
    }
    rows
}

fn row(figure: &Figure, quorumd: Option<f64>, etcd: Option<&Figure>) -> Row {
    let etcd = etcd.map(|figure| figure.value);
    let ratio = quorumd.zip(etcd).map(|(ours, theirs)| ours / theirs);
    let aim = AIMS.iter().find(|(name, _)| *name == figure.name).map(|(_, aim)| *aim);
    let met = aim.and_then(|aim| match aim {
        Aim::AtMost(most) => quorumd.map(|value| value <= most),
        Aim::TimesAtLeast(least) => ratio.map(|ratio| ratio >= least),
        Aim::TimesAtMost(most) => ratio.map(|ratio| ratio <= most),
    });
    let aim = aim.map(|aim| match aim {
        Aim::AtMost(most) => format!("≤ {most:.3} {}", figure.unit),
        Aim::TimesAtLeast(least) => format!("≥ {least} ×"),
        Aim::TimesAtMost(most) => format!("≤ {most} ×"),
    });
    Row { name: figure.name.clone(), unit: figure.unit, quorumd, etcd, ratio, aim, met }
}

/// The table as text.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let (name, quorumd, etcd, ratio) = ("figure", "quorumd", "etcd", "ratio");
    let _ = writeln!(text, "| {name:<46} | {quorumd:>10} | {etcd:>10} |        | {ratio:>7} | aim");
    let _ = writeln!(text, "|{0:-<48}|{0:->12}|{0:->12}|{0:-<8}|{0:->9}|{0:-<16}|---|", "");
    for row in rows {
        let aim = row.aim.as_deref().unwrap_or_default();
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        let _ = writeln!(
            text,
            "| {:<46} | {:>10} | {:>10} | {:<6} | {:>7} | {aim:<14} | {met}",
            row.name,
            number(row.quorumd),
            number(row.etcd),
            row.unit,
            row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        );
    }
    text
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}
