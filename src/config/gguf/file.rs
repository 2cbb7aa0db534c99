//! The container: header, metadata and the tensors of frequency factors.
//!
//! Input is not trusted. Every length is compared with what is left of the file before anything is read or set aside for it, and what is
//! kept is kept as its bytes, so memory stays below a small multiple of the file's size. Arrays that no key of RoPE can have are skipped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::{Metadata, Value, keys};
use crate::error::{Result, RopeError};

const TENSORS: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];
/// A key with its value has at least so many bytes: a length, a name, a type, a value.
const LEAST_KEY: u64 = 8 + 1 + 4 + 1;
/// And a tensor: a length, the number of dimensions, a type, an offset.
const LEAST_TENSOR: u64 = 8 + 4 + 4 + 8;
const MOST_KEYS: u64 = 65_536;
const MOST_TENSORS: u64 = 1 << 20;
/// The format allows for so long a key.
const MOST_NAME: u64 = 65_535;
/// Longer strings are no values of RoPE.
const MOST_TEXT: u64 = 1 << 16;
/// Longer arrays are not either: llama.cpp takes 512 layers.
const MOST_ENTRIES: u64 = 4096;
/// One for each pair of the largest head.
const MOST_FACTORS: u64 = 32_768;
const SPLIT_COUNT: &str = "split.count";
const SPLIT_INDEX: &str = "split.no";

/// The metadata of a GGUF file (versions 2 and 3, little endian) and its tensors of frequency factors.
#[derive(Clone)]
pub struct File {
    values: BTreeMap<String, Stored>,
    tensors: BTreeMap<&'static str, Vec<f32>>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("keys", &self.values.len())
            .field("tensors", &self.tensors)
            .finish_non_exhaustive()
    }
}

/// A value as it is kept.
#[derive(Debug, Clone)]
enum Stored {
    Scalar(Value),
    /// An array of numbers or truth values, little endian.
    Array {
        of: Type,
        bytes: Vec<u8>,
    },
}

/// The type of a value other than an array or a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Unsigned(u8),
    Signed(u8),
    Float,
    Double,
    Bool,
}

const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Type {
    fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::Float,
            7 => Self::Bool,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::Double,
            _ => return None,
        })
    }

    fn size(self) -> u8 {
        match self {
            Self::Unsigned(size) | Self::Signed(size) => size,
            Self::Float => 4,
            Self::Double => 8,
            Self::Bool => 1,
        }
    }

    /// The value of this type in as many bytes as it has.
    fn value(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        for (to, from) in wide.iter_mut().zip(bytes) {
            *to = *from;
        }
        let unsigned = u64::from_le_bytes(wide);
        match self {
            Self::Unsigned(_) => Value::Unsigned(unsigned),
            Self::Signed(size) => {
                // The sign is moved to the top and back.
                let above = 64 - 8 * u32::from(size);
                Value::Signed((unsigned << above).cast_signed() >> above)
            }
            Self::Float => {
                let [a, b, c, d, ..] = wide;
                Value::Float(f32::from_le_bytes([a, b, c, d]).into())
            }
            Self::Double => Value::Float(f64::from_bits(unsigned)),
            Self::Bool => Value::Bool(unsigned != 0),
        }
    }
}

impl Metadata for File {
    fn value(&self, key: &str) -> Option<Value> {
        Some(match self.values.get(key)? {
            Stored::Scalar(value) => value.clone(),
            Stored::Array { of, bytes } => {
                let each = bytes.chunks_exact(of.size().into());
                Value::Array(each.map(|bytes| of.value(bytes)).collect())
            }
        })
    }

    fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        self.tensors.get(name).cloned()
    }
}

