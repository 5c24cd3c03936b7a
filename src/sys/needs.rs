//! What a part of the program still needs of the machine once it is open.

use std::iter::Sum;
use std::path::PathBuf;

use crate::sys::privileges::Capability;

/// What a part still needs once it is open; the sandbox is built from the sum of all parts.
///
/// By default that is nothing: descriptors that are open stay usable.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Needs {
    /// Capabilities to keep.
    pub capabilities: Vec<Capability>,
    /// Files and directories to read, beside those that every part may read.
    pub readable: Vec<PathBuf>,
    /// Directories to create files in, and to append to their files.
    pub writable: Vec<PathBuf>,
    /// Directories to create, replace and remove files in.
    pub replaceable: Vec<PathBuf>,
}

impl Sum for Needs {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |mut sum, part| {
            sum.capabilities.extend(part.capabilities);
            sum.readable.extend(part.readable);
            sum.writable.extend(part.writable);
            sum.replaceable.extend(part.replaceable);
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_has_what_each_part_needs() {
        let one = Needs { capabilities: vec![Capability::CAP_NET_RAW], ..Needs::default() };
        let two = Needs { readable: vec!["/a".into()], writable: vec!["/b".into()], ..one.clone() };
        let three = Needs { replaceable: vec!["/c".into()], ..Needs::default() };
        let sum: Needs = [one, Needs::default(), two, three].into_iter().sum();
        assert_eq!(sum.capabilities, [Capability::CAP_NET_RAW; 2]);
        let paths = [sum.readable, sum.writable, sum.replaceable].concat();
        assert_eq!(paths, ["/a", "/b", "/c"].map(PathBuf::from));
    }
}
