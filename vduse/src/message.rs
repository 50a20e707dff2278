//! Control messages: what the kernel asks over `/dev/vduse/NAME`, and our answers, as bytes.
//!
//! Pure functions: `device.rs` reads and writes, this file knows the layout (`struct vduse_dev_request` and
//! `struct vduse_dev_response`). Every message must be answered, also one that is not understood (with
//! [`Reply::Failed`]): an unanswered one breaks the device for good when the kernel's timeout runs out.

use crate::uapi::{
    GET_VQ_STATE, RESULT_FAILED, RESULT_OK, SET_STATUS, SET_VQ_GROUP_ASID, UPDATE_IOTLB, VqState,
};

/// Bytes of a request and of a response: a head of 24 and a body of 128.
pub(crate) const MESSAGE_BYTES: usize = HEAD_BYTES + 128;
const HEAD_BYTES: usize = 24;

/// One message of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// How far has the device come in a queue? Answer: [`Reply::VqState`].
    GetVqState {
        /// Names the message in the reply.
        request_id: u32,
        /// The queue.
        queue: u32,
    },
    /// The driver set the device status; 0 is a reset, which the kernel carries out whatever the answer is.
    SetStatus {
        /// Names the message in the reply.
        request_id: u32,
        /// The whole status byte.
        status: u8,
    },
    /// The mappings of this range changed already; what the device holds of them is stale.
    UpdateIotlb {
        /// Names the message in the reply.
        request_id: u32,
        /// First IOVA.
        start: u64,
        /// Last IOVA, inclusive.
        last: u64,
        /// The address space; 0 in API version 0.
        asid: u32,
    },
    /// API version 1: a group of queues moves to another address space.
    SetVqGroupAsid {
        /// Names the message in the reply.
        request_id: u32,
        /// The group.
        group: u32,
        /// Its new address space.
        asid: u32,
    },
    /// A type that this crate does not know: answer [`Reply::Failed`].
    Unknown {
        /// Names the message in the reply.
        request_id: u32,
        /// The type's number.
        kind: u32,
    },
}

impl Message {
    /// The number that the reply must carry.
    #[must_use]
    pub fn request_id(&self) -> u32 {
        match *self {
            Self::GetVqState { request_id, .. }
            | Self::SetStatus { request_id, .. }
            | Self::UpdateIotlb { request_id, .. }
            | Self::SetVqGroupAsid { request_id, .. }
            | Self::Unknown { request_id, .. } => request_id,
        }
    }

    /// Reads one request; `None` when there are fewer bytes than one request has.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MESSAGE_BYTES] = bytes.get(..MESSAGE_BYTES)?.try_into().ok()?;
        let kind = u32_at(bytes, 0);
        let request_id = u32_at(bytes, 4);
        let body_u32 = |offset| u32_at(bytes, HEAD_BYTES + offset);
        let body_u64 = |offset| u64_at(bytes, HEAD_BYTES + offset);
        Some(match kind {
            GET_VQ_STATE => Self::GetVqState { request_id, queue: body_u32(0) },
            SET_STATUS => Self::SetStatus { request_id, status: bytes[HEAD_BYTES] },
            // Version 0 has no asid and sends zeroes there.
            UPDATE_IOTLB => {
                Self::UpdateIotlb { request_id, start: body_u64(0), last: body_u64(8), asid: body_u32(16) }
            }
            SET_VQ_GROUP_ASID => Self::SetVqGroupAsid { request_id, group: body_u32(0), asid: body_u32(4) },
            kind => Self::Unknown { request_id, kind },
        })
    }
}

/// Our answer to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Ok,
    /// Not done; the driver sees an I/O error.
    Failed,
    /// Done, and this is the state that [`Message::GetVqState`] asked for.
    VqState {
        /// The queue.
        queue: u32,
        /// Its state.
        state: VqState,
    },
}

impl Reply {
    pub(crate) fn encode(self, request_id: u32) -> [u8; MESSAGE_BYTES] {
        let mut bytes = [0; MESSAGE_BYTES];
        let mut put =
            |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        let result = if self == Self::Failed { RESULT_FAILED } else { RESULT_OK };
        put(0, &request_id.to_ne_bytes());
        put(4, &result.to_ne_bytes());
        if let Self::VqState { queue, state } = self {
            put(HEAD_BYTES, &queue.to_ne_bytes());
            for (i, word) in state.words().into_iter().enumerate() {
                put(HEAD_BYTES + 4 + 2 * i, &word.to_ne_bytes());
            }
        }
        bytes
    }
}

fn u32_at(bytes: &[u8; MESSAGE_BYTES], offset: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|i| bytes[offset + i]))
}

fn u64_at(bytes: &[u8; MESSAGE_BYTES], offset: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| bytes[offset + i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use spinblk_virtio::{RingKind, RingState};

    fn request(kind: u32, request_id: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; MESSAGE_BYTES];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&request_id.to_ne_bytes());
        bytes[HEAD_BYTES..HEAD_BYTES + body.len()].copy_from_slice(body);
        bytes
    }

    #[test]
    fn every_type_is_read() {
        let parse = |kind, body: &[u8]| Message::parse(&request(kind, 9, body)).unwrap();
        assert_eq!(parse(0, &3u32.to_ne_bytes()), Message::GetVqState { request_id: 9, queue: 3 });
        assert_eq!(parse(1, &[0x0f, 0xff]), Message::SetStatus { request_id: 9, status: 0x0f });
        let range = [4096u64.to_ne_bytes(), u64::MAX.to_ne_bytes()].concat();
        let all = Message::UpdateIotlb { request_id: 9, start: 4096, last: u64::MAX, asid: 0 };
        assert_eq!(parse(2, &range), all);
        let group = [2u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
        assert_eq!(parse(3, &group), Message::SetVqGroupAsid { request_id: 9, group: 2, asid: 1 });
        for kind in [4, 5, 77, u32::MAX] {
            assert_eq!(parse(kind, &[]), Message::Unknown { request_id: 9, kind });
            assert_eq!(parse(kind, &[]).request_id(), 9);
        }
    }

    #[test]
    fn short_reads_are_no_message() {
        let whole = request(0, 1, &[]);
        for len in 0..MESSAGE_BYTES {
            assert_eq!(Message::parse(&whole[..len]), None, "{len} bytes");
        }
        assert!(Message::parse(&whole).is_some());
    }

    #[test]
    fn replies_have_the_kernels_layout() {
        let ok = Reply::Ok.encode(0x0102_0304);
        assert_eq!(ok[..4], 0x0102_0304u32.to_ne_bytes());
        assert!(ok[4..].iter().all(|&b| b == 0));
        assert_eq!(Reply::Failed.encode(1)[4..8], 1u32.to_ne_bytes());

        let state = VqState::new(RingKind::Split, RingState { avail: 0xbeef, used: 0 });
        let split = Reply::VqState { queue: 2, state }.encode(1);
        assert_eq!(split[4..24], [0; 20]);
        assert_eq!(split[24..28], 2u32.to_ne_bytes());
        assert_eq!(split[28..30], 0xbeefu16.to_ne_bytes());

        let state = VqState::new(RingKind::Packed, RingState { avail: 0x8005, used: 0x8006 });
        let packed = Reply::VqState { queue: 0, state }.encode(1);
        let words: Vec<u8> = [1u16, 5, 1, 6].into_iter().flat_map(u16::to_ne_bytes).collect();
        assert_eq!(packed[28..36], words);
        assert!(packed[36..].iter().all(|&b| b == 0));
    }
}
