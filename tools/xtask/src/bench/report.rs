//! The tables of the comparison, in Markdown.

use super::noise::{DISTURBED_PERCENT, Noise};
use super::raw::{Case, Measured, of_case};
use super::servers::Target;
use super::spread::Spread;
use std::fmt::Write;

/// A figure of a measurement.
type Figure = fn(&Measured) -> f64;

const M_IOPS: Figure = |measured| measured.iops / 1e6;
const P50_US: Figure = |measured| measured.p50_ns / 1e3;

/// Everything that is printed.
pub(super) fn tables(cases: &[Case], all: &[Measured]) -> String {
    let mut out = figures(cases, all);
    out += &ratios(cases, all);
    out += &noise(cases, all);
    out
}

fn figures(cases: &[Case], all: &[Measured]) -> String {
    let columns: [Figure; 4] =
        [M_IOPS, P50_US, |measured| measured.p99_ns / 1e3, |measured| measured.p999_ns / 1e3];
    let mut out = String::from("| target | load | depth | M IOPS | p50 us | p99 us | p99.9 us |\n");
    out += "|---|---|---:|---:|---:|---:|---:|\n";
    for &case in cases {
        let _ = write!(out, "| {} | {} | {} |", case.target.name(), case.load.name(), case.depth);
        for (index, figure) in columns.iter().enumerate() {
            // Of the bare ring no more is known.
            if case.target == Target::BareRing && index > 1 {
                out += " |";
            } else {
                let _ = write!(out, " {} |", show(Spread::of(of_case(all, case).map(figure))));
            }
        }
        out.push('\n');
    }
    out + "\nThe bare ring's p50 is the median of many short stretches' round trips.\n\n"
}

