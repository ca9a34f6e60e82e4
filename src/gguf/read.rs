//! Reads a GGUF header from bytes that an enemy may have written.
//!
//! In comes the whole file as a slice, out come keys, values and the tensor table as the file has them. Every length
//! and count is compared with what is left of the file before anything is allocated. Whether tensors fit into the
//! file is not decided here but where types are known, in [`crate::checkpoint::gguf`].

use std::collections::HashSet;
use std::path::Path;

use super::{ALIGNMENT_KEY, MAGIC, MAX_DIMS, Metadata, Value, ValueType};
use crate::error::{Fault, printable};
use crate::{Error, Result};

/// What stands before the tensor data.
#[derive(Debug, Clone)]
pub struct Header {
    /// 2 or 3; the two differ in nothing that concerns a little-endian reader.
    pub version: u32,
    /// Keys and values in file order.
    pub metadata: Metadata,
    /// The tensor table in file order; names are unique.
    pub tensors: Vec<RawTensor>,
    /// Alignment of tensor data: a positive power of two.
    pub alignment: u64,
    /// Where tensor data starts; larger than the file if there is none.
    pub data_start: u64,
}

/// One row of the tensor table, as the file has it.
#[derive(Debug, Clone)]
pub struct RawTensor {
    /// Name.
    pub name: String,
    /// Dimensions, innermost first; at most [`MAX_DIMS`], none checked.
    pub dims: Vec<u64>,
    /// ggml's type id, not checked.
    pub type_id: u32,
    /// First byte, counted from [`Header::data_start`]; not checked.
    pub offset: u64,
}

/// The specification's limit.
const MAX_KEY: usize = 65_535;
/// ggml is built with `GGML_MAX_NAME` 64 or, by stable-diffusion.cpp, 128, terminator included.
const MAX_NAME: usize = 127;
/// llama.cpp reads no nested arrays at all and no known file has any; a few levels cost nothing.
const MAX_NESTING: u32 = 8;
/// Values are held as an enum of 24 bytes, so an array of bytes grows 24-fold when read. The largest vocabularies
/// (262k tokens with scores, types and 515k merges) need about 50 MiB.
const MAX_DECODED: usize = 256 << 20;
/// Key length, type and one byte of value.
const MIN_ENTRY: u64 = 8 + 4 + 1;
/// Name length, dimension count, type and offset.
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;

/// Reads the header of the GGUF file whose bytes are `bytes`; `path` is only named in errors.
///
/// # Errors
/// If it is no GGUF file, of a version or byte order that is not read, truncated, or breaks a rule of the format:
/// what was found and where.
pub fn read_header(path: &Path, bytes: &[u8]) -> Result<Header> {
    let mut cursor = Cursor { path, bytes, at: 0, part: "the header", decoded: 0 };
    let version = read_version(&mut cursor)?;
    let tensor_count = cursor.u64()?;
    let entry_count = cursor.u64()?;

    cursor.part = "the metadata";
    cursor.require_room("metadata count", entry_count, MIN_ENTRY)?;
    let mut metadata = Metadata::new();
    for _ in 0..entry_count {
        let key = cursor.text("metadata key", MAX_KEY)?;
        if metadata.get(key).is_some() {
            return Err(Fault::damaged("duplicate metadata key").of_key(path, printable(key)));
        }
        let value = cursor.value().map_err(|fault| fault.of_key(path, printable(key)))?;
        metadata.set(key, value);
    }
    let alignment = metadata.alignment().map_err(|what| Fault::damaged(what).of_key(path, ALIGNMENT_KEY))?;

    cursor.part = "the tensor table";
    cursor.require_room("tensor count", tensor_count, MIN_TENSOR)?;
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    for _ in 0..tensor_count {
        let name = cursor.text("tensor name", MAX_NAME)?;
        if !names.insert(name) {
            return Err(Fault::damaged("duplicate tensor name").of_tensor(path, name));
        }
        tensors.push(cursor.tensor(name)?);
    }
    // Cannot overflow for a file that exists, but nothing here relies on that.
    let data_start = (cursor.at as u64).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    Ok(Header { version, metadata, tensors, alignment, data_start })
}

