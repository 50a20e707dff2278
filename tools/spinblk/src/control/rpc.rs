//! JSON-RPC 2.0: from the text of a request to the text of its answer.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::changes::Outcome;
use super::frame::FrameError;
use super::methods::{self, Ran};
use super::state::State;
use crate::Error;

/// Requests that a batch may have.
const MAX_BATCH: usize = 64;

const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;
/// Our own, from the range that the standard leaves to servers.
const TOO_LARGE: i32 = -32001;
const UNAVAILABLE: i32 = -32002;
const BUSY: i32 = -32003;
const REFUSED: i32 = -32004;

/// What goes back to a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The bytes; empty where no answer is wanted.
    pub bytes: Vec<u8>,
    /// Whether the connection ends with it.
    pub last: bool,
    /// There is none yet, but there will be.
    pub(super) later: Option<Later>,
}

impl Answer {
    /// One with which the connection ends.
    pub(crate) fn last(bytes: Vec<u8>) -> Self {
        Self { bytes, last: true, later: None }
    }
}

/// A request that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Later {
    /// Of the change that it waits for.
    pub(super) ticket: u64,
    /// `None` for a notification, which wants no answer.
    id: Option<Value>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct RpcError {
    code: i32,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// A parameter that will not do.
    pub(crate) fn param(field: &str, reason: impl Into<String>) -> Self {
        let data = Some(json!({ "field": field, "reason": reason.into() }));
        Self { data, ..Self::new(INVALID_PARAMS, "invalid params") }
    }

    /// Something that this daemon cannot do.
    pub(crate) fn unavailable(why: &str) -> Self {
        Self::new(UNAVAILABLE, why)
    }

    /// More changes than may wait.
    pub(crate) fn busy(waiting: usize) -> Self {
        Self::new(BUSY, format!("busy: {waiting} changes wait already; try again"))
    }

    /// A change among other requests, which its answer would hold up.
    pub(crate) fn in_a_batch() -> Self {
        Self::invalid("a change is sent by itself, not in a batch")
    }

    /// An answer that could not be written as JSON.
    pub(crate) fn internal(why: &serde_json::Error) -> Self {
        Self::new(INTERNAL_ERROR, format!("internal error: {why}"))
    }

    /// A request whose end never came.
    pub(crate) fn cut_short() -> Self {
        Self::new(PARSE_ERROR, "parse error: the request ends in the middle")
    }

    fn invalid(why: &str) -> Self {
        Self::new(INVALID_REQUEST, format!("invalid request: {why}"))
    }
}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        Self::new(REFUSED, error.one_line())
    }
}

impl From<FrameError> for RpcError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::NoRequest => Self::new(PARSE_ERROR, "parse error: a request begins with { or ["),
            FrameError::TooDeep => Self::new(PARSE_ERROR, "parse error: nested too deeply"),
            FrameError::TooLong => Self::invalid("it is too long"),
        }
    }
}

/// Answers one whole JSON value, in at most about `max_bytes`.
pub fn answer(frame: &[u8], state: &mut State, max_bytes: usize) -> Answer {
    let mut room = max_bytes;
    let text = match serde_json::from_slice::<Value>(frame) {
        Ok(Value::Array(batch)) if batch.is_empty() => {
            Some(refusal(&RpcError::invalid("the batch is empty")))
        }
        Ok(Value::Array(batch)) if batch.len() > MAX_BATCH => {
            let why = format!("a batch of {}; at most {MAX_BATCH}", batch.len());
            Some(refusal(&RpcError::invalid(&why)))
        }
        Ok(Value::Array(batch)) => {
            let one = |request| one(request, state, &mut room, false).text;
            let answers: Vec<String> = batch.into_iter().filter_map(one).collect();
            (!answers.is_empty()).then(|| format!("[{}]", answers.join(",")))
        }
        Ok(request) => {
            let One { text, later } = one(request, state, &mut room, true);
            return Answer { bytes: line(text), last: false, later };
        }
        // Where one value is broken nobody knows where the next begins.
        Err(e) => return last(&RpcError::new(PARSE_ERROR, format!("parse error: {e}"))),
    };
    Answer { bytes: line(text), ..Answer::default() }
}

/// The answer to a request that has waited for it.
pub(super) fn answer_later(later: Later, outcome: Outcome, max_bytes: usize) -> Answer {
    let mut room = max_bytes;
    let text = later.id.map(|id| reply(&id, outcome.map_err(RpcError::from), &mut room));
    Answer { bytes: line(text), ..Answer::default() }
}