impl File {
    /// Opens a file. Of a model in several parts (`…-00001-of-00005.gguf`) this is the first one, beside which the others have to lie.
    ///
    /// # Errors
    /// [`RopeError::Config`] naming the path where a file cannot be read, and as for [`File::read`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut first = Self::of_path(path)?;
        let parts = first.parts()?;
        for index in 1..parts {
            let path = part(path, index, parts)?;
            let other = Self::of_path(&path)?;
            if other.index() != Some(index) {
                return Err(RopeError::config(
                    SPLIT_INDEX,
                    format!("must be {index} in {}", path.display()),
                    other
                        .index()
                        .map_or("none".into(), |index| index.to_string()),
                ));
            }
            for (name, values) in other.tensors {
                if first.tensors.insert(name, values).is_some() {
                    return Err(RopeError::config(
                        name,
                        "must be in one part of a model only",
                        "two",
                    ));
                }
            }
        }
        Ok(first)
    }

    /// Reads a whole file from its first byte to its last, skipping what is of no use here.
    ///
    /// # Errors
    /// [`RopeError::Config`] naming what is malformed, cut off or unreadable: no GGUF, another version, big endian, counts and lengths past
    /// the end, a key given twice, a type that does not exist, an array of arrays, factors that are no F32. And for one part of a model in
    /// several: [`File::open`] reads these.
    pub fn read(input: impl Read + Seek) -> Result<Self> {
        let file = Self::any_part(input)?;
        match file.parts()? {
            1 => Ok(file),
            parts => Err(RopeError::config(
                SPLIT_COUNT,
                "must be 1: the parts of a model are read by path, since any may hold its tensors of factors",
                parts,
            )),
        }
    }

    /// Reads a file that lies in memory, of which only the part up to its data is needed where it has no tensors of frequency factors.
    ///
    /// # Errors
    /// As for [`File::read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::read(Cursor::new(bytes))
    }

    fn of_path(path: &Path) -> Result<Self> {
        match std::fs::File::open(path) {
            Ok(file) => Self::any_part(file),
            Err(error) => Err(RopeError::config(
                path.display().to_string(),
                "must be a file that can be read",
                error,
            )),
        }
    }

    /// The number of parts of the model, of which this has to be the first.
    fn parts(&self) -> Result<u32> {
        let Some(Stored::Scalar(Value::Unsigned(parts))) = self.values.get(SPLIT_COUNT) else {
            return Ok(1);
        };
        match (u32::try_from(*parts), self.index()) {
            (Ok(parts @ 0..=1), _) => Ok(parts.max(1)),
            (Ok(parts @ ..=65_535), Some(0)) => Ok(parts),
            (_, index) => Err(RopeError::config(
                SPLIT_INDEX,
                "must be 0: a model is read from the first of its parts",
                index.map_or("none".into(), |index| index.to_string()),
            )),
        }
    }

    fn index(&self) -> Option<u32> {
        match self.values.get(SPLIT_INDEX) {
            Some(Stored::Scalar(Value::Unsigned(index))) => u32::try_from(*index).ok(),
            _ => None,
        }
    }

    fn any_part(input: impl Read + Seek) -> Result<Self> {
        let mut source = Source::new(input)?;
        if source.array::<4>("the magic")? != *b"GGUF" {
            return Err(RopeError::config(
                "GGUF",
                "must begin with GGUF",
                "other bytes",
            ));
        }
        let version = u32::from_le_bytes(source.array("the version")?);
        if version.trailing_zeros() >= 16 && version != 0 {
            return Err(RopeError::config(
                "GGUF version",
                "must be little endian",
                format!("{}, big endian", version.swap_bytes()),
            ));
        }
        if !(2..=3).contains(&version) {
            return Err(RopeError::config("GGUF version", "must be 2 or 3", version));
        }
        let tensors = source.number("the count of tensors")?;
        let keys = source.number("the count of keys")?;
        source.bounded("count of keys", keys, LEAST_KEY, MOST_KEYS)?;
        let mut values = BTreeMap::new();
        for _ in 0..keys {
            let key = source.name("key")?;
            let value = source.value(&key)?;
            match values.entry(key) {
                Entry::Vacant(place) => {
                    place.insert(value);
                }
                Entry::Occupied(place) => {
                    return Err(RopeError::config(
                        place.key().clone(),
                        "must be there once",
                        "twice",
                    ));
                }
            }
        }
        source.bounded("count of tensors", tensors, LEAST_TENSOR, MOST_TENSORS)?;
        let mut wanted: Vec<Wanted> = Vec::new();
        for _ in 0..tensors {
            if let Some(tensor) = source.tensor()? {
                if wanted.iter().any(|other| other.name == tensor.name) {
                    return Err(RopeError::config(
                        tensor.name,
                        "must be there once",
                        "twice",
                    ));
                }
                wanted.push(tensor);
            }
        }
        let start = source.at.checked_next_multiple_of(alignment(&values)?);
        let mut tensors = BTreeMap::new();
        for tensor in wanted {
            tensors.insert(tensor.name, source.factors(&tensor, start)?);
        }
        Ok(Self { values, tensors })
    }
}

