//! Names of operations, sizes and stages, as the boards know them.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spinblk_perf::{OpKind, SizeClass, Stage};

/// What requests do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Op {
    /// Device to guest.
    Read,
    /// Guest to device.
    Write,
    /// Make writes durable.
    Flush,
    /// Give blocks back.
    Discard,
    /// Zero blocks.
    WriteZeroes,
    /// Everything else: get-id, unknown and malformed requests.
    Other,
}

/// How large a read or write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ValueEnum)]
pub enum Class {
    /// Up to 512 bytes.
    #[serde(rename = "to_512")]
    #[value(name = "to_512")]
    To512,
    /// Up to 4 KiB.
    #[serde(rename = "to_4k")]
    #[value(name = "to_4k")]
    To4KiB,
    /// Up to 16 KiB.
    #[serde(rename = "to_16k")]
    #[value(name = "to_16k")]
    To16KiB,
    /// Up to 64 KiB.
    #[serde(rename = "to_64k")]
    #[value(name = "to_64k")]
    To64KiB,
    /// Up to 256 KiB.
    #[serde(rename = "to_256k")]
    #[value(name = "to_256k")]
    To256KiB,
    /// More.
    #[serde(rename = "larger")]
    #[value(name = "larger")]
    Larger,
}

/// A part of a request's way, or the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum StageName {
    /// All stages together.
    Total,
    /// In the avail ring, not seen yet: at most this long.
    PickUp,
    /// Seen, and read, checked and handed to the block device.
    Submit,
    /// With the block device.
    Bdev,
    /// Done, and until the used ring shows it.
    Return,
    /// In the used ring, and until the driver's interrupt is sent.
    Interrupt,
}

impl Op {
    /// All, in the boards' order.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Flush, Self::Discard, Self::WriteZeroes, Self::Other];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        OpKind::ALL[self as usize].name()
    }
}

impl Class {
    /// All, from small to large.
    pub const ALL: [Self; 6] =
        [Self::To512, Self::To4KiB, Self::To16KiB, Self::To64KiB, Self::To256KiB, Self::Larger];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        SizeClass::ALL[self as usize].name()
    }
}

impl StageName {
    /// The total, then the stages in their order.
    pub const ALL: [Self; 6] =
        [Self::Total, Self::PickUp, Self::Submit, Self::Bdev, Self::Return, Self::Interrupt];

    /// The stage; `None` for the total.
    #[must_use]
    pub fn stage(self) -> Option<Stage> {
        (self as usize).checked_sub(1).map(|index| Stage::ALL[index])
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.stage().map_or("total", Stage::name)
    }
}

impl From<OpKind> for Op {
    fn from(kind: OpKind) -> Self {
        Self::ALL[kind as usize]
    }
}

impl From<SizeClass> for Class {
    fn from(class: SizeClass) -> Self {
        Self::ALL[class as usize]
    }
}

impl From<Stage> for StageName {
    fn from(stage: Stage) -> Self {
        Self::ALL[stage as usize + 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(name: impl Serialize) -> String {
        serde_json::to_value(name).unwrap().as_str().unwrap().into()
    }

    fn typed(name: &impl ValueEnum) -> String {
        name.to_possible_value().unwrap().get_name().into()
    }

    #[test]
    fn names_are_the_boards_everywhere() {
        for (op, kind) in Op::ALL.into_iter().zip(OpKind::ALL) {
            assert_eq!(
                (wire(op).as_str(), typed(&op).as_str(), op.name()),
                (kind.name(), kind.name(), kind.name())
            );
            assert_eq!(Op::from(kind), op);
        }
        for (name, class) in Class::ALL.into_iter().zip(SizeClass::ALL) {
            assert_eq!((wire(name).as_str(), typed(&name).as_str()), (class.name(), class.name()));
            assert_eq!((Class::from(class), name.name()), (name, class.name()));
        }
        assert_eq!((wire(StageName::Total).as_str(), StageName::Total.stage()), ("total", None));
        for (name, stage) in StageName::ALL.into_iter().skip(1).zip(Stage::ALL) {
            assert_eq!((wire(name).as_str(), typed(&name).as_str()), (stage.name(), stage.name()));
            assert_eq!(
                (StageName::from(stage), name.stage(), name.name()),
                (name, Some(stage), stage.name())
            );
        }
    }
}
