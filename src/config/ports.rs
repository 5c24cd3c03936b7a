//! `capture.ports`: a list of TCP ports that fits in a packet filter.

use serde::{Deserialize, Serialize};

use super::value::{Port, ValueError};

/// TCP ports, at most [`Ports::MAX`].
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Vec<Port>", into = "Vec<Port>")]
pub struct Ports(Vec<Port>);

impl Ports {
    /// So many there can be: the kernel's filter compares both ends of a segment with each.
    pub const MAX: usize = 64;

    /// Their numbers.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().map(|port| u16::try_from(port.get()).unwrap_or(u16::MAX))
    }
}

impl TryFrom<Vec<Port>> for Ports {
    type Error = ValueError;

    fn try_from(ports: Vec<Port>) -> Result<Self, ValueError> {
        if ports.len() > Self::MAX { Err(ValueError::Ports(ports.len())) } else { Ok(Self(ports)) }
    }
}

impl From<Ports> for Vec<Port> {
    fn from(ports: Ports) -> Self {
        ports.0
    }
}
