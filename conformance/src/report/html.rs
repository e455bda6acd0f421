//! The page that a person reads: one file, no network, light and dark.

use std::collections::{BTreeMap, BTreeSet};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use ops::How;

use super::{Document, Group, Verdict};
use crate::{Depth, Metrics, Record, Speed, Status};

/// Cases listed as the worst.
const WORST: usize = 20;

/// Cases listed of those that did not pass; the JSON document holds all.
const LISTED: usize = 200;

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fbfbfa;--fg:#1c1e21;--mute:#667;--line:#dcdde0;--card:#fff;
--good:#1a7f4b;--weak:#b7791f;--bad:#c5303d;--none:#9aa0a8;--wash:#eef6f1;--badwash:#fbebec;--accent:#2b5fb3}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--fg:#e4e6e9;--mute:#98a0aa;--line:#30343a;--card:#1c1f23;
--good:#4cc38a;--weak:#e0b050;--bad:#f0717c;--none:#6b727c;--wash:#18281f;--badwash:#321c1f;--accent:#7aa7ee}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0 0 2px}
h2{font-size:18px;margin:38px 0 8px}p{margin:6px 0}.mute{color:var(--mute)}.num{text-align:right;
font-variant-numeric:tabular-nums}.num,td.good,td.bad,td.none{white-space:nowrap}code,.mono{font:13px/1.45 ui-monospace,Menlo,Consolas,monospace}
table{border-collapse:collapse;width:100%;background:var(--card)}th,td{padding:5px 9px;border-bottom:1px solid
var(--line);text-align:left;vertical-align:top}th{font-weight:600;font-size:13px;color:var(--mute)}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px}.scroll tr:last-child td{border-bottom:0}
.badge{display:inline-block;border-radius:6px;padding:1px 10px;font-weight:650;color:#fff;background:var(--none)}
h1 .badge{color:var(--bg)}.badge.good{background:var(--good)}.badge.bad{background:var(--bad)}.badge.weak{background:var(--weak)}
.note{border-left:4px solid var(--weak);background:var(--card);padding:8px 14px;margin:14px 0}
td.good{background:var(--wash);color:var(--good)}td.bad{background:var(--badwash);color:var(--bad);font-weight:650}
td.none{color:var(--none)}.good{color:var(--good)}.bad{color:var(--bad)}.weak{color:var(--weak)}
.bar{display:flex;height:10px;border-radius:5px;overflow:hidden;background:var(--line);min-width:160px}
.bar i{display:block}.bar .good{background:var(--good)}.bar .weak{background:var(--weak)}
.bar .bad{background:var(--bad)}.bar .none{background:var(--none)}
details{background:var(--card);border:1px solid var(--line);border-radius:8px;margin:6px 0;padding:6px 12px}
summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace;margin:6px 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:14px 0}dt{color:var(--mute)}dd{margin:0;
overflow-wrap:anywhere}svg{width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
svg text{fill:var(--fg);font:12px system-ui,sans-serif}svg .axis{stroke:var(--line)}svg .mute{fill:var(--mute)}
svg .fill{fill:var(--accent)}svg .over{fill:var(--bad)}svg .roof{stroke:var(--accent);fill:none;stroke-width:2}
@media(max-width:640px){main{padding:16px 12px 40px}th,td{padding:4px 6px}.bar{min-width:48px}.chart svg{min-width:620px}}
.chart{overflow-x:auto}@media print{main{max-width:none}details{break-inside:avoid}}";

pub(super) fn page(document: &Document) -> Markup {
    let asked = &document.asked;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { "Conformance of " (asked.device.name) ": " (document.summary.verdict.title()) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (header(document))
                    (levels(document))
                    (failures(document))
                    (support(document))
                    (budget(document))
                    (worst(document))
                    (speed(document))
                    (footer(document))
                }
            }
        }
    }
}

