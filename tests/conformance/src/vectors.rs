//! Vectors: dispatches as data, with the bits that they have to leave behind. One file holds them all, for runners in any language.
//!
//! A file is the length of a JSON text (u64, little-endian), that text ([`Vectors`] as serde writes it), and bytes that it refers to
//! by where they start. Answers ([`Answers`]) are written the same way: their bytes are those of the written buffers of all vectors, one
//! behind the other in the order of the list, and zeros for what failed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Why something could not be made, read or run.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// All vectors, and the WGSL that they run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vectors {
    /// The crate and its version.
    pub made_by: String,
    /// WGSL texts by name.
    pub modules: BTreeMap<String, String>,
    /// The vectors, in no particular order.
    pub vectors: Vec<Vector>,
    /// Contents of buffers.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// Dispatches over buffers of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vector {
    /// A column of the matrix.
    pub group: String,
    /// Tells it from the others of its group.
    pub name: String,
    /// What dispatches bind.
    pub buffers: Vec<Buffer>,
    /// One behind the other, in one compute pass.
    pub dispatches: Vec<Dispatch>,
}

/// A buffer of a vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Its size in bytes, a multiple of 4.
    pub size: usize,
    /// Where its contents before the dispatches start.
    pub initial: usize,
    /// Where its contents after them start, for a buffer that is written. All of it counts: what no dispatch may write, too.
    pub expected: Option<usize>,
    /// What it holds.
    pub values: Values,
    /// How far a value may be from the expected one where rounding is not that of the crate: see [`crate::verdict`].
    pub within: f64,
}

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Values {
    /// Whole numbers: uniforms, frequencies, positions.
    U32,
    F32,
    F16,
    Bf16,
}

/// One dispatch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dispatch {
    /// A name in [`Vectors::modules`].
    pub module: String,
    pub entry_point: String,
    /// Values of override constants by name; booleans are 0 and 1.
    pub constants: BTreeMap<String, f64>,
    pub workgroups: [u32; 3],
    /// Bindings of group 0.
    pub bindings: Vec<Binding>,
}

/// One binding of group 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    pub binding: u32,
    pub access: Access,
    /// Index in [`Vector::buffers`].
    pub buffer: usize,
    /// Bytes of the buffer that are bound; multiples of 256 and of 4.
    pub offset: usize,
    pub size: usize,
}

/// How a binding is used; the names are those of WebGPU's `GPUBufferBindingType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    Uniform,
    ReadOnlyStorage,
    Storage,
}

/// What a runner made of the vectors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Answers {
    /// Device, driver, compiler: whatever tells what ran.
    pub about: String,
    /// Vectors (by group and name, with a slash between) that did not run, and why.
    pub failures: BTreeMap<String, String>,
    /// How long making each pipeline took, in milliseconds, where it was measured.
    #[serde(default)]
    pub pipeline_ms: Vec<f64>,
    /// Contents of all written buffers.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

impl Vector {
    /// Group and name.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// The buffers that are written.
    pub fn written(&self) -> impl Iterator<Item = (usize, &Buffer)> {
        let buffers = self.buffers.iter().enumerate();
        buffers.filter(|(_, buffer)| buffer.expected.is_some())
    }

    /// Bytes of the answer.
    #[must_use]
    pub fn answer_size(&self) -> usize {
        self.written().map(|(_, buffer)| buffer.size).sum()
    }
}

impl Vectors {
    /// Some bytes of the file.
    ///
    /// # Errors
    /// Where they are not in it.
    pub fn slice(&self, start: usize, size: usize) -> Result<&[u8], Failure> {
        let end = start.checked_add(size);
        end.and_then(|end| self.bytes.get(start..end))
            .ok_or_else(|| format!("bytes {start} + {size} are not in the file").into())
    }

    /// The file.
    ///
    /// # Errors
    /// Where serde reports one.
    pub fn to_file(&self) -> Result<Vec<u8>, Failure> {
        to_file(self, &self.bytes)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Where it is no file of vectors.
    pub fn from_file(file: &[u8]) -> Result<Self, Failure> {
        let (head, bytes): (Self, _) = from_file(file)?;
        Ok(Self {
            bytes: bytes.to_vec(),
            ..head
        })
    }
}

impl Answers {
    /// The file.
    ///
    /// # Errors
    /// Where serde reports one.
    pub fn to_file(&self) -> Result<Vec<u8>, Failure> {
        to_file(self, &self.bytes)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Where it is no file of answers.
    pub fn from_file(file: &[u8]) -> Result<Self, Failure> {
        let (head, bytes): (Self, _) = from_file(file)?;
        Ok(Self {
            bytes: bytes.to_vec(),
            ..head
        })
    }
}

fn to_file(head: &impl Serialize, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let head = serde_json::to_vec(head)?;
    let length = (head.len() as u64).to_le_bytes();
    Ok([&length[..], &head, bytes].concat())
}

fn from_file<T: DeserializeOwned>(file: &[u8]) -> Result<(T, &[u8]), Failure> {
    let (length, rest) = file.split_first_chunk().ok_or("no length")?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let (head, bytes) = rest.split_at_checked(length).ok_or("no JSON text")?;
    Ok((serde_json::from_slice(head)?, bytes))
}