/// Ours over the peer's and over the bare ring's, at each depth.
fn ratios(cases: &[Case], all: &[Measured]) -> String {
    let mut out = String::from(
        "| target | depth | IOPS over qemu-storage-daemon's | p50 over its p50 | pairs | share of the bare ring's rate \
         | p50 over the bare round trip | pairs |\n|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let ours = |case: &&Case| matches!(case.target, Target::Null | Target::NullPacked);
    for &case in cases.iter().filter(ours) {
        let _ = write!(out, "| {} | {} |", case.target.name(), case.depth);
        for is_wanted in [|target| matches!(target, Target::Qsd(_)), |target| target == Target::BareRing] {
            let fits = |other: &&Case| {
                is_wanted(other.target) && other.depth == case.depth && other.load == case.load
            };
            let pairs = cases.iter().find(fits).map(|&other| pairs(all, case, other)).unwrap_or_default();
            let alike: Vec<_> = pairs.iter().filter(|(ours, theirs)| ours.is_comparable_to(theirs)).collect();
            for figure in [M_IOPS, P50_US] {
                let ratios = alike.iter().map(|(ours, theirs)| figure(ours) / figure(theirs));
                let _ = write!(out, " {} |", show(Spread::of(ratios)));
            }
            let _ = write!(out, " {} of {} |", alike.len(), pairs.len());
        }
        out.push('\n');
    }
    out + "\nEach is the median of the repeats' ratios. Pairs of measurements between which the cores have moved (their \
           round trip has changed) are left out. At depth 1 the last ratio is latency over the physical round trip; at \
           greater depths the bare round trip is that of a whole queue.\n\n"
}

/// Two cases in each repeat that has both.
fn pairs(all: &[Measured], ours: Case, theirs: Case) -> Vec<(&Measured, &Measured)> {
    let of_repeat = |repeat| of_case(all, theirs).find(|measured| measured.repeat == repeat);
    of_case(all, ours).filter_map(|ours| Some((ours, of_repeat(ours.repeat)?))).collect()
}

fn noise(cases: &[Case], all: &[Measured]) -> String {
    type Column = fn(&Noise) -> f64;
    let columns: [Column; 8] = [
        |noise| noise.others_percent.first().copied().unwrap_or(0.0),
        |noise| noise.others_percent.get(1).copied().unwrap_or(0.0),
        |noise| noise.stolen_percent.first().copied().unwrap_or(0.0),
        |noise| noise.stolen_percent.get(1).copied().unwrap_or(0.0),
        |noise| noise.server_waited_percent,
        |noise| noise.client_waited_percent,
        |noise| noise.server_switches_per_s,
        |noise| noise.client_switches_per_s,
    ];
    let mut out = String::from(
        "Noise: how much of the server's and the client's core others had and the hypervisor kept, how long our threads \
         waited for a core, how often they were taken off it; medians, and the worst in brackets.\n\n\
         | target | load | depth | others, server's % | client's % | stolen, server's % | client's % | server waited % \
         | client waited % | server taken off /s | client taken off /s | round trip before, ns |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for &case in cases {
        let _ = write!(out, "| {} | {} | {} |", case.target.name(), case.load.name(), case.depth);
        for column in columns {
            let spread = Spread::of(of_case(all, case).map(|measured| column(&measured.noise)));
            let _ = match spread {
                Some(spread) => write!(out, " {:.1} ({:.1}) |", spread.median, spread.max),
                None => write!(out, " |"),
            };
        }
        let round_trips = of_case(all, case).map(|measured| measured.round_trip_ns);
        let _ = writeln!(out, " {} |", show(Spread::of(round_trips)));
    }
    out + "\nThe bare ring has both ends in one process, which stands under client.\n\n" + &verdict(all)
}

/// Whether the figures can be believed.
fn verdict(all: &[Measured]) -> String {
    let disturbed = all.iter().filter(|measured| measured.noise.is_disturbed()).count();
    let worst = all.iter().map(|measured| measured.noise.worst_percent()).fold(0.0, f64::max);
    let of_all = all.len();
    if disturbed == 0 {
        return format!(
            "Quiet: no measurement lost more than {DISTURBED_PERCENT} % of a core or of a thread's time.\n"
        );
    }
    format!(
        "WARNING: {disturbed} of {of_all} measurements were disturbed (more than {DISTURBED_PERCENT} % of a core or of a \
         thread's time lost; {worst:.1} % in the worst). Ratios suffer less than figures; tails suffer most.\n"
    )
}

pub(super) fn show(spread: Option<Spread>) -> String {
    match spread {
        Some(spread) if spread.median >= 100.0 => format!("{spread:.0}"),
        Some(spread) if spread.median >= 10.0 => format!("{spread:.1}"),
        Some(spread) => format!("{spread:.2}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::raw::Load;
    use super::*;

    fn measured(target: Target, repeat: u32, iops: f64, round_trip_ns: f64) -> Measured {
        let case = Case { target, load: Load::Randread, depth: 32 };
        let noise = Noise { others_percent: vec![if repeat == 1 { 3.0 } else { 0.0 }], ..Noise::default() };
        Measured { case, repeat, iops, p50_ns: 1e9 / iops, p99_ns: 0.0, p999_ns: 0.0, round_trip_ns, noise }
    }

    #[test]
    fn ratios_are_taken_within_a_repeat_and_between_equals() {
        let all = [
            measured(Target::Null, 0, 10e6, 200.0),
            measured(Target::BareRing, 0, 20e6, 210.0),
            measured(Target::Null, 1, 2.5e6, 200.0),
            measured(Target::BareRing, 1, 10e6, 200.0),
            measured(Target::Null, 2, 10e6, 200.0),
            measured(Target::BareRing, 2, 1e6, 1000.0),
            measured(Target::Null, 3, 1.0, 200.0),
        ];
        let (ours, bare) = (all[0].case, all[1].case);
        assert_eq!(pairs(&all, ours, bare).len(), 3);
        let text = tables(&[bare, ours], &all);
        assert!(text.contains("| spinblk null, split | 32 |  |  | 0 of 0 | 0.50 (0.25-0.50) |"), "{text}");
        assert!(text.contains("| 2 of 3 |"), "{text}");
        assert!(text.contains("WARNING: 2 of 7 measurements were disturbed"), "{text}");
    }
}