fn header(document: &Document) -> Markup {
    let (asked, summary, tool) = (&document.asked, &document.summary, &document.tool);
    let (device, environment) = (&asked.device, &document.environment);
    let class = match summary.verdict {
        Verdict::Passed => "good",
        Verdict::Failed | Verdict::TimedOut => "bad",
        Verdict::NothingTested | Verdict::Partial => "weak",
    };
    html! {
        h1 { (device.name) " " span class={ "badge " (class) } { (summary.verdict.title()) } }
        p.mute { code { (device.spec) } " · " (device.detail) }
        @if !summary.certifies {
            p.note { strong { "This run certifies nothing: " } (document.why_not()) "." }
        }
        @if !device.remarks.is_empty() {
            p.note { strong { "As the device declares, " } (device.remarks.join("; ")) ". It was judged by that." }
        }
        dl {
            dt { "tried" } dd {
                (document.results.len()) " checks of levels " (asked.selection.levels) ", "
                (asked.selection.depth)
                @if !asked.selection.ops.is_empty() { ", only " (asked.selection.ops.join(", ")) }
            }
            dt { "result" } dd {
                @for status in Status::ALL {
                    @if let Some(n) = summary.statuses.get(status.name()) {
                        span class=(class_of(status)) { (n) " " (status) } " "
                    }
                }
            }
            @if !summary.missing.is_empty() {
                dt { "no passing case" } dd.bad { (summary.missing.join(", ")) }
            }
            dt { "device" } dd {
                (device.parallelism) " in parallel"
                @if let Some(bytes) = device.memory_bytes { ", " (gib(bytes)) " memory" }
                ", computes in " (device.native_floats.join(", ")) ", kernels for "
                (device.claims.len()) " operations"
            }
            dt { "host" } dd { (environment.cpu) ", " (environment.arch) ", " (environment.os) }
            @for (name, value) in &environment.variables {
                dt { code { (name) } } dd { code { (value) } }
            }
            dt { "suite" } dd { (tool.version) " (" (tool.git) ")" }
            dt { "run" } dd {
                (document.timing.started) ", " (format!("{:.0}", document.timing.seconds)) " s, "
                (document.timing.jobs) " workers, order seed " (asked.order_seed)
            }
        }
    }
}

fn levels(document: &Document) -> Markup {
    html! {
        h2 { "Levels" }
        div.scroll { table {
            tr {
                th { "level" } th { } th.num { "passed" } th.num { "weak" } th.num { "failed" }
                th.num { "waived" } th.num { "unsupported" } th.num { "not run" } th.num { "time" }
            }
            @for (level, group) in Group::by(&document.results, |r| r.level) {
                @let count = |status| group.count(|s| s == status);
                @let all = group.records.len() as f64;
                tr {
                    td { strong { (level) } " " (level.title()) }
                    td { div.bar {
                        @for (class, n) in [
                            ("good", count(Status::Pass)),
                            ("weak", count(Status::PassWeak) + count(Status::Waived)),
                            ("bad", group.failed()),
                        ] {
                            i class=(class) style=(format!("width:{:.2}%", 100.0 * n as f64 / all)) {}
                        }
                    } }
                    td.num { (count(Status::Pass)) " / " (group.records.len()) }
                    td.num { (count(Status::PassWeak)) }
                    td.num class=(if group.failed() > 0 { "bad" } else { "" }) { (group.failed()) }
                    td.num { (count(Status::Waived)) }
                    td.num { (count(Status::Unsupported)) }
                    td.num { (count(Status::NotRun)) }
                    td.num { (format!("{:.1} s", group.seconds())) }
                }
            }
        } }
    }
}

fn failures(document: &Document) -> Markup {
    let notable = |r: &&Record| r.outcome.status != Status::Pass;
    let mut records: Vec<&Record> = document.results.iter().filter(notable).collect();
    // The gravest first, within that the order of levels.
    records.sort_by_key(|r| std::cmp::Reverse(r.outcome.status));
    let more = records.len().saturating_sub(LISTED);
    records.truncate(LISTED);
    html! {
        @if !records.is_empty() {
            h2 { "What did not simply pass" }
            @for record in records { (one(document, record)) }
            @if more > 0 { p.mute { "and " (more) " more, in report.json" } }
        }
        @if !document.waivers.is_empty() {
            h2 { "Waivers" }
            div.scroll { table {
                tr { th { "id" } th { "reason" } th { "owner" } th { "until" } th.num { "waived" } th.num { "unexpected" } }
                @for waiver in &document.waivers {
                    tr {
                        td { (waiver.id) } td { (waiver.reason) } td { (waiver.owner) } td { (waiver.expires) }
                        td.num { (waiver.waived) } td.num { (waiver.unexpected) }
                    }
                }
            } }
        }
    }
}

