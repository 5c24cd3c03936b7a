//! One input of the fuzz target `decode`, and what must hold of any.

use synwatch_core::wire::{LinkType, OptionLayout, Segment, Skip, decode};

/// An input is, in network byte order: the link type's number (2 octets), how many octets the
/// capture cut off the frame (2 octets), the frame.
///
/// # Panics
///
/// Where the decoder breaks a promise.
pub fn check(input: &[u8]) {
    let Some((&[a, b, c, d], frame)) = input.split_first_chunk::<4>() else { return };
    let link = LinkType::from_dlt(u32::from(u16::from_be_bytes([a, b])));
    let original_len = frame.len() + usize::from(u16::from_be_bytes([c, d]));
    let original_len = u32::try_from(original_len).unwrap_or(u32::MAX);

    let whole = decode(link, frame, original_len);
    // Of a capture that holds less the decoder may know less, but nothing else.
    for captured in [frame.len() / 2, frame.len() * 7 / 8, frame.len().saturating_sub(1)] {
        let cut = decode(link, &frame[..captured], original_len);
        assert!(
            cut == Err(Skip::Truncated) || without_options(cut) == without_options(whole),
            "{captured} of {} octets: {cut:?} instead of {whole:?}",
            frame.len()
        );
    }
}

/// A cut capture may hold fewer options.
fn without_options(outcome: Result<Segment, Skip>) -> Result<Segment, Skip> {
    outcome.map(|segment| Segment { mss: None, options: OptionLayout::default(), ..segment })
}
