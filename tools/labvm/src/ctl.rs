//! A running spinblk, asked through its control socket as a user asks it.

use crate::command::Cmd;
use crate::fail::Fail;
use serde_json::Value;

/// Where it listens.
pub(crate) const SOCKET: &str = "/tmp/spinblk-control.sock";
/// A change takes as long as attaching or draining a disk does.
const LIMIT_S: u64 = 100;

/// The answer to `spinblk ctl`.
pub(crate) fn ask(words: &[&str]) -> Result<Value, Fail> {
    let ctl = Cmd::new("spinblk").args(["ctl", "--socket", SOCKET, "--json"]).args(words.iter().copied());
    let text = ctl.limit_s(LIMIT_S).run()?;
    serde_json::from_str(&text)
        .map_err(|source| Fail::Json { what: format!("ctl {}", words.join(" ")), source })
}

/// A number in an answer; 0 if it is none.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A list in an answer; empty if it is none.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