/// One case with everything that is known of it.
fn one(document: &Document, record: &Record) -> Markup {
    let outcome = &record.outcome;
    html! {
        details {
            summary {
                span class=(class_of(outcome.status)) { strong { (outcome.status) } } " "
                code { (record.name) }
                @if let Some(waiver) = &record.waiver { " waiver " (waiver) }
                @if let Some(w) = &outcome.worst { span.mute { (format!(" · {:.3} of its bound", w.utilisation)) } }
            }
            pre { (outcome.case) }
            @if !outcome.why.is_empty() { pre { (outcome.why) } }
            @if let Some(w) = &outcome.worst {
                pre {
                    "worst " (w.arg) (format!("{:?}", w.index)) ": got " (format!("{:e}", w.got))
                    ", want " (format!("{:e}", w.want)) " ± " (format!("{:.2e}", w.bound))
                }
            }
            @if let Some(m) = &outcome.metrics {
                pre {
                    (m.elements) " elements, " (short(m.max_ulp)) " ulp at most, " (short(m.mean_ulp))
                    " on average, NMSE " (format!("{:.1e}", m.nmse))
                }
            }
            pre {
                "glm conform --device " (document.asked.device.spec) " --level " (record.level.number())
                " --ops '" (record.name) "'"
                @if document.asked.selection.depth == Depth::Full { " --full" }
            }
        }
    }
}

/// Which operations ran with which types.
fn support(document: &Document) -> Markup {
    let cases = || document.results.iter().filter(|r| r.dtype.is_some());
    let columns = |of: fn(&Record) -> Option<&String>| -> Vec<&String> {
        let set: BTreeSet<&String> = cases().filter_map(of).collect();
        set.into_iter().collect()
    };
    let matrix = |title: &str, of: fn(&Record) -> Option<&String>| {
        let columns = columns(of);
        let rows = Group::by(cases().filter(|r| of(r).is_some()), |r| {
            (r.level, r.outcome.op.as_ref())
        });
        html! {
            @if !rows.is_empty() {
                div.scroll style="margin-bottom:12px" { table {
                    tr { th { (title) } @for column in &columns { th { (column) } } }
                    @for ((level, op), group) in &rows {
                        tr {
                            td { span.mute { (level) } " " (op) }
                            @for column in &columns {
                                (cell(group.records.iter().copied().filter(|r| of(r) == Some(*column)).collect()))
                            }
                        }
                    }
                } }
            }
        }
    };
    html! {
        h2 { "Support" }
        p.mute { "Cases passed of those tried. n: the device's own kernel, c: composed of others on the device." }
        (matrix("operation × type", |r| r.dtype.as_ref()))
        (matrix("operation × weights", |r| r.weight.as_ref()))
    }
}

fn cell(records: Vec<&Record>) -> Markup {
    let group = Group { records };
    let hows: BTreeSet<char> = group
        .records
        .iter()
        .filter_map(|r| r.outcome.how)
        .map(letter)
        .collect();
    let hows: String = hows.into_iter().collect();
    let (passed, all) = (group.passed(), group.records.len());
    let tried = all - group.count(|s| matches!(s, Status::Unsupported | Status::NotRun));
    html! {
        @if all == 0 {
            td.none { "" }
        } @else if tried == 0 {
            td.none { "not supported" }
        } @else if group.failed() > 0 {
            td.bad { (passed) "/" (all) " " (hows) }
        } @else {
            td.good { (passed) "/" (all) " " span.mute { (hows) } }
        }
    }
}

fn letter(how: How) -> char {
    match how {
        How::Native => 'n',
        How::Composed => 'c',
        How::Host => 'h',
    }
}