/// The path of another part of a model, by llama.cpp's names: `%s-%05d-of-%05d.gguf`.
fn part(first: &Path, index: u32, parts: u32) -> Result<PathBuf> {
    let ending = format!("-00001-of-{parts:05}.gguf");
    let name = first.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_suffix(&ending)) {
        Some(stem) => {
            Ok(first.with_file_name(format!("{stem}-{:05}-of-{parts:05}.gguf", index + 1)))
        }
        None => Err(RopeError::config(
            first.display().to_string(),
            format!("must end in {ending}: it is the first of {parts} parts"),
            "another name",
        )),
    }
}

fn alignment(values: &BTreeMap<String, Stored>) -> Result<u64> {
    const KEY: &str = "general.alignment";
    match values.get(KEY) {
        None => Ok(32),
        Some(Stored::Scalar(Value::Unsigned(alignment)))
            if alignment.is_power_of_two() && *alignment <= 1 << 31 =>
        {
            Ok(*alignment)
        }
        Some(other) => Err(RopeError::config(
            KEY,
            "must be a power of two of type u32",
            match other {
                Stored::Scalar(Value::Unsigned(alignment)) => alignment.to_string(),
                _ => "another value".into(),
            },
        )),
    }
}

/// A tensor of factors, as its description says.
struct Wanted {
    name: &'static str,
    offset: u64,
    count: u64,
}

/// A file that is read, and how far.
struct Source<R> {
    input: BufReader<R>,
    at: u64,
    length: u64,
}

fn unreadable(error: &io::Error) -> RopeError {
    RopeError::config("GGUF", "must be readable", error)
}

