//! What an interval of a log is about: `DISK/qQUEUE/OP/CLASS/STAGE`, such as `d0/q0/read/to_4k/bdev`.

use std::fmt;
use std::str::FromStr;

use spinblk_perf::{OpKind, SizeClass, Stage};

/// Requests of all sizes.
const ALL: &str = "all";
/// Requests from their first stage to the last.
const TOTAL: &str = "total";
const FORM: &str = "DISK/qQUEUE/OP/CLASS/STAGE, such as d0/q0/read/to_4k/bdev";

/// The tag of an interval.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    disk: String,
    /// The virtqueue's number.
    pub queue: u16,
    /// What the requests did.
    pub kind: OpKind,
    /// How large they were; `None`: any size.
    pub class: Option<SizeClass>,
    /// The stage that was timed; `None`: all of them together.
    pub stage: Option<Stage>,
}

impl Tag {
    /// A tag; `None` where the disk's name is not made of letters, digits, `.`, `_` and `-`, which are all that a log's
    /// line can carry for certain.
    #[must_use]
    pub fn new(
        disk: &str,
        queue: u16,
        kind: OpKind,
        class: Option<SizeClass>,
        stage: Option<Stage>,
    ) -> Option<Self> {
        let fits = !disk.is_empty() && disk.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        fits.then(|| Self { disk: disk.into(), queue, kind, class, stage })
    }

    /// The disk's name; `perf` for what the load generator saw.
    #[must_use]
    pub fn disk(&self) -> &str {
        &self.disk
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = self.class.map_or(ALL, SizeClass::name);
        let stage = self.stage.map_or(TOTAL, Stage::name);
        write!(f, "{}/q{}/{}/{class}/{stage}", self.disk, self.queue, self.kind.name())
    }
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| format!("tag {text}: expected {FORM}"))
    }
}

fn parse(text: &str) -> Option<Tag> {
    let mut parts = text.split('/');
    let (disk, queue, kind) = (parts.next()?, parts.next()?, parts.next()?);
    let (class, stage) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let queue = queue.strip_prefix('q').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
    let class = match class {
        ALL => None,
        name => Some(SizeClass::ALL.into_iter().find(|class| class.name() == name)?),
    };
    let stage = match stage {
        TOTAL => None,
        name => Some(Stage::ALL.into_iter().find(|stage| stage.name() == name)?),
    };
    Tag::new(disk, queue.parse().ok()?, kind_of(kind)?, class, stage)
}

/// The kind of request of this name.
pub(crate) fn kind_of(name: &str) -> Option<OpKind> {
    OpKind::ALL.into_iter().find(|kind| kind.name() == name)
}