/// How much of their bounds results use, together and by operation.
fn budget(document: &Document) -> Markup {
    let mut bins = [0u64; Metrics::BINS.len()];
    for metrics in document
        .results
        .iter()
        .filter_map(|r| r.outcome.metrics.as_ref())
    {
        for (sum, n) in bins.iter_mut().zip(metrics.utilisation) {
            *sum += n;
        }
    }
    let by_op = Group::by(
        document
            .results
            .iter()
            .filter(|r| r.outcome.metrics.is_some()),
        |r| (r.level, r.outcome.op.as_ref()),
    );
    html! {
        @if !by_op.is_empty() {
            h2 { "Error budget" }
            p.mute {
                "Every element has its own bound, computed before the device ran. A right kernel stays far below 1; "
                "beyond 1 is PASS-weak, beyond the certain bound FAIL."
            }
            div.chart { (histogram(&bins)) }
            div.scroll style="margin-top:12px" { table {
                tr {
                    th { "operation" } th.num { "cases" } th.num { "elements" } th.num { "most of a bound" }
                    th.num { "max ulp" } th.num { "mean ulp" } th.num { "max NMSE" } th.num { "one-sided" } th.num { "time" }
                }
                @for ((level, op), group) in &by_op {
                    @let max = |f: fn(&Metrics) -> f64| group.metrics().map(f).fold(0.0, f64::max);
                    @let elements: u64 = group.metrics().map(|m| m.elements).sum();
                    @let ulps: f64 = group.metrics().map(|m| m.mean_ulp * m.elements as f64).sum();
                    @let sides = group.metrics().fold(Metrics::default(), |mut sum, m| {
                        sum.above += m.above;
                        sum.below += m.below;
                        sum
                    });
                    tr {
                        td { span.mute { (level) } " " (op) }
                        td.num { (group.records.len()) }
                        td.num { (elements) }
                        td.num { (group.utilisation().map_or(String::new(), |u| format!("{u:.3}"))) }
                        td.num { (short(max(|m| m.max_ulp))) }
                        td.num { (short(ulps / elements.max(1) as f64)) }
                        td.num { (format!("{:.1e}", max(|m| m.nmse))) }
                        td.num title="standard deviations by which results prefer one side" { (format!("{:+.1} σ", sides.bias())) }
                        td.num { (format!("{:.1} s", group.seconds())) }
                    }
                }
            } }
        }
    }
}

/// Elements by share of their bound, on a logarithmic scale.
fn histogram(bins: &[u64; Metrics::BINS.len()]) -> Markup {
    let labels = [
        "exact",
        "≤ 1/1024",
        "≤ 1/256",
        "≤ 1/64",
        "≤ 1/16",
        "≤ 1/8",
        "≤ 1/4",
        "≤ 1/2",
        "≤ 1",
        "> 1",
    ];
    let height = |n: u64| {
        if n == 0 {
            0.0
        } else {
            1.0 + (n as f64).log10()
        }
    };
    let top = bins.iter().map(|&n| height(n)).fold(1.0, f64::max);
    html! {
        svg viewBox="0 0 1000 230" role="img" aria-label="elements by share of their bound" {
            @for (i, (&n, label)) in bins.iter().zip(labels).enumerate() {
                @let h = 160.0 * height(n) / top;
                @let x = 10.0 + 98.0 * i as f64;
                rect x=(x) y=(format!("{:.1}", 190.0 - h)) width="86" height=(format!("{h:.1}")) rx="3"
                    class=(if i + 1 == bins.len() { "over" } else { "fill" }) {}
                text x=(x + 43.0) y=(format!("{:.1}", 184.0 - h)) text-anchor="middle" { (n) }
                text.mute x=(x + 43.0) y="212" text-anchor="middle" { (label) }
            }
            line.axis x1="10" y1="190.5" x2="990" y2="190.5" {}
        }
    }
}

fn worst(document: &Document) -> Markup {
    let mut records: Vec<(&Record, f64)> = document
        .results
        .iter()
        .filter_map(|r| Some((r, r.outcome.worst.as_ref()?.utilisation)))
        .filter(|(_, utilisation)| *utilisation > 0.0)
        .collect();
    records.sort_by(|a, b| b.1.total_cmp(&a.1));
    records.truncate(WORST);
    html! {
        @if !records.is_empty() {
            h2 { "Closest to their bounds" }
            @for (record, _) in records { (one(document, record)) }
        }
    }
}

fn speed(document: &Document) -> Markup {
    let measured = |r: &'_ Record| {
        r.outcome
            .speed
            .clone()
            .map(|speed| (r.outcome.op.to_string(), r.clone(), speed))
    };
    let points: Vec<(String, Record, Speed)> =
        document.results.iter().filter_map(measured).collect();
    html! {
        @if let Some((_, _, first)) = points.first() {
            h2 { "Speed" }
            p.mute {
                "Against what this device itself reached: " (format!("{:.1} GB/s", first.bandwidth / 1e9))
                " copying, " (format!("{:.1} GFLOP/s", first.peak / 1e9)) " in its best matrix product. "
                "100 % is the roof above that intensity."
            }
            div.chart { (roofline(&points)) }
            div.scroll style="margin-top:12px" { table {
                tr {
                    th { "operation" } th { "size" } th.num { "median" } th.num { "GB/s" } th.num { "GFLOP/s" }
                    th.num { "flop/B" } th.num { "of roofline" }
                }
                @for (op, record, s) in &points {
                    tr {
                        td { (op) } td.mono { (record.outcome.case) }
                        td.num { (format!("{:.1} µs", s.seconds * 1e6)) }
                        td.num { (format!("{:.2}", s.bytes / s.seconds / 1e9)) }
                        td.num { (format!("{:.2}", s.flops / s.seconds / 1e9)) }
                        td.num { (format!("{:.2}", s.flops / s.bytes)) }
                        td.num { (format!("{:.0} %", 100.0 * s.of_roofline)) }
                    }
                }
            } }
        }
    }
}