impl<R: Read + Seek> Source<R> {
    fn new(mut input: R) -> Result<Self> {
        let length = input
            .seek(SeekFrom::End(0))
            .map_err(|error| unreadable(&error))?;
        input.rewind().map_err(|error| unreadable(&error))?;
        Ok(Self {
            input: BufReader::new(input),
            at: 0,
            length,
        })
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    /// Checks that so many bytes are left.
    fn check_left(&self, what: &str, bytes: u64) -> Result<()> {
        if bytes > self.left() {
            return Err(RopeError::config(
                "GGUF",
                format!("must have {bytes} bytes for {what} at byte {}", self.at),
                format!("{} that are left", self.left()),
            ));
        }
        Ok(())
    }

    /// Checks a count of things that take at least so many bytes each.
    fn bounded(&self, what: &'static str, count: u64, each: u64, most: u64) -> Result<()> {
        let most = most.min(self.left() / each);
        if count > most {
            return Err(RopeError::config(
                format!("GGUF {what}"),
                format!("must be at most {most}, by the size of the file"),
                count,
            ));
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.check_left(what, N as u64)?;
        let mut bytes = [0; N];
        self.input
            .read_exact(&mut bytes)
            .map_err(|error| unreadable(&error))?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn number(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn bytes(&mut self, what: &str, count: u64) -> Result<Vec<u8>> {
        self.check_left(what, count)?;
        let size = usize::try_from(count)
            .map_err(|_| RopeError::overflow("GGUF", "must fit into memory"))?;
        let mut bytes = vec![0; size];
        self.input
            .read_exact(&mut bytes)
            .map_err(|error| unreadable(&error))?;
        self.at += count;
        Ok(bytes)
    }

    fn skip(&mut self, what: &str, count: u64) -> Result<()> {
        self.check_left(what, count)?;
        let by = i64::try_from(count)
            .map_err(|_| RopeError::overflow("GGUF", "must have offsets below 2^63"))?;
        self.input
            .seek_relative(by)
            .map_err(|error| unreadable(&error))?;
        self.at += count;
        Ok(())
    }

    /// The name of a key or a tensor.
    fn name(&mut self, what: &'static str) -> Result<String> {
        let length = self.number("a length")?;
        if !(1..=MOST_NAME).contains(&length) {
            return Err(RopeError::config(
                format!("GGUF {what}"),
                format!("must have from 1 to {MOST_NAME} bytes"),
                length,
            ));
        }
        let bytes = self.bytes(what, length)?;
        String::from_utf8(bytes).map_err(|error| {
            let text = String::from_utf8_lossy(error.as_bytes());
            RopeError::config(format!("GGUF {what}"), "must be UTF-8", keys::cut(&text))
        })
    }

    fn value(&mut self, key: &str) -> Result<Stored> {
        let code = u32::from_le_bytes(self.array("a type")?);
        if code == ARRAY {
            return self.entries(key);
        }
        if code == STRING {
            let length = self.number(key)?;
            if length > MOST_TEXT {
                self.skip(key, length)?;
                return Ok(Stored::Scalar(Value::Other));
            }
            let bytes = self.bytes(key, length)?;
            // A name that is no UTF-8 is none of RoPE's values.
            let value = String::from_utf8(bytes).map_or(Value::Other, Value::String);
            return Ok(Stored::Scalar(value));
        }
        let Some(of) = Type::of(code) else {
            return Err(no_type(key, code));
        };
        let bytes = self.bytes(key, of.size().into())?;
        Ok(Stored::Scalar(of.value(&bytes)))
    }

    fn entries(&mut self, key: &str) -> Result<Stored> {
        let code = u32::from_le_bytes(self.array("a type")?);
        let count = self.number(key)?;
        if code == STRING {
            // Vocabularies. Each has a length at least.
            self.bounded("array of strings", count, 8, u64::MAX)?;
            for _ in 0..count {
                let length = self.number(key)?;
                self.skip(key, length)?;
            }
            return Ok(Stored::Scalar(Value::Other));
        }
        let Some(of) = Type::of(code) else {
            return Err(no_type(key, code));
        };
        let size = count
            .checked_mul(of.size().into())
            .ok_or_else(|| RopeError::config(key.to_owned(), "must end within the file", count))?;
        if count > MOST_ENTRIES {
            self.skip(key, size)?;
            return Ok(Stored::Scalar(Value::Other));
        }
        let bytes = self.bytes(key, size)?;
        Ok(Stored::Array { of, bytes })
    }

    /// The description of the next tensor, if it is one of factors.
    fn tensor(&mut self) -> Result<Option<Wanted>> {
        let name = self.name("name of a tensor")?;
        let dimensions = u32::from_le_bytes(self.array("a number of dimensions")?);
        if dimensions > 4 {
            return Err(RopeError::config(
                keys::cut(&name),
                "must have at most 4 dimensions",
                dimensions,
            ));
        }
        let mut count: Option<u64> = Some(1);
        for _ in 0..dimensions {
            let length = self.number("a dimension")?;
            count = count.and_then(|count| count.checked_mul(length));
        }
        let code = u32::from_le_bytes(self.array("a type")?);
        let offset = self.number("an offset")?;
        let Some(name) = TENSORS.into_iter().find(|known| *known == name) else {
            return Ok(None);
        };
        if code != 0 {
            return Err(RopeError::config(
                name,
                "must be of type F32 (0)",
                format!("type {code}"),
            ));
        }
        match count {
            Some(count @ 1..=MOST_FACTORS) => Ok(Some(Wanted {
                name,
                offset,
                count,
            })),
            other => Err(RopeError::config(
                name,
                format!("must have from 1 to {MOST_FACTORS} values"),
                other.map_or("more than 2^64".into(), |count| count.to_string()),
            )),
        }
    }

    fn factors(&mut self, tensor: &Wanted, start: Option<u64>) -> Result<Vec<f32>> {
        let at = start.and_then(|start| start.checked_add(tensor.offset));
        let size = 4 * tensor.count;
        let end = at.and_then(|at| at.checked_add(size));
        let (Some(at), Some(0..)) = (at, end.and_then(|end| self.length.checked_sub(end))) else {
            return Err(RopeError::config(
                tensor.name,
                format!("must end within the {} bytes of the file", self.length),
                format!("{size} bytes at offset {} of its data", tensor.offset),
            ));
        };
        self.input
            .seek(SeekFrom::Start(at))
            .map_err(|error| unreadable(&error))?;
        self.at = at;
        let bytes = self.bytes(tensor.name, size)?;
        let each = bytes.chunks_exact(4);
        let value = |bytes: &[u8]| match Type::Float.value(bytes) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "it has just been made of an f32"
            )]
            Value::Float(value) => value as f32,
            _ => f32::NAN,
        };
        Ok(each.map(value).collect())
    }
}

fn no_type(key: &str, code: u32) -> RopeError {
    RopeError::config(
        key.to_owned(),
        "must be a number, a truth value, a string, or an array of these",
        if code == ARRAY {
            "an array of arrays".to_owned()
        } else {
            format!("type {code}")
        },
    )
}
