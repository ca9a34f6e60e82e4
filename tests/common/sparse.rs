//! Sparse files taken apart and put together again, to see what a reader says of those that are wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aurora_quant::gguf::{self, Metadata};

/// A GGUF file in memory: keys, and name -> shape (outermost first), type, bytes; in the order of the file.
#[derive(Clone)]
pub struct Gguf {
    /// Keys.
    pub metadata: Metadata,
    /// Names in order.
    pub order: Vec<String>,
    /// Tensors.
    pub tensors: BTreeMap<String, (Vec<usize>, u32, Vec<u8>)>,
}

impl Gguf {
    /// Reads one whose types have blocks of one, or 32 and 18 or 34 bytes.
    pub fn load(path: &Path) -> Gguf {
        let bytes = fs::read(path).unwrap();
        let header = gguf::read_header(path, &bytes).unwrap();
        let (mut order, mut tensors) = (Vec::new(), BTreeMap::new());
        for t in &header.tensors {
            let shape: Vec<usize> = t.dims.iter().rev().map(|d| *d as usize).collect();
            let spec = aurora_quantizers::spec::by_ggml_id(t.type_id).unwrap();
            let size = shape.iter().product::<usize>() / spec.block * spec.bytes;
            let start = (header.data_start + t.offset) as usize;
            order.push(t.name.clone());
            tensors.insert(t.name.clone(), (shape, t.type_id, bytes[start..start + size].to_vec()));
        }
        Gguf { metadata: header.metadata, order, tensors }
    }

    /// Writes it.
    pub fn save(&self, path: &Path) {
        let names = self.order.iter().filter(|name| self.tensors.contains_key(*name));
        let (mut table, mut data) = (Vec::new(), Vec::new());
        for name in names {
            let (shape, id, bytes) = &self.tensors[name];
            table.push((name.as_str(), shape.as_slice(), *id, data.len() as u64));
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        let mut out = Vec::new();
        gguf::write_header(&self.metadata, &table, &mut out).unwrap();
        out.extend(data);
        fs::write(path, out).unwrap();
    }

    /// The bytes of a tensor, to be changed.
    pub fn bytes(&mut self, name: &str) -> &mut Vec<u8> {
        &mut self.tensors.get_mut(name).unwrap_or_else(|| panic!("no {name}")).2
    }
}