/// Operations per second over operations per byte, both logarithmic, under the device's two roofs.
fn roofline(points: &[(String, Record, Speed)]) -> Markup {
    let (bandwidth, peak) = (points[0].2.bandwidth, points[0].2.peak);
    let rate = |s: &Speed| (s.flops / s.seconds).max(1.0);
    let intensity = |s: &Speed| (s.flops / s.bytes).max(1e-3);
    let ridge = peak / bandwidth;
    let all = points.iter().map(|p| intensity(&p.2));
    let (x_min, x_max) = all.fold((ridge / 10.0, ridge * 10.0), |(a, b), x| {
        (a.min(x), b.max(x))
    });
    let low = points.iter().map(|p| rate(&p.2)).fold(peak, f64::min);
    let (y_min, y_max) = (low / 2.0, peak * 2.0);
    let x = |v: f64| 60.0 + 900.0 * (v / x_min).ln() / (x_max / x_min).ln();
    let y = |v: f64| 360.0 - 340.0 * (v / y_min).ln() / (y_max / y_min).ln();
    let decades = |from: f64, to: f64| {
        let range = from.log10().ceil() as i32..=to.log10().floor() as i32;
        range.map(|e| 10f64.powi(e))
    };
    let start = (y_min / bandwidth).max(x_min);
    let roof = format!(
        "{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}",
        x(start),
        y(start * bandwidth),
        x(ridge),
        y(peak),
        x(x_max),
        y(peak)
    );
    // One label per operation, at its best point: more would lie over one another.
    let mut best: BTreeMap<&str, &Speed> = BTreeMap::new();
    for (op, _, speed) in points {
        let entry = best.entry(op).or_insert(speed);
        if rate(speed) > rate(entry) {
            *entry = speed;
        }
    }
    html! {
        svg viewBox="0 0 1000 400" role="img" aria-label="roofline" {
            @for v in decades(x_min, x_max) {
                line.axis x1=(format!("{:.1}", x(v))) x2=(format!("{:.1}", x(v))) y1="20" y2="360" {}
                text.mute x=(format!("{:.1}", x(v))) y="378" text-anchor="middle" { (v) }
            }
            @for v in decades(y_min, y_max) {
                line.axis x1="60" x2="960" y1=(format!("{:.1}", y(v))) y2=(format!("{:.1}", y(v))) {}
                text.mute x="54" y=(format!("{:.1}", y(v) + 4.0)) text-anchor="end" { (v / 1e9) }
            }
            text.mute x="960" y="394" text-anchor="end" { "flop per byte" }
            text.mute x="6" y="14" { "GFLOP/s" }
            polyline.roof points=(roof) {}
            @for (op, record, s) in points {
                circle.fill cx=(format!("{:.1}", x(intensity(s)))) cy=(format!("{:.1}", y(rate(s)))) r="4" {
                    title { (op) " " (record.outcome.case) (format!(": {:.0} %", 100.0 * s.of_roofline)) }
                }
            }
            @for (op, s) in best {
                text x=(format!("{:.1}", x(intensity(s)) + 7.0)) y=(format!("{:.1}", y(rate(s)) + 4.0)) { (op) }
            }
        }
    }
}

fn footer(document: &Document) -> Markup {
    html! {
        h2 { "Check this report" }
        p { "Its digest, and a sample of its results, on the same kind of device: " code { "glm conform --verify report.json --sample 1%" } }
        p.mono { "sha256 " (document.digest) }
        @if let Some(signed) = &document.signature {
            p.mono { "signed with " (signed.algorithm) " key " (signed.key) }
        } @else {
            p.mute { "Not signed." }
        }
    }
}

fn class_of(status: Status) -> &'static str {
    match status {
        Status::Pass => "good",
        Status::PassWeak | Status::Waived => "weak",
        Status::NotRun | Status::Unsupported => "mute",
        _ => "bad",
    }
}

fn gib(bytes: usize) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Three digits, and none too many.
fn short(x: f64) -> String {
    match x {
        0.0 => "0".into(),
        x if (0.01..10_000.0).contains(&x) => format!("{x:.2}"),
        x => format!("{x:.1e}"),
    }
}
