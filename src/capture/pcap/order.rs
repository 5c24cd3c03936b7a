//! Numbers in either byte order: files are in that of the machine that wrote them.

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// The `N` 32-bit numbers that `bytes` begins with.
    #[inline]
    pub(super) fn words<const N: usize>(self, bytes: &[u8]) -> Option<[u32; N]> {
        let bytes: &[[u8; 4]; N] = bytes.as_chunks().0.first_chunk()?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes) {
            *word = match self {
                Self::Little => u32::from_le_bytes(*bytes),
                Self::Big => u32::from_be_bytes(*bytes),
            };
        }
        Some(words)
    }

    /// The 32-bit number at `offset`.
    #[inline]
    pub(super) fn u32(self, bytes: &[u8], offset: usize) -> Option<u32> {
        self.words(bytes.get(offset..)?).map(|[word]| word)
    }

    /// The 16-bit number at `offset`.
    #[inline]
    pub(super) fn u16(self, bytes: &[u8], offset: usize) -> Option<u16> {
        let bytes = *bytes.get(offset..)?.first_chunk()?;
        Some(if self == Self::Big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// The signed 64-bit number at `offset`.
    pub(super) fn i64(self, bytes: &[u8], offset: usize) -> Option<i64> {
        let bytes = *bytes.get(offset..)?.first_chunk()?;
        Some(if self == Self::Big { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) })
    }
}
