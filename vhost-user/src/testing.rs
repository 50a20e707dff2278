//! A session without a listener, so that a fuzzer can feed it.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use spinblk_bdev::Bdev;
use spinblk_reactor::Handle;
use vhost::vhost_user::BackendReqHandler;

use crate::session::Session;
use crate::{Error, RingOptions, ServerConfig, aside};

/// Serves everything that comes from `client`, until it hangs up or sends nonsense, then ends the session as the server
/// does. Returns how many messages were good.
///
/// # Errors
/// What kept the session from being set up.
pub fn serve(
    config: &ServerConfig,
    client: UnixStream,
    bdev: Arc<dyn Bdev>,
    reactors: &[Arc<Handle>],
) -> Result<u64, Error> {
    let copy = client.try_clone().map_err(|source| Error::Thread {
        name: config.name.clone(),
        what: "its connection",
        source,
    })?;
    let rings = RingOptions::default();
    let session = Session::new(config, rings, bdev, reactors, crate::server::events(config)?);
    let session = Arc::new(Mutex::new(session));
    let mut handler = BackendReqHandler::from_stream(client, Arc::clone(&session));
    let mut good = 0;
    loop {
        let ours = session.lock().map(|mut session| aside::take(&copy, &mut session));
        match ours {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) if handler.handle_request().is_ok() => {}
            _ => break,
        }
        good += 1;
        if let Ok(mut session) = session.lock() {
            session.take_events();
        }
    }
    if let Ok(mut session) = session.lock() {
        session.end();
    }
    Ok(good)
}
