//! `[[service]]`: what holds for single services.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::de::{Error as _, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::{Backlog, Network, Port, Rate};

/// Networks that one service may mute: each is compared with the source of every segment.
const MAX_MUTED: usize = 256;

/// `[[service]]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The address as reports name it; `None` for every address without an entry of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port.
    pub port: Port,
    /// The limit of the SYN queue instead of the one that the kernel says or `watch.backlog`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,
    /// Failures per second beyond the usual that are a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning_rate: Option<Rate>,
    /// Failures per second beyond the usual that are critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical_rate: Option<Rate>,
    /// What is not to alarm.
    #[serde(default, skip_serializing_if = "Mute::is_nothing")]
    pub mute: Mute,
}

impl Service {
    /// What is wrong with it beyond its single values.
    fn problem(&self) -> Option<String> {
        let (warning, critical) = (self.warning_rate?, self.critical_rate?);
        (critical < warning).then(|| {
            format!("critical_rate {} is below warning_rate {}", critical.get(), warning.get())
        })
    }
}

/// What is wrong with `services` as a whole: the number of the first wrong one, and why.
pub(super) fn problem(services: &[Service]) -> Option<(usize, String)> {
    let mut known = BTreeSet::new();
    services.iter().enumerate().find_map(|(number, service)| {
        let twice = || {
            let address = service.address.map_or("any address".to_owned(), |a| a.to_string());
            let port = service.port.get();
            format!("{address}, port {port} already has a [[service]] of its own")
        };
        let new = known.insert((service.address, service.port));
        service.problem().or_else(|| (!new).then(twice)).map(|problem| (number, problem))
    })
}

/// `mute`: false, true, or a list of networks.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Mute {
    /// Everything may alarm.
    #[default]
    Nothing,
    /// The service is worth info at most.
    Service,
    /// Attempts from these networks do not count.
    Sources(Vec<Network>),
}

impl Mute {
    fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }
}

impl Serialize for Mute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.serialize_bool(false),
            Self::Service => serializer.serialize_bool(true),
            Self::Sources(networks) => networks.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Mute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Mute;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a list of networks")
            }

            fn visit_bool<E>(self, all: bool) -> Result<Mute, E> {
                Ok(if all { Mute::Service } else { Mute::Nothing })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, networks: A) -> Result<Mute, A::Error> {
                let networks = Vec::deserialize(SeqAccessDeserializer::new(networks))?;
                if networks.len() > MAX_MUTED {
                    return Err(A::Error::custom(format!(
                        "{} networks, more than {MAX_MUTED}",
                        networks.len()
                    )));
                }
                Ok(Mute::Sources(networks))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
