//! An address that costs the same to hash and compare whether it is IPv4 or IPv6.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address in 128 bits; IPv4 is held as IPv4-mapped IPv6 (RFC 4291, section
/// 2.5.5.2).
// In halves that registers hold.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    high: u64,
    low: u64,
}

/// The second half of an IPv4-mapped address, without its last 32 bits.
const MAPPED: u64 = 0xffff_0000_0000;

impl Address {
    /// The address from its 128 bits.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
        let low = bits as u64;
        Self { high: (bits >> 64) as u64, low }
    }

    /// An IPv4 address from its four octets.
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self { high: 0, low: MAPPED | u32::from_be_bytes(octets) as u64 }
    }

    /// An IPv6 address from its sixteen octets.
    #[must_use]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self::from_bits(u128::from_be_bytes(octets))
    }

    /// All 128 bits.
    #[must_use]
    pub const fn to_bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// Whether this is an IPv4 address (or an IPv4-mapped one).
    #[must_use]
    pub const fn is_ipv4(self) -> bool {
        self.high == 0 && (self.low >> 32) as u32 == (MAPPED >> 32) as u32
    }

    /// The 32 bits of an IPv4 address (or an IPv4-mapped one).
    #[inline]
    #[must_use]
    pub const fn to_v4(self) -> Option<u32> {
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the address")]
        if self.is_ipv4() { Some(self.low as u32) } else { None }
    }

    /// The address with all but its first `length` bits cleared; `length` counts within the
    /// family, so 16 is a /16 of IPv4 or of IPv6.
    #[must_use]
    pub const fn prefix(self, length: u8) -> Self {
        let length = if self.is_ipv4() { length as u32 + 96 } else { length as u32 };
        match length {
            0 => Self::from_bits(0),
            128.. => self,
            _ => Self::from_bits(self.to_bits() & (u128::MAX << (128 - length))),
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.to_v4() {
            Some(bits) => Self::V4(Ipv4Addr::from_bits(bits)),
            None => Self::V6(Ipv6Addr::from_bits(address.to_bits())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_counts_within_the_family() {
        let v4 = Address::from("192.0.2.77".parse::<IpAddr>().unwrap());
        assert_eq!(v4.prefix(24).to_string(), "192.0.2.0");
        assert_eq!(v4.prefix(32), v4);
        assert_eq!(v4.prefix(0).to_string(), "0.0.0.0");
        let v6 = Address::from("2001:db8:1:2:3::4".parse::<IpAddr>().unwrap());
        assert_eq!(v6.prefix(48).to_string(), "2001:db8:1::");
        assert_eq!(v6.prefix(0).to_string(), "::");
        assert_eq!(v6.prefix(128), v6);
    }
}
