//! The part of a frame that is still to be decoded.

use std::cell::Cell;

use crate::wire::Skip;
use crate::wire::fragments::Piece;

/// How many headers inside one another are followed beyond link, IP and TCP: tags, labels,
/// extension headers and tunnels alike. Real networks need fewer than ten.
const MAX_HEADERS: u8 = 32;

/// What remains of a frame after the headers taken off so far.
///
/// Invariant: the capture never holds more than there was on the wire (`data.len() <= wire_len`).
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    data: &'a [u8],
    wire_len: usize,
    headers_left: u8,
    /// Where a fragment is noted that was found on the way.
    found: Option<&'a Cell<Option<Piece<'a>>>>,
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn new(data: &'a [u8], original_len: u32) -> Self {
        let wire_len = data.len().max(original_len as usize);
        Self { data, wire_len, headers_left: MAX_HEADERS, found: None }
    }

    /// The same where a fragment is noted in `found`.
    pub(super) fn noting(self, found: &'a Cell<Option<Piece<'a>>>) -> Self {
        Self { found: Some(found), ..self }
    }

    /// Notes a fragment, where anybody wants to know.
    pub(super) fn note(self, piece: Piece<'a>) {
        if let Some(found) = self.found {
            found.set(Some(piece));
        }
    }

    /// A joined datagram of `wire_len` octets in the place of this part of it: `data` is its head.
    pub(super) fn joined(self, data: &[u8], wire_len: usize) -> Cursor<'_> {
        Cursor { data, wire_len, headers_left: self.headers_left, found: None }
    }

    /// The octets that were captured.
    #[inline]
    pub(super) fn data(self) -> &'a [u8] {
        self.data
    }

    /// How many octets there were on the wire.
    #[inline]
    pub(super) fn wire_len(self) -> usize {
        self.wire_len
    }

    /// The reason why `needed` octets are not there; `short` is what it means when the packet
    /// itself ends before them.
    #[cold]
    pub(super) fn missing(self, needed: usize, short: Skip) -> Skip {
        if self.wire_len >= needed { Skip::Truncated } else { short }
    }

    /// Takes off a header of `N` octets; `short` as in [`Cursor::missing`].
    #[inline]
    pub(super) fn header<const N: usize>(self, short: Skip) -> Result<(&'a [u8; N], Self), Skip> {
        match self.data.split_first_chunk::<N>() {
            Some((header, data)) => {
                Ok((header, Self { data, wire_len: self.wire_len - N, ..self }))
            }
            None => Err(self.missing(N, short)),
        }
    }

    /// Drops `octets`, of which the capture may hold only a part; `short` as in
    /// [`Cursor::missing`].
    #[inline]
    pub(super) fn skip(self, octets: usize, short: Skip) -> Result<Self, Skip> {
        match self.wire_len.checked_sub(octets) {
            Some(wire_len) => {
                let data = self.data.get(octets..).unwrap_or_default();
                Ok(Self { data, wire_len, ..self })
            }
            None => Err(self.missing(octets, short)),
        }
    }

    /// The first `wire_len` octets: a length field inside a packet ends it (trailing padding is not
    /// part of it), but cannot make it longer.
    #[inline]
    pub(super) fn limit(self, wire_len: usize) -> Self {
        self.with_len(wire_len.min(self.wire_len))
    }

    /// The same as a packet of `wire_len` octets, even where the frame is said to be shorter:
    /// captures that were cut by other tools often claim the cut length as the original one.
    #[inline]
    pub(super) fn with_len(self, wire_len: usize) -> Self {
        let data = self.data.get(..wire_len).unwrap_or(self.data);
        Self { data, wire_len, ..self }
    }

    /// Counts one more nested header.
    ///
    /// # Errors
    ///
    /// [`Skip::TooDeep`] where that is one too many.
    #[inline]
    pub(super) fn nested(self) -> Result<Self, Skip> {
        match self.headers_left.checked_sub(1) {
            Some(headers_left) => Ok(Self { headers_left, ..self }),
            None => Err(Skip::TooDeep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_octets_name_their_cause() {
        let cut = Cursor::new(&[0; 4], 100);
        assert_eq!(cut.header::<8>(Skip::NotIp).err(), Some(Skip::Truncated));
        let whole = Cursor::new(&[0; 4], 4);
        assert_eq!(whole.header::<8>(Skip::NotIp).err(), Some(Skip::NotIp));
    }

    #[test]
    fn skip_goes_beyond_the_capture_but_not_beyond_the_wire() {
        let rest = Cursor::new(&[0; 4], 100).skip(10, Skip::NotIp).unwrap();
        assert_eq!((rest.data().len(), rest.wire_len()), (0, 90));
        assert!(rest.skip(91, Skip::NotIp).is_err());
    }

    #[test]
    fn limit_shortens_only() {
        let rest = Cursor::new(&[0; 10], 10);
        assert_eq!((rest.limit(6).data().len(), rest.limit(6).wire_len()), (6, 6));
        assert_eq!(rest.limit(60).wire_len(), 10);
        assert_eq!((rest.with_len(60).data().len(), rest.with_len(60).wire_len()), (10, 60));
    }

    #[test]
    fn nesting_ends() {
        let mut rest = Cursor::new(&[], 0);
        for _ in 0..MAX_HEADERS {
            rest = rest.nested().unwrap();
        }
        assert_eq!(rest.nested().err(), Some(Skip::TooDeep));
    }
}
