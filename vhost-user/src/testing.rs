//! A session without a listener, so that a fuzzer can feed it.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use spinblk_bdev::Bdev;
use spinblk_reactor::Handle;
use vhost::vhost_user::BackendReqHandler;

use crate::session::Session;
use crate::{Error, ServerConfig};

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
    let session = Session::new(config, bdev, reactors, crate::server::events(config)?);
    let session = Arc::new(Mutex::new(session));
    let mut handler = BackendReqHandler::from_stream(client, Arc::clone(&session));
    let mut good = 0;
    while handler.handle_request().is_ok() {
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
