//! A packet socket and the filter that it has: what [`ring`](super::ring) and [`pnet`](super::pnet)
//! are made of.

use std::io;
use std::ops::Deref;
use std::time::Duration;

use crate::capture::filter::Filter;
use crate::capture::{Error, Selection};
use crate::sys::packet::{self, PacketSocket};

/// A packet socket that knows what it passes.
pub(super) struct FilteredSocket {
    socket: PacketSocket,
    filter: Filter,
}

impl FilteredSocket {
    /// Opens a socket in the network namespace of the calling thread, which hears nothing until it
    /// is bound.
    pub(super) fn open(filter: &Filter) -> Result<Self, Error> {
        let socket =
            PacketSocket::open(filter.program()).map_err(|error| match error.source.kind() {
                io::ErrorKind::PermissionDenied => Error::Permission,
                _ => error.into(),
            })?;
        Ok(Self { socket, filter: filter.clone() })
    }

    /// Replaces the filter.
    fn attach(&mut self, filter: &Filter) -> Result<(), Error> {
        self.socket.attach(filter.program())?;
        self.filter = filter.clone();
        Ok(())
    }
}

impl Deref for FilteredSocket {
    type Target = PacketSocket;

    fn deref(&self) -> &PacketSocket {
        &self.socket
    }
}

/// As [`packet::wait`].
pub(super) fn wait<'a>(
    sockets: impl Iterator<Item = &'a FilteredSocket> + Clone,
    timeout: Duration,
) -> Result<Vec<bool>, Error> {
    Ok(packet::wait(sockets.map(|socket| &socket.socket), timeout)?)
}

/// Has all `sockets` pass another selection, those where it is another. One that fails keeps the
/// one it had, and is tried again at the next call.
pub(super) fn select<'a>(
    filter: &mut Filter,
    selection: &Selection,
    sockets: impl Iterator<Item = &'a mut FilteredSocket>,
) -> Result<(), Error> {
    filter.selection.clone_from(selection);
    update(filter, sockets)
}

/// Has all `sockets` judge frames by `filter`, those that do not yet.
pub(super) fn update<'a>(
    filter: &Filter,
    sockets: impl Iterator<Item = &'a mut FilteredSocket>,
) -> Result<(), Error> {
    sockets.filter(|socket| socket.filter != *filter).try_for_each(|socket| socket.attach(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_takes_no_other_filter_keeps_none_of_the_rest_from_its_own() {
        let mut filter = Filter::default();
        let open = |filter: &Filter| FilteredSocket::open(filter).ok();
        let (Some(mut free), Some(mut locked)) = (open(&filter), open(&filter)) else {
            eprintln!("skipped: needs CAP_NET_RAW");
            return;
        };
        locked.lock_filter().unwrap();
        let before = filter.selection.clone();
        let data = Selection { data: true, flows: None };

        let mut ask = |selection: &Selection, free: &mut FilteredSocket| {
            select(&mut filter, selection, [free, &mut locked].into_iter())
        };
        assert!(ask(&data, &mut free).is_err());
        assert_eq!(free.filter.selection, data);
        assert!(ask(&data, &mut free).is_err(), "it is tried again");
        // Back to what the locked one still has: the other must be told.
        ask(&before, &mut free).unwrap();
        assert_eq!(free.filter.selection, before);
        assert_eq!(locked.filter.selection, before);
    }
}
