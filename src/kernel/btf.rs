//! Where the kernel keeps what no interface of it tells: the layout of its structures, in the BPF
//! Type Format (`Documentation/bpf/btf.rst`).
//!
//! It has more than a hundred thousand types, of which a handful is asked for, once: one walk over
//! the bytes, of which nothing is kept.

/// `BTF_MAGIC`.
const MAGIC: u16 = 0xeb9f;
/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;
/// `BTF_KIND_FUNC`.
const FUNC: u32 = 12;

/// What can be asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item<'a> {
    /// A function. The answer is the number of its type.
    Function(&'a str),
    /// A member of a structure. The answer is its offset there, in octets.
    Member(&'a str, &'a str),
}

/// The answers for `items`, of several types with a name for the first one; `None` where one is not
/// found, or where this is no BTF in the machine's byte order.
pub(super) fn look_up<const N: usize>(btf: &[u8], items: [Item<'_>; N]) -> Option<[u32; N]> {
    let (mut types, strings) = sections(btf)?;
    let mut answers = [None; N];
    let mut number = 0;
    while answers.contains(&None) {
        number += 1;
        let found = Type::take(&mut types)?;
        for (item, answer) in items.iter().zip(&mut answers) {
            *answer = answer.or_else(|| match (found.kind(), *item) {
                (FUNC, Item::Function(name)) => is(strings, found.name, name).then_some(number),
                (STRUCT, Item::Member(name, member)) if is(strings, found.name, name) => {
                    found.offset(strings, member)
                }
                _ => None,
            });
        }
    }
    Some(answers.map(Option::unwrap_or_default))
}

/// The types and the strings.
fn sections(mut btf: &[u8]) -> Option<(&[u8], &[u8])> {
    let all = btf;
    // struct btf_header
    let [magic, body, types, types_length, strings, strings_length] = words(&mut btf)?;
    let body = all.get(body as usize..)?;
    let section = |offset, length| body.get(offset as usize..)?.get(..length as usize);
    (magic.to_ne_bytes()[..2] == MAGIC.to_ne_bytes())
        .then_some((section(types, types_length)?, section(strings, strings_length)?))
}

/// A type: `struct btf_type` and, depending on its kind, what follows it.
struct Type<'a> {
    name: u32,
    info: u32,
    details: &'a [u8],
}

impl<'a> Type<'a> {
    /// Takes the first one off `types`; not where it is of a kind that is not known, whose length
    /// cannot be told.
    fn take(types: &mut &'a [u8]) -> Option<Self> {
        // Name, info, size or type.
        let [name, info, _] = words(types)?;
        let mut found = Self { name, info, details: &[] };
        let count = (info & 0xffff) as usize;
        let length = match found.kind() {
            // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
            2 | 7..=FUNC | 16 | 18 => 0,
            // Integer, variable, declaration tag.
            1 | 14 | 17 => 4,
            // Array.
            3 => 12,
            // Enumeration, prototype of a function.
            6 | 13 => 8 * count,
            // Structure, union, section of data, enumeration of 64 bits.
            STRUCT | 5 | 15 | 19 => 12 * count,
            _ => return None,
        };
        (found.details, *types) = types.split_at_checked(length)?;
        Some(found)
    }

