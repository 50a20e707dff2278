//! The one error of these programs.

/// What kept a measurement from being made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk could not be made or opened.
    #[error(transparent)]
    Bdev(#[from] spinblk_bdev::Error),
    /// A reactor or its ring could not be had.
    #[error(transparent)]
    Reactor(#[from] spinblk_reactor::Error),
    /// The queue refused the ring.
    #[error(transparent)]
    Queue(#[from] spinblk_virtio::QueueError),
    /// The queue refused its in-flight log.
    #[error(transparent)]
    InFlight(#[from] spinblk_virtio::InFlightError),
    /// A stack could not be put under load.
    #[error(transparent)]
    Load(#[from] spinblk_load::Error),
    /// A request that cannot fail did.
    #[error("a request to {disk} failed: {why}")]
    Failed {
        /// The disk's name.
        disk: String,
        /// What it answered.
        why: &'static str,
    },
    /// aws-lc refused the key or a sector.
    #[error("aws-lc fails in {0}")]
    Cipher(&'static str),
    /// The key of a measurement could not be written.
    #[error("cannot write a key to a temporary file: {0}")]
    KeyFile(std::io::Error),
    /// The thread could not be pinned.
    #[error("core {0} cannot be used; name others with --cores (or --core)")]
    Core(usize),
    /// A thread that measured ended in a panic.
    #[error("a measuring thread ended in a panic")]
    Panicked,
    /// A number on the command line that cannot be.
    #[error("{0}")]
    Argument(String),
    /// The results could not be written.
    #[error("cannot write the results: {0}")]
    Json(#[from] serde_json::Error),
}