fn line(text: Option<String>) -> Vec<u8> {
    text.map_or(Vec::new(), |text| (text + "\n").into_bytes())
}

/// The answer to what is no request, after which the connection ends.
pub(crate) fn last(error: &RpcError) -> Answer {
    Answer::last(line(Some(refusal(error))))
}

/// What one request came to: a text, or the promise of one. Neither where it has no id and is no change.
struct One {
    text: Option<String>,
    later: Option<Later>,
}

fn one(request: Value, state: &mut State, room: &mut usize, alone: bool) -> One {
    let now = |text| One { text, later: None };
    let Call { id, method, params } = match Call::read(request) {
        Ok(call) => call,
        Err((id, e)) => return now(Some(failure(&id, &e))),
    };
    let result = match methods::run(&method, params, state, alone) {
        Ok(Ran::Later(ticket)) => return One { text: None, later: Some(Later { ticket, id }) },
        Ok(Ran::Now(result)) => Ok(result),
        Err(e) => Err(e),
    };
    now(id.map(|id| reply(&id, result, room)))
}

fn reply(id: &Value, result: Result<Value, RpcError>, room: &mut usize) -> String {
    let text = match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string(),
        Err(e) => failure(id, &e),
    };
    if text.len() > *room {
        let why = format!("the answer has {} bytes, too many: ask for less of it", text.len());
        return failure(id, &RpcError::new(TOO_LARGE, why));
    }
    *room -= text.len();
    text
}

fn refusal(error: &RpcError) -> String {
    failure(&Value::Null, error)
}

fn failure(id: &Value, error: &RpcError) -> String {
    let mut shown = json!({ "code": error.code, "message": error.message });
    if let Some(data) = &error.data {
        shown["data"] = data.clone();
    }
    json!({ "jsonrpc": "2.0", "id": id, "error": shown }).to_string()
}

/// A request whose form is right.
struct Call {
    /// `None` for a notification, which wants no answer.
    id: Option<Value>,
    method: String,
    params: Map<String, Value>,
}

impl Call {
    /// The error comes with the id to answer to.
    fn read(request: Value) -> Result<Self, (Value, RpcError)> {
        let invalid =
            |id: &Option<Value>, why: &str| Err((id.clone().unwrap_or_default(), RpcError::invalid(why)));
        let Value::Object(mut members) = request else { return invalid(&None, "it is no object") };
        let id = members.remove("id");
        if !matches!(id, None | Some(Value::Null | Value::String(_) | Value::Number(_))) {
            return invalid(&None, "id: wanted: a string, a number or null");
        }
        if members.remove("jsonrpc") != Some("2.0".into()) {
            return invalid(&id, "jsonrpc: wanted: \"2.0\"");
        }
        let Some(Value::String(method)) = members.remove("method") else {
            return invalid(&id, "method: wanted: the name of a method");
        };
        let params = members.remove("params");
        if let Some(unknown) = members.keys().next() {
            return invalid(
                &id,
                &format!("{unknown}: no such member; there are: jsonrpc, id, method, params"),
            );
        }
        match params {
            None => Ok(Self { id, method, params: Map::new() }),
            Some(Value::Object(params)) => Ok(Self { id, method, params }),
            Some(_) => {
                let e = RpcError::param("params", "wanted: an object, with parameters by their names");
                Err((id.unwrap_or_default(), e))
            }
        }
    }
}

/// The error for a name that no method has.
pub(crate) fn no_such_method(name: &str, names: &str) -> RpcError {
    let mut name: String = name.chars().take(64).collect();
    if name.is_empty() {
        name.push_str("\"\"");
    }
    RpcError::new(METHOD_NOT_FOUND, format!("method not found: {name}; there are: {names}"))
}

/// Parameters as their type; the error names the field.
pub(crate) fn params<P: DeserializeOwned>(given: Map<String, Value>) -> Result<P, RpcError> {
    serde_path_to_error::deserialize(Value::Object(given)).map_err(|e| {
        let (path, reason) = (e.path().to_string(), e.inner().to_string());
        // Of a field that is missing or unknown the path is that of the object, and the message has its name.
        let of_object = || reason.split('`').nth(1).unwrap_or("params");
        let named = if path == "." { of_object() } else { &path };
        RpcError::param(named, reason.as_str())
    })
}