    const fn kind(&self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// The offset of a structure's member, in octets.
    fn offset(&self, strings: &[u8], member: &str) -> Option<u32> {
        let mut members = self.details;
        // struct btf_member: name, type, offset in bits. With bit fields, its upper octet is their
        // size.
        while let Some([name, _, bits]) = words(&mut members) {
            if is(strings, name, member) {
                let has_bit_fields = self.info >> 31 == 1;
                return Some(if has_bit_fields { bits & 0xff_ffff } else { bits } / 8);
            }
        }
        None
    }
}

/// Whether the string at `position`, which ends with a zero, is `wanted`.
fn is(strings: &[u8], position: u32, wanted: &str) -> bool {
    let string = strings.get(position as usize..);
    let rest = string.and_then(|string| string.strip_prefix(wanted.as_bytes()));
    rest.is_some_and(|rest| rest.first() == Some(&0))
}

/// Takes words off `bytes`.
fn words<const N: usize>(bytes: &mut &[u8]) -> Option<[u32; N]> {
    let mut words = [[0; 4]; N];
    let (head, rest) = bytes.split_at_checked(size_of_val(&words))?;
    words.as_flattened_mut().copy_from_slice(head);
    *bytes = rest;
    Some(words.map(u32::from_ne_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::headers::assert_agree;

    #[test]
    fn what_is_walked_over_is_of_the_kernels_sizes() {
        assert_agree(
            &["linux/btf.h"],
            &[
                ("BTF_MAGIC", MAGIC.into()),
                ("BTF_KIND_STRUCT", STRUCT.into()),
                ("BTF_KIND_FUNC", FUNC.into()),
                ("sizeof(struct btf_header)", 6 * 4),
                ("sizeof(struct btf_type)", 3 * 4),
                ("sizeof(struct btf_member)", 3 * 4),
                ("sizeof(struct btf_var_secinfo)", 12),
                ("sizeof(struct btf_array)", 12),
                ("sizeof(struct btf_enum)", 8),
                ("sizeof(struct btf_param)", 8),
                ("sizeof(struct btf_var)", 4),
            ],
        );
    }

    /// A BTF with these types, each of words, and strings.
    fn btf(types: &[&[u32]], strings: &str) -> Vec<u8> {
        let types: Vec<u8> = types.concat().into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings.as_bytes());
        bytes
    }

    const STRINGS: &str = "\0queue\0length\0flags\0walk\0walker\0";
    /// Offsets of those strings.
    const QUEUE: u32 = 1;
    const LENGTH: u32 = 7;
    const FLAGS: u32 = 14;
    const WALK: u32 = 20;
    const WALKER: u32 = 25;

    fn example(last: &[u32]) -> Vec<u8> {
        let types: [&[u32]; 5] = [
            // int
            &[0, 1 << 24, 4, 32],
            // struct queue { int flags : 3; int length; }
            &[QUEUE, 4 << 24 | 1 << 31 | 2, 8, FLAGS, 1, 3 << 24, LENGTH, 1, 32],
            // int (void)
            &[0, 13 << 24, 1],
            // int walker(void), int walk(void)
            &[WALKER, 12 << 24, 3],
            last,
        ];
        btf(&types, STRINGS)
    }

    #[test]
    fn what_is_there_is_found() {
        let bytes = example(&[WALK, 12 << 24, 3]);
        let items =
            [Item::Function("walk"), Item::Member("queue", "length"), Item::Function("walker")];
        assert_eq!(look_up(&bytes, items), Some([5, 4, 4]));
    }

    #[test]
    fn what_is_not_there_is_not() {
        let bytes = example(&[WALK, 12 << 24, 3]);
        for item in [
            Item::Function("wal"),
            Item::Function("queue"),
            Item::Member("queue", "walk"),
            Item::Member("walk", "length"),
        ] {
            assert_eq!(look_up(&bytes, [Item::Function("walk"), item]), None, "{item:?}");
        }
    }

    #[test]
    fn nothing_is_read_into_what_is_not_known_or_cut_short() {
        let walk = [Item::Function("walk")];
        assert_eq!(look_up(&example(&[0, 31 << 24, 0]), walk), None);
        let mut bytes = example(&[WALK, 12 << 24, 3]);
        assert_eq!(look_up(&bytes, walk), Some([5]));
        for length in 0..bytes.len() {
            assert_eq!(look_up(&bytes[..length], walk), None, "{length}");
        }
        bytes.swap(0, 1);
        assert_eq!(look_up(&bytes, walk), None);
    }
}
