//! The client's end of the control socket: one question at a time, each answered or given up in bounded time.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer as HdrReader, Serializer as _, V2DeflateSerializer};
use serde_json::{Value, json};

use super::{HistogramEntry, Histograms, HistogramsParams, HistogramsResult, Method};
use crate::Error;

/// How long an answer may take: the daemon answers at once unless it has many clients.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a change may take: a disk drains as long as it gets on, behind others.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(7200);
/// More than any answer has.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    last_id: u64,
}

impl Client {
    /// Connects to the daemon whose control socket is `path`.
    ///
    /// # Errors
    /// [`Error::Daemon`] where nobody listens.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream)
        };
        let stream = connect().map_err(|source: std::io::Error| Error::Daemon {
            socket: path.into(),
            why: format!("{source}; is `spinblk serve --control {}` running, by this user?", path.display()),
        })?;
        Ok(Self { stream: BufReader::new(stream), path: path.into(), last_id: 0 })
    }

    /// Calls a method.
    ///
    /// # Errors
    /// [`Error::Refused`] with the daemon's words, [`Error::Daemon`] when it does not answer as it should.
    pub fn call<M: Method>(&mut self, params: &M::Params) -> Result<M::Result, Error> {
        self.last_id += 1;
        let timeout = if M::IS_CHANGE { CHANGE_TIMEOUT } else { ANSWER_TIMEOUT };
        self.stream.get_ref().set_read_timeout(Some(timeout)).map_err(|e| self.broken(e.to_string()))?;
        let request = json!({ "jsonrpc": "2.0", "id": self.last_id, "method": M::NAME, "params": params });
        let mut answer = self.exchange(&request.to_string())?;
        if let Some(error) = answer.get("error") {
            return Err(Error::Refused { method: M::NAME.into(), why: show_error(error) });
        }
        if answer.get("id") != Some(&json!(self.last_id)) {
            return Err(self.broken("it answered another question".into()));
        }
        let result = answer.get_mut("result").map(Value::take).unwrap_or_default();
        serde_json::from_value(result).map_err(|e| self.broken(format!("its answer is not understood: {e}")))
    }

    /// All histograms, and how long, in milliseconds, the daemon has counted them.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn histograms(&mut self) -> Result<(u64, Vec<FetchedHistogram>), Error> {
        let params = HistogramsParams { raw: true, ..HistogramsParams::default() };
        let HistogramsResult { since_ms, entries } = self.call::<Histograms>(&params)?;
        let decode = |mut entry: HistogramEntry| {
            let histogram = entry.histogram.take().and_then(|text| decode_histogram(&text));
            let histogram = histogram.ok_or_else(|| self.broken("a histogram is damaged".into()))?;
            Ok(FetchedHistogram { entry, histogram })
        };
        Ok((since_ms, entries.into_iter().map(decode).collect::<Result<_, Error>>()?))
    }

    /// Sends any text and gives the next JSON value that comes back.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn exchange(&mut self, request: &str) -> Result<Value, Error> {
        // A daemon that refuses what comes says so and closes, maybe before all is sent.
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        let bounded = (&mut self.stream).take(MAX_ANSWER_BYTES);
        let mut values = serde_json::Deserializer::from_reader(bounded).into_iter::<Value>();
        match (values.next(), sent) {
            (Some(Ok(answer)), _) => Ok(answer),
            (_, Err(e)) => Err(self.broken(e.to_string())),
            (Some(Err(e)), _) => Err(self.broken(e.to_string())),
            (None, Ok(())) => Err(self.broken("it closed the connection".into())),
        }
    }

    pub(super) fn broken(&self, why: String) -> Error {
        Error::Daemon { socket: self.path.clone(), why }
    }
}

/// The daemon's error for people.
fn show_error(error: &Value) -> String {
    let text = |value: &Value| value.as_str().map(String::from);
    let message = error.get("message").and_then(text).unwrap_or_else(|| error.to_string());
    let data = |key: &str| error.get("data").and_then(|data| data.get(key)).and_then(text);
    match (data("field"), data("reason")) {
        (Some(field), Some(reason)) => format!("{message}: {field}: {reason}"),
        _ => message,
    }
}

/// A histogram that was fetched.
#[derive(Clone, Debug)]
pub struct FetchedHistogram {
    /// What it is of; its own `histogram` is empty.
    pub entry: HistogramEntry,
    /// All its buckets.
    pub histogram: Histogram<u64>,
}

/// Fetches all histograms from the daemon whose control socket is `path`.
///
/// # Errors
/// Those of [`Client`].
pub fn fetch_histograms(path: &Path) -> Result<Vec<FetchedHistogram>, Error> {
    Client::connect(path)?.histograms().map(|(_, histograms)| histograms)
}

/// A histogram as it is sent: HdrHistogram's format V2, compressed, in base64, as the lines of its logs have it.
#[must_use]
pub fn encode_histogram(histogram: &Histogram<u64>) -> Option<String> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).ok()?;
    Some(STANDARD.encode(bytes))
}

/// The reverse of [`encode_histogram`]; `None` for what it never gives.
#[must_use]
pub fn decode_histogram(text: &str) -> Option<Histogram<u64>> {
    let bytes = STANDARD.decode(text).ok()?;
    HdrReader::new().deserialize(&mut bytes.as_slice()).ok()
}
