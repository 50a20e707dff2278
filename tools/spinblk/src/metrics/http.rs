//! As much of HTTP/1.1 as Prometheus needs: `GET /metrics`, answered once.

use crate::control::{Answer, State};

/// More than any scraper's request has.
const MAX_REQUEST_BYTES: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

/// A connection that asks for the metrics.
#[derive(Debug, Default)]
pub struct Scrape {
    request: Vec<u8>,
}

impl Scrape {
    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.request.extend_from_slice(bytes);
    }

    /// The answer, as soon as the request's head is whole or wrong.
    pub fn next(&mut self, state: &State) -> Option<Answer> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let head = &self.request[..self.request.len().min(MAX_REQUEST_BYTES)];
        let parsed = request.parse(head);
        let bytes = match parsed {
            Ok(httparse::Status::Complete(_)) => respond(request.method, request.path, state),
            Ok(httparse::Status::Partial) if self.request.len() < MAX_REQUEST_BYTES => return None,
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                response("431 Request Header Fields Too Large", "", "the request is too long\n")
            }
            Err(e) => response("400 Bad Request", "", &format!("{e}\n")),
        };
        Some(Answer::last(bytes))
    }
}

fn respond(method: Option<&str>, target: Option<&str>, state: &State) -> Vec<u8> {
    let path = target.unwrap_or_default().split('?').next();
    match (path, method) {
        (Some("/metrics"), Some("GET")) => response("200 OK", "", &super::render(state)),
        (Some("/metrics"), _) => response("405 Method Not Allowed", "Allow: GET\r\n", "only GET is served\n"),
        _ => response("404 Not Found", "", "only /metrics is served\n"),
    }
}

fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let (kind, len) = ("text/plain; version=0.0.4; charset=utf-8", body.len());
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
