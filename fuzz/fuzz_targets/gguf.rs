//! Whatever [`parse`] accepts has tensors that lie inside the file, have the size of their shape and type and do not
//! overlap; and its header, written, read and written again, gives the same bytes.

#![no_main]

use std::path::Path;

use aurora_quant::checkpoint::TensorInfo;
use aurora_quant::checkpoint::gguf::parse;
use aurora_quant::gguf::{TensorEntry, read_header, write_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((metadata, mut tensors)) = parse(Path::new("fuzz"), bytes) else { return };
    let id = |t: &TensorInfo| t.spec.ggml_id.expect("a type of GGUF");
    let rows: Vec<TensorEntry> = tensors.iter().map(|t| (&*t.name, &*t.shape, id(t), 0)).collect();
    // A legal alignment of gigabytes would only test the padding.
    if metadata.alignment().is_ok_and(|a| a <= 4096) {
        let (mut once, mut twice) = (Vec::new(), Vec::new());
        write_header(&metadata, &rows, &mut once).expect("what was read can be written");
        let read = read_header(Path::new("fuzz"), &once).expect("what was written can be read");
        write_header(&read.metadata, &rows, &mut twice).expect("what was read can be written");
        assert_eq!(once, twice);
        assert_eq!(read.data_start, once.len() as u64);
    }
    tensors.sort_by_key(|t| t.range.start);
    for t in &tensors {
        assert!(t.range.end <= bytes.len());
        assert_eq!(t.expected_bytes(), Some(t.range.len()), "{t:?}");
    }
    assert!(tensors.windows(2).all(|w| w[0].range.end <= w[1].range.start));
});
