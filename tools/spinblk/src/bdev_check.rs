//! `spinblk bdev check`: opens the stacks of a file as `serve` would, and shows what became of them.

use std::path::Path;

use crate::Error;
use crate::backend::{self, Making};
use crate::config::stacks_from_file;
use crate::tree::Tree;

/// Checks a file and opens what it describes. No memory is taken for disks and no file is created.
///
/// # Errors
/// Those of the configuration, [`Error::Bdev`] for what this machine does not have.
pub fn check(path: &Path) -> Result<Vec<Tree>, Error> {
    let stacks = stacks_from_file(path)?;
    let mut opened = Vec::with_capacity(stacks.len());
    // All are open together, so that two that want one file are found.
    for stack in &stacks {
        opened.push((stack, backend::open(&stack.top, stack.read_only, Making::Described)?));
    }
    Ok(opened.iter().map(|(stack, opened)| Tree::new(opened, stack.disk.as_deref())).collect())
}
