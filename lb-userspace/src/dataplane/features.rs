//! What a device's driver can do with XDP, by the kernel's generic netlink family `netdev` (Linux 6.3 and later).

use std::io::{Error, ErrorKind, Result};

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

/// `NETDEV_XDP_ACT_NDO_XMIT` (linux/netdev.h): frames that are redirected to the device leave by it.
const TAKES_REDIRECTED: u64 = 4;

/// Family of the controller, its question for a family by name, and the attributes of name and number
/// (linux/genetlink.h).
const CONTROLLER: u16 = 16;
const FAMILY_BY_NAME: u8 = 3;
const FAMILY_NAME: u16 = 2;
const FAMILY_NUMBER: u16 = 1;
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES` (linux/netdev.h).
const DEVICE: u8 = 1;
const DEVICE_IFINDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;
/// `NLM_F_REQUEST` and `NLMSG_ERROR` (linux/netlink.h), and the sizes of both headers together.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
const HEADERS: usize = 20;

/// Whether frames that are redirected to a device leave by it.
///
/// # Errors
/// ENOENT before Linux 6.3, ENODEV, and others.
pub(super) fn takes_redirected(ifindex: u32) -> Result<bool> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let number = ask(&socket, CONTROLLER, FAMILY_BY_NAME, FAMILY_NAME, b"netdev\0", FAMILY_NUMBER)?;
    let family =
        number.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes)).ok_or(ErrorKind::InvalidData)?;
    let index = ifindex.to_ne_bytes();
    let features = ask(&socket, family, DEVICE, DEVICE_IFINDEX, &index, DEVICE_XDP_FEATURES)?;
    let features =
        features.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)).ok_or(ErrorKind::InvalidData)?;
    Ok(features & TAKES_REDIRECTED != 0)
}

/// Asks a family with one attribute for one attribute of its answer.
fn ask(socket: &Socket, family: u16, command: u8, key: u16, value: &[u8], wanted: u16) -> Result<Vec<u8>> {
    let length = HEADERS + (4 + value.len()).next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence and port: there is one question at a time.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(key.to_ne_bytes());
    message.extend(value);
    message.resize(length, 0);
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.first_chunk()).map(|bytes| u16::from_ne_bytes(*bytes));
    if kind == Some(ERROR) {
        let code = answer
            .get(16..20)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        return Err(Error::from_raw_os_error(-code));
    }
    attribute(answer.get(HEADERS..).unwrap_or_default(), wanted).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// The value of an attribute.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<Vec<u8>> {
    loop {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (kind, rest) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        if u16::from_ne_bytes(*kind) == wanted {
            return rest.get(..length.checked_sub(4)?).map(<[u8]>::to_vec);
        }
        bytes = bytes.get(length.next_multiple_of(4).max(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_cut_ones_are_not() {
        let bytes = [[5, 0, 9, 0], [7, 0, 0, 0], [6, 0, 3, 0], [1, 2, 0, 0]].concat();
        assert_eq!(attribute(&bytes, 9), Some(vec![7]));
        assert_eq!(attribute(&bytes, 3), Some(vec![1, 2]));
        assert_eq!(attribute(&bytes, 4), None);
        assert_eq!(attribute(&bytes[..13], 3), None);
        assert_eq!(attribute(&[0, 0, 0, 0, 0, 0, 3, 0], 3), None);
    }

    #[test]
    fn the_loopback_device_takes_none() {
        // An older kernel has no such family.
        if let Ok(takes) = takes_redirected(1) {
            assert!(!takes);
        }
    }
}