fn read_version(cursor: &mut Cursor) -> Result<u32> {
    let needed = 24;
    match cursor.bytes.get(..4) {
        None if cursor.bytes.is_empty() => {
            return Err(cursor.error(Fault::truncated("the file is empty, not a GGUF file")));
        }
        Some(magic) if *magic != MAGIC => {
            let found = magic.escape_ascii();
            let what = format!("not a GGUF file: bad magic \"{found}\", needed \"GGUF\"");
            return Err(cursor.error(Fault::damaged(what)));
        }
        _ if cursor.bytes.len() < needed => {
            let found = cursor.bytes.len();
            let what = format!("too short for a GGUF header: {found} bytes, needed {needed}");
            return Err(cursor.error(Fault::truncated(what)));
        }
        _ => cursor.at = 4,
    }
    match cursor.u32()? {
        version @ (2 | 3) => Ok(version),
        swapped if swapped != 0 && swapped & 0xffff == 0 => Err(cursor.error(Fault::unsupported(format!(
            "big-endian GGUF (version {}) is not supported; convert it to little-endian first \
             (gguf-py's gguf_convert_endian does)",
            swapped.swap_bytes()
        )))),
        other => Err(cursor.error(Fault::unsupported(format!(
            "GGUF version {other} is not supported, only 2 and 3; convert the model again with a current tool"
        )))),
    }
}

