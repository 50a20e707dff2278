//! The table of the comparison with fio, in Markdown.

use super::super::machine;
use super::super::report::show;
use super::super::spread::Spread;
use super::Options;
use super::run::{Case, Measured, Target};
use std::fmt::Write;

/// Everything that is printed.
pub(super) fn report(options: &Options, cases: &[Case], all: &[Measured]) -> String {
    let mut out = heading(options);
    out += "| load | depth | who | IOPS | p50 us | p99 us | IOPS over fio's | p99 over fio's | \
            IOPS, both cores busy | p99, both cores busy | io-wq workers | disturbed |\n";
    out += "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
    for &case in cases {
        let _ = writeln!(out, "{}", row(case, all));
    }
    out + "\nIOPS and percentiles: medians with the least and the greatest of the repeats; ratios are taken within a repeat. \
           Both cores busy: over fio's while its other core polls, for what has both cores busy itself. io-wq workers: the most that were seen in the process under test.\n"
}

fn heading(options: &Options) -> String {
    let Options { repeats, seconds, size_mib, core, client_core, .. } = options;
    format!(
        "{}\n\n4 KiB, O_DIRECT, anywhere in a file of {size_mib} MiB. {repeats} repeats of {seconds} s each, in turn. fio, the \
         bdev and the server on core {core}; the server's load generator on core {client_core}. fio keeps its defaults of \
         --iodepth_batch*.\n\n",
        machine::describe()
    )
}

fn row(case: Case, all: &[Measured]) -> String {
    let of_case = || all.iter().filter(|measured| measured.case == case);
    let spread = |figure: fn(&Measured) -> f64| show(Spread::of(of_case().map(figure)));
    let over = |target: Target, figure: fn(&Measured) -> f64| {
        let base = |repeat| all.iter().find(|m| m.repeat == repeat && m.case == Case { target, ..case });
        show(Spread::of(of_case().filter_map(|ours| Some(figure(ours) / figure(base(ours.repeat)?)))))
    };
    let over_fio = |figure| match case.target {
        Target::Fio => String::new(),
        _ => over(Target::Fio, figure),
    };
    let over_beside = |figure| match case.target {
        Target::Server => over(Target::FioBeside, figure),
        _ => String::new(),
    };
    let p99_us: fn(&Measured) -> f64 = |measured| measured.p99_ns / 1e3;
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} of {} |",
        case.load.name(),
        case.depth,
        case.target.name(),
        spread(|measured| measured.iops),
        spread(|measured| measured.p50_ns / 1e3),
        spread(p99_us),
        over_fio(|measured| measured.iops),
        over_fio(p99_us),
        over_beside(|measured| measured.iops),
        over_beside(p99_us),
        of_case().map(|measured| measured.io_workers).max().unwrap_or(0),
        of_case().filter(|measured| measured.noise.is_disturbed()).count(),
        of_case().count(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::noise::Noise;
    use super::super::super::raw::Load;
    use super::*;

    #[test]
    fn ratios_are_to_fio_at_the_same_depth_in_the_same_repeat() {
        let measured = |target, depth, repeat, iops: f64, io_workers| Measured {
            case: Case { target, load: Load::Randread, depth },
            repeat,
            iops,
            p50_ns: 1e3,
            p99_ns: 1e9 / iops,
            io_workers,
            noise: Noise { stolen_percent: vec![if repeat == 1 { 3.0 } else { 0.0 }], ..Noise::default() },
        };
        let all = [
            measured(Target::Fio, 1, 0, 1000.0, 0),
            measured(Target::Fio, 1, 1, 2000.0, 0),
            measured(Target::Fio, 32, 0, 5.0, 0),
            measured(Target::Bdev, 1, 0, 2000.0, 0),
            measured(Target::Bdev, 1, 1, 1000.0, 2),
            measured(Target::FioBeside, 1, 0, 250.0, 0),
            measured(Target::Server, 1, 0, 500.0, 0),
        ];
        let row = row(all[3].case, &all);
        assert!(row.ends_with("| 2.00 (0.50-2.00) | 2.00 (0.50-2.00) |  |  | 2 | 1 of 2 |"), "{row}");
        assert!(super::row(all[0].case, &all).contains("|  |  |  |  | 0 | 1 of 2 |"));
        let row = super::row(all[6].case, &all);
        assert!(
            row.ends_with(
                "| 0.50 (0.50-0.50) | 2.00 (2.00-2.00) | 2.00 (2.00-2.00) | 0.50 (0.50-0.50) | 0 | 0 of 1 |"
            ),
            "{row}"
        );
    }
}
