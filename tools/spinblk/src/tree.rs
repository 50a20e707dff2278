//! What an open stack looks like, for people and as JSON.
//!
//! ```text
//!   c0 (disk d0)  crypto  1 GiB    blocks 512/4096  flush          AES-256-XTS, sectors of 512 bytes, key file "/k"
//!   └─ r0         raid0   1 GiB    blocks 512/4096  flush discard  chunk 64 KiB
//!      ├─ a       aio     512 MiB  blocks 512/4096  flush discard  "/srv/a.img", O_DIRECT
//!      └─ b       aio     512 MiB  blocks 512/4096  flush discard  "/srv/b.img", O_DIRECT
//! ```

mod special;

use serde::Serialize;

use crate::backend::Opened;
use crate::config::show_size;
pub use special::{Special, Struck};

/// One bdev and all that it stands on.
#[derive(Clone, Debug, Serialize)]
pub struct Tree {
    /// Its name.
    pub name: String,
    /// The disk that it stands for; at the top only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Its type, as configuration spells it.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its size.
    pub size_bytes: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Physical block size in bytes.
    pub physical_block_size: u32,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// Whether it takes flushes to make writes durable.
    pub flush: bool,
    /// Whether blocks can be given back.
    pub discard: bool,
    /// Whether blocks can be zeroed without sending zeroes.
    pub write_zeroes: bool,
    /// What its type has beyond that.
    #[serde(flatten)]
    pub special: Special,
    /// What it stands on, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Tree>,
}

impl Tree {
    /// Describes an open stack, which stands for `disk`.
    #[must_use]
    pub fn new(opened: &Opened<'_>, disk: Option<&str>) -> Self {
        let info = opened.bdev.info();
        Self {
            name: opened.backend.name.clone(),
            disk: disk.map(String::from),
            kind: opened.backend.type_name(),
            size_bytes: info.size_bytes(),
            block_size: info.block_size,
            physical_block_size: info.physical_block_size,
            read_only: info.read_only,
            flush: info.caps.flush,
            discard: info.caps.discard,
            write_zeroes: info.caps.write_zeroes,
            special: Special::new(&opened.backend.kind, opened.file),
            children: opened.children.iter().map(|child| Self::new(child, None)).collect(),
        }
    }

    /// One line for each bdev, without what leads to it; `prefix` is what its children's lines begin with.
    fn rows(&self, lead: &str, prefix: &str, rows: &mut Vec<[String; 6]>) {
        let disk = self.disk.as_ref().map_or(String::new(), |disk| format!(" (disk {disk})"));
        rows.push([
            format!("{lead}{}{disk}", self.name),
            self.kind.into(),
            show_size(self.size_bytes),
            format!("blocks {}/{}", self.block_size, self.physical_block_size),
            self.abilities(),
            self.special.to_string(),
        ]);
        for (index, child) in self.children.iter().enumerate() {
            let (branch, below) =
                if index + 1 < self.children.len() { ("├─ ", "│  ") } else { ("└─ ", "   ") };
            child.rows(&format!("{prefix}{branch}"), &format!("{prefix}{below}"), rows);
        }
    }

    fn abilities(&self) -> String {
        let all = [
            (self.flush, "flush"),
            (self.discard, "discard"),
            (self.write_zeroes, "write-zeroes"),
            (self.read_only, "read-only"),
        ];
        let words: Vec<&str> = all.iter().filter(|(able, _)| *able).map(|(_, word)| *word).collect();
        if words.is_empty() { "-".into() } else { words.join(" ") }
    }
}

/// All trees for people, their columns in line.
#[must_use]
pub fn to_text(trees: &[Tree]) -> String {
    let mut rows = Vec::new();
    trees.iter().for_each(|tree| tree.rows("", "", &mut rows));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  "));
        (cells.collect::<String>() + &row[5]).trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
