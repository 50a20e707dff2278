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
