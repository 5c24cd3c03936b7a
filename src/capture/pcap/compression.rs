//! Compressed files, by the octets that they begin with.

use std::error::Error;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use flate2::read::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder as Lz4Decoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Octets that tell a compression.
pub(super) const MAGIC: usize = 6;

/// Memory that a file may ask for to be decompressed, in KiB: twice what `xz -9` needs. That of
/// zstd is bounded by the library, at what `zstd --long` needs.
const XZ_MEMORY: u32 = 128 << 10;

/// A compression.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The .xz file format, 1.2.
    Xz,
    /// The LZ4 frame format, 1.6.
    Lz4,
    /// One that is not read here, by its name.
    Other(&'static str),
}

impl Compression {
    pub(super) fn detect(magic: &[u8]) -> Option<Self> {
        Some(match magic {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // The second is a frame to be skipped, such as pzstd begins with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Self::Xz,
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Lz4,
            [0x02, 0x21, 0x4c, 0x18, ..] => Self::Other("legacy lz4"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Other("bzip2"),
            [0x1f, 0x9d, ..] => Self::Other("compress"),
            [b'L', b'Z', b'I', b'P', ..] => Self::Other("lzip"),
            [0x89, b'L', b'Z', b'O', ..] => Self::Other("lzop"),
            [0x5d, 0, 0, _, _, _] => Self::Other("lzma"),
            [b'P', b'K', 3, 4, ..] => Self::Other("zip"),
            [b'7', b'z', 0xbc, 0xaf, ..] => Self::Other("7-Zip"),
            _ => return None,
        })
    }

    /// What `reader` gives, decompressed; the name of the compression where it is not read here.
    pub(super) fn open(
        self,
        reader: impl Read + Send + 'static,
    ) -> Result<Box<dyn Read + Send>, &'static str> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(reader)),
            Self::Zstd => Box::new(Zstd::new(reader)),
            Self::Xz => Box::new(XzReader::new_mem_limit(BufReader::new(reader), true, XZ_MEMORY)),
            Self::Lz4 => Box::new(Lz4(Lz4Decoder::new(BufReader::new(reader)))),
            Self::Other(name) => return Err(name),
        })
    }
}

/// A file of lz4 frames, one after another: the library ends with each.
struct Lz4<R: Read>(Lz4Decoder<BufReader<R>>);

impl<R: Read> Read for Lz4<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let octets = self.0.read(buffer)?;
            if octets > 0 || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(octets);
            }
        }
    }
}

/// A file of zstd frames, one after another.
struct Zstd<R> {
    source: BufReader<R>,
    decoder: FrameDecoder,
    /// Whether the decoder is within a frame.
    within: bool,
}

impl<R: Read> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source: BufReader::new(source), decoder: FrameDecoder::new(), within: false }
    }

    /// Begins the next frame; false where there is none.
    fn begin(&mut self) -> io::Result<bool> {
        use FrameDecoderError::{ReadFrameHeaderError as Header, WindowSizeTooBig};
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(Header(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let mut frame = self.source.by_ref().take(length.into());
                    io::copy(&mut frame, &mut io::sink())?;
                }
                Err(error @ WindowSizeTooBig { .. }) => {
                    return Err(io::Error::new(ErrorKind::OutOfMemory, error));
                }
                Err(error) => return Err(damage(error)),
            }
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.within && self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.within && !self.decoder.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, strategy).map_err(damage)?;
            } else {
                self.within = self.begin()?;
                if !self.within {
                    return Ok(0);
                }
            }
        }
    }
}

/// The reader's own error, where it was that; else the data is cut or wrong.
fn damage(error: FrameDecoderError) -> io::Error {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let kind = error.kind();
            return match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(kind, error.to_string()),
            };
        }
        cause = error.source();
    }
    io::Error::new(ErrorKind::InvalidData, error)
}
