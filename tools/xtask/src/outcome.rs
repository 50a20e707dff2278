//! How scenarios went: from what the guest said, and whether it died saying it.

use crate::error::Error;
use crate::vm::Ending;
use labvm::protocol::{Event, Outcome};
use labvm::scenarios::Scenario;

/// How one scenario went, as the host tells it.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    TimedOut,
    GuestDied,
}

impl Verdict {
    /// The exit status that stands for it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Failed => 1,
            Verdict::TimedOut => 124,
            Verdict::GuestDied => 125,
        }
    }
}

impl Report {
    /// Of a scenario that failed before there was a guest.
    pub(crate) fn failed_on_host(name: &str, fault: &Error) -> Report {
        let (name, message) = (name.to_owned(), String::new());
        let mut report = Report { name, verdict: Verdict::Passed, seconds: 0.0, message };
        report.fail_on_host(fault);
        report
    }

    /// Adds what went wrong outside of the guest, and says it, because the guest cannot.
    pub(crate) fn fail_on_host(&mut self, fault: &Error) {
        println!("== {} FAILED on the host: {fault}", self.name);
        if self.verdict == Verdict::Passed {
            self.verdict = Verdict::Failed;
        }
        self.message = format!("{}\n{fault}", self.message).trim().to_owned();
    }
}

/// What the events say about each scenario; one that started and never ended took the guest with it.
pub(crate) fn reports(batch: &[&Scenario], ending: &Ending) -> Vec<Report> {
    let mut reports: Vec<Report> = ending.events.iter().filter_map(finished).collect();
    let dirty = ending.events.iter().any(|event| matches!(event, Event::Dirty { .. }));
    let left_to_the_next_boot = dirty && !reports.is_empty();
    if reports.len() < batch.len() && !left_to_the_next_boot {
        let verdict = if ending.timed_out { Verdict::TimedOut } else { Verdict::GuestDied };
        let what = if ending.timed_out { "the machine was stopped at its limit" } else { "the guest died" };
        let message = format!("{what}; the last that was heard of it:\n{}", ending.last_words);
        reports.push(Report { name: batch[reports.len()].name.to_owned(), verdict, seconds: 0.0, message });
    }
    reports
}

fn finished(event: &Event) -> Option<Report> {
    let Event::Finished { name, outcome, seconds, message } = event else { return None };
    let verdict = match outcome {
        Outcome::Passed => Verdict::Passed,
        Outcome::Failed => Verdict::Failed,
        Outcome::TimedOut => Verdict::TimedOut,
    };
    Some(Report { name: name.clone(), verdict, seconds: *seconds, message: message.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use labvm::scenarios::TABLE;

    fn ending(events: Vec<Event>, timed_out: bool) -> Ending {
        Ending { events, timed_out, last_words: "Kernel panic".to_owned() }
    }

    fn passed(name: &str) -> Event {
        Event::Finished { name: name.into(), outcome: Outcome::Passed, seconds: 1.0, message: String::new() }
    }

    #[test]
    fn a_guest_that_dies_costs_the_scenario_that_ran() {
        let batch = [&TABLE[0], &TABLE[0]];
        let reports = reports(&batch, &ending(vec![passed("smoke")], false));
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[1].verdict, Verdict::GuestDied);
        assert!(reports[1].message.ends_with("Kernel panic"));
    }

    #[test]
    fn what_fails_outside_counts_and_hides_nothing() {
        let batch = [&TABLE[0]];
        let fault = Error::Lab("spinblk ended with 1".to_owned());
        let mut report = reports(&batch, &ending(vec![passed("smoke")], false)).remove(0);
        report.fail_on_host(&fault);
        assert_eq!((report.verdict, report.message.as_str()), (Verdict::Failed, "spinblk ended with 1"));
        let mut report = reports(&batch, &ending(Vec::new(), true)).remove(0);
        report.fail_on_host(&fault);
        assert_eq!(report.verdict, Verdict::TimedOut);
        assert!(report.message.contains("Kernel panic\nspinblk"), "{}", report.message);
    }

    #[test]
    fn a_dirty_guest_leaves_the_rest_to_the_next_boot() {
        let batch = [&TABLE[0], &TABLE[0]];
        let events = vec![passed("smoke"), Event::Dirty { reason: "x".into() }, Event::Done];
        assert_eq!(reports(&batch, &ending(events, false)).len(), 1);
        assert_eq!(reports(&batch, &ending(Vec::new(), true))[0].verdict, Verdict::TimedOut);
    }
}