/// Walks the bytes; every error names the part of the file it happened in.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    part: &'static str,
    /// Bytes that the values read so far take in memory.
    decoded: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, fault: Fault) -> Error {
        fault.of(self.path)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        match self.bytes[self.at..].first_chunk() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.ends(N)),
        }
    }

    /// The file ends before the next bytes.
    fn ends(&self, needed: usize) -> Fault {
        Fault::truncated(format!(
            "unexpected end of file in {}: needed {needed} bytes at offset {}, the file has {}",
            self.part,
            self.at,
            self.bytes.len()
        ))
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes).map_err(|fault| self.error(fault))
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes).map_err(|fault| self.error(fault))
    }

    /// Refuses a count whose smallest possible content is larger than the rest of the file.
    fn require_room(&self, what: &str, count: u64, each: u64) -> Result<()> {
        if count <= self.left() as u64 / each {
            return Ok(());
        }
        Err(self.error(Fault::truncated(format!(
            "{what} {count} is larger than the file can hold: each needs at least {each} bytes, {} are left at \
             offset {}; the file is truncated or damaged",
            self.left(),
            self.at
        ))))
    }

    /// The length of a string, known to lie within the file.
    fn length(&mut self) -> Result<usize, Fault> {
        let length = u64::from_le_bytes(self.take()?);
        if length <= self.left() as u64 {
            return Ok(length as usize);
        }
        let size = self.bytes.len() as u64;
        Err(if length > size {
            Fault::damaged(format!("string length {length} is larger than the file of {size} bytes"))
        } else {
            Fault::truncated(format!(
                "unexpected end of file in {}: string length {length} at offset {}, the file has {size} bytes",
                self.part, self.at
            ))
        })
    }

    /// A key or a tensor's name.
    fn text(&mut self, what: &str, limit: usize) -> Result<&'a str> {
        let start = self.at;
        let length = self.length().map_err(|fault| self.error(fault.about(what)))?;
        if length > limit {
            let what = format!("{what} of {length} bytes at offset {start}, at most {limit} allowed");
            return Err(self.error(Fault::damaged(what)));
        }
        let text = &self.bytes[self.at..self.at + length];
        self.at += length;
        std::str::from_utf8(text).map_err(|e| {
            let what = format!("{what} is not UTF-8 at offset {start}: \"{}\"", text.escape_ascii());
            self.error(Fault::damaged(what).because(e))
        })
    }

    /// A value with its type in front, checked in full before the library decodes it.
    fn value(&mut self) -> Result<Value, Fault> {
        let value_type = self.value_type()?;
        let start = self.at;
        self.skip(value_type, 0)?;
        let mut bytes = &self.bytes[start..self.at];
        Value::read_from(&mut bytes, value_type).map_err(|e| Fault::damaged("cannot be read").because(e))
    }

    fn value_type(&mut self) -> Result<ValueType, Fault> {
        let id = u32::from_le_bytes(self.take()?);
        ValueType::from_u32(id).map_err(|_| format!("unknown metadata value type {id}, known are 0 to 12").into())
    }

    /// Moves past a value, checking everything that the library or the machine's memory would stumble over.
    fn skip(&mut self, value_type: ValueType, depth: u32) -> Result<(), Fault> {
        match value_type {
            ValueType::Bool => match self.take::<1>()? {
                [0 | 1] => Ok(()),
                [other] => Err(format!("invalid bool value {other}, must be 0 or 1").into()),
            },
            ValueType::String => {
                let length = self.length()?;
                let start = self.at;
                self.charge(length)?;
                self.at += length;
                match std::str::from_utf8(&self.bytes[start..self.at]) {
                    Ok(_) => Ok(()),
                    Err(e) => Err(Fault::damaged(format!("string at offset {start} is not UTF-8")).because(e)),
                }
            }
            ValueType::Array if depth == MAX_NESTING => Err(Fault::unsupported(format!(
                "arrays nested more than {MAX_NESTING} deep are not supported; remove the key, or make the file again"
            ))),
            ValueType::Array => {
                let element = self.value_type()?;
                let count = u64::from_le_bytes(self.take()?);
                let smallest = match element {
                    ValueType::String => 8,
                    ValueType::Array => 12,
                    other => fixed_size(other),
                };
                if count > (self.left() / smallest) as u64 {
                    return Err(Fault::truncated(format!(
                        "array length {count} is larger than the file: elements of at least {smallest} bytes, {} \
                         bytes left in {}",
                        self.left(),
                        self.part
                    )));
                }
                self.charge((count as usize).saturating_mul(size_of::<Value>()))?;
                if !matches!(element, ValueType::String | ValueType::Array | ValueType::Bool) {
                    self.at += count as usize * smallest;
                    return Ok(());
                }
                (0..count).try_for_each(|_| self.skip(element, depth + 1))
            }
            other => {
                let size = fixed_size(other);
                if size > self.left() {
                    return Err(self.ends(size));
                }
                self.at += size;
                Ok(())
            }
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Fault> {
        self.decoded = self.decoded.saturating_add(bytes);
        if self.decoded <= MAX_DECODED {
            return Ok(());
        }
        let most = MAX_DECODED >> 20;
        Err(Fault::unsupported(format!("metadata up to here needs more than {most} MiB of memory, refused")))
    }

    /// The rest of a row of the tensor table.
    fn tensor(&mut self, name: &str) -> Result<RawTensor> {
        let count = self.u32()? as usize;
        if count > MAX_DIMS {
            let what = format!("too many dimensions ({count}), at most {MAX_DIMS} allowed");
            return Err(Fault::damaged(what).of_tensor(self.path, name));
        }
        let dims = (0..count).map(|_| self.u64()).collect::<Result<Vec<u64>>>()?;
        Ok(RawTensor { name: name.to_owned(), dims, type_id: self.u32()?, offset: self.u64()? })
    }
}

/// Bytes of a value of a type whose values all have one size.
fn fixed_size(value_type: ValueType) -> usize {
    match value_type {
        ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
        ValueType::U16 | ValueType::I16 => 2,
        ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
        ValueType::U64 | ValueType::I64 | ValueType::F64 => 8,
        ValueType::String | ValueType::Array => unreachable!("strings and arrays have no one size"),
    }
}
