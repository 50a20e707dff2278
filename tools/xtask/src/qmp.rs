//! QMP: QEMU's own control socket. Commands are executed one after the other; events that come meanwhile are kept.

use crate::error::{Error, Result};
use crate::lines::JsonLines;
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// An emulated machine under load takes its time, even for its monitor.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A connection to one machine.
pub(crate) struct Qmp {
    lines: JsonLines,
    /// Those that nobody has taken yet.
    events: Vec<Value>,
}

impl Qmp {
    /// Hears the greeting, and asks for nothing beyond it.
    pub(crate) fn new(stream: UnixStream) -> Result<Qmp> {
        let mut qmp = Qmp { lines: JsonLines::new(stream, "QEMU's monitor")?, events: Vec::new() };
        let greeting = qmp.lines.next(Instant::now() + ANSWER_LIMIT)?.unwrap_or_default();
        if greeting.get("QMP").is_none() {
            return Err(Error::Lab(format!("QEMU's monitor greets with {greeting}")));
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Executes a command that has nothing to return but whether it worked.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        self.lines.send(&json!({"execute": command, "arguments": arguments}))?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        while let Some(message) = self.lines.next(deadline)? {
            if message.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = message.get("error") {
                let why = error["desc"].as_str().unwrap_or("no reason given");
                return Err(Error::Lab(format!("QEMU refuses {command}: {why}")));
            }
            self.events.push(message);
        }
        Err(Error::Lab(format!("QEMU did not answer {command} in {} s", ANSWER_LIMIT.as_secs())))
    }

    /// Takes an event of this name, whose data fit, if it has come.
    pub(crate) fn take_event(&mut self, name: &str, fits: impl Fn(&Value) -> bool) -> Result<Option<Value>> {
        while let Some(message) = self.lines.next(Instant::now())? {
            self.events.push(message);
        }
        let wanted = |event: &Value| event["event"] == name && fits(&event["data"]);
        Ok(self.events.iter().position(wanted).map(|at| self.events.swap_remove(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn keeps_events_and_tells_refusals() {
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        qemu.write_all(b"{\"QMP\": {}}\n{\"return\": {}}\n").unwrap();
        let mut qmp = Qmp::new(ours).unwrap();
        qemu.write_all(b"{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n").unwrap();
        qemu.write_all(b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such id\"}}\n").unwrap();
        let refusal = qmp.execute("device_del", &json!({"id": "x"})).unwrap_err().to_string();
        assert_eq!(refusal, "QEMU refuses device_del: no such id");
        assert!(qmp.take_event("RESET", |data| data["guest"] == false).unwrap().is_none());
        assert!(qmp.take_event("RESET", |data| data["guest"] == true).unwrap().is_some());
        assert!(qmp.take_event("RESET", |_| true).unwrap().is_none());
    }
}
