//! Running a program under callgrind, and reading how often each of its instructions was executed.
//!
//! ```text
//!   ob=/path/of/program          from here on, addresses are of this object, as in its file
//!   fn=name
//!   0xb4480 886 313              address, line, how often
//!   calls=1 0xafea0 88           the next line is what that call cost, which is counted where it was spent
//! ```

use crate::error::{Error, Result};
use crate::process::{command, output};
use crate::programs::find;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const LIMIT_S: u64 = 300;

/// How often each instruction was executed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// Of the program itself, by address.
    pub(super) own: BTreeMap<u64, u64>,
    /// In the libraries that it loads.
    pub(super) elsewhere: u64,
}

impl Counts {
    /// Runs the program; counts what happens inside functions whose names fit the pattern.
    pub(super) fn of(program: &Path, arguments: &[String], pattern: &str, folder: &Path) -> Result<Counts> {
        let out = folder.join("callgrind.out");
        let valgrind = find("valgrind")?;
        let mut line = command(
            &valgrind.to_string_lossy(),
            ["-q", "--tool=callgrind", "--dump-instr=yes", "--compress-pos=no", "--compress-strings=no"],
        );
        line.arg(format!("--toggle-collect={pattern}"))
            .arg(format!("--callgrind-out-file={}", out.display()));
        line.arg(program).args(arguments);
        output(line, LIMIT_S)?;
        let text = fs::read_to_string(&out).map_err(Error::file("read", &out))?;
        let counts = Counts::parse(&text, &program.to_string_lossy());
        if counts.own.is_empty() {
            return Err(Error::Lab(format!(
                "callgrind has found no function like {pattern} in {}",
                program.display()
            )));
        }
        Ok(counts)
    }

    fn parse(text: &str, program: &str) -> Counts {
        let (mut counts, mut is_own, mut is_call) = (Counts::default(), true, false);
        for line in text.lines() {
            if let Some(object) = line.strip_prefix("ob=") {
                is_own = object == program;
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if let Some((address, count)) = cost(line) {
                match (std::mem::take(&mut is_call), is_own) {
                    (true, _) => {}
                    (false, true) => *counts.own.entry(address).or_default() += count,
                    (false, false) => counts.elsewhere += count,
                }
            }
        }
        counts
    }
}

fn cost(line: &str) -> Option<(u64, u64)> {
    let mut words = line.strip_prefix("0x")?.split(' ');
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    Some((address, words.nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_instruction_where_it_was_spent() {
        let text = "positions: instr line\nsummary: 12\n\nob=/p\nfl=/a.rs\nfn=f\n0x10 1 3\nfi=/b.rs\n0x14 9 3\n\
            cob=/lib.so\ncfn=g\ncalls=3 0x99 0\n0x18 2 100\n0x10 1 1\n\nob=/lib.so\nfn=g\n0x99 0 5\n";
        let counts = Counts::parse(text, "/p");
        assert_eq!(counts.own, [(0x10, 4), (0x14, 3)].into());
        assert_eq!(counts.elsewhere, 5);
    }
}
