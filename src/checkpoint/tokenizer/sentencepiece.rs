//! A reader for the few fields of SentencePiece's `ModelProto` (tokenizer.model) that a GGUF needs.
//!
//! Protocol buffers' wire format, read by hand: five kinds of fields, every length checked against what is left.
//! Fields that are not ours are skipped. Numbers of fields: sentencepiece_model.proto.

use crate::error::Fault;

/// One piece; `kind` as in the file: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: u64,
}

/// What a tokenizer.model says.
#[derive(Debug, PartialEq)]
pub(super) struct SentencePiece {
    pub pieces: Vec<Piece>,
    /// 1 unigram, 2 BPE, 3 word, 4 char.
    pub model_type: u64,
    pub add_dummy_prefix: bool,
    /// Name of what is done to a text first.
    pub normalizer: String,
    /// Whether that changes characters.
    pub charsmap: bool,
}

/// A field's number and content. Fixed64 and groups hold nothing of ours and are skipped.
enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Other,
}

struct Reader<'a> {
    bytes: &'a [u8],
    length: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, length: bytes.len() }
    }

    fn at(&self, what: &str) -> String {
        format!("{what} at byte {} of a message of {} bytes", self.length - self.bytes.len(), self.length)
    }

    fn error(&self, what: &str) -> Fault {
        Fault::damaged(self.at(what))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], Fault> {
        let split = usize::try_from(n).ok().and_then(|n| self.bytes.split_at_checked(n));
        let (head, tail) =
            split.ok_or_else(|| Fault::truncated(self.at(&format!("a field of {n} bytes reaches past the end"))))?;
        self.bytes = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error("a number longer than ten bytes"))
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Fault> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let n = self.varint()?;
                Field::Bytes(self.take(n)?)
            }
            5 => Field::Fixed32(self.take(4)?.try_into().map_err(|_| self.error("four bytes expected"))?),
            kind => return Err(self.error(&format!("unknown wire type {kind}"))),
        };
        match tag >> 3 {
            0 => Err(self.error("field number 0")),
            number => Ok(Some((number, field))),
        }
    }
}

impl SentencePiece {
    /// Reads a whole tokenizer.model.
    ///
    /// # Errors
    /// What is wrong, and where, if it is not a SentencePiece model.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        // The defaults of the .proto file.
        let mut model = SentencePiece {
            pieces: Vec::new(),
            model_type: 1,
            add_dummy_prefix: true,
            normalizer: String::new(),
            charsmap: false,
        };
        let mut reader = Reader::new(bytes);
        while let Some((number, field)) = reader.next()? {
            match (number, field) {
                (1, Field::Bytes(b)) => model.pieces.push(piece(b, model.pieces.len())?),
                (2, Field::Bytes(b)) => each_varint(b, 3, |v| model.model_type = v)?,
                (3, Field::Bytes(b)) => {
                    each_varint(b, 3, |v| model.add_dummy_prefix = v != 0)?;
                    normalizer(b, &mut model)?;
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err("no pieces in it".into());
        }
        Ok(model)
    }
}

fn normalizer(bytes: &[u8], model: &mut SentencePiece) -> Result<(), Fault> {
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(name)) => model.normalizer = String::from_utf8_lossy(name).into_owned(),
            (2, Field::Bytes(map)) => model.charsmap = !map.is_empty(),
            _ => {}
        }
    }
    Ok(())
}

fn each_varint(bytes: &[u8], number: u64, mut set: impl FnMut(u64)) -> Result<(), Fault> {
    let mut reader = Reader::new(bytes);
    while let Some((n, field)) = reader.next()? {
        match field {
            Field::Varint(v) if n == number => set(v),
            _ => {}
        }
    }
    Ok(())
}

fn piece(bytes: &[u8], index: usize) -> Result<Piece, Fault> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: 1 };
    let mut reader = Reader::new(bytes);
    while let Some((number, field)) = reader.next()? {
        match (number, field) {
            (1, Field::Bytes(b)) => {
                let text = std::str::from_utf8(b)
                    .map_err(|e| Fault::damaged(format!("piece {index} is not UTF-8")).because(e))?;
                piece.text = text.to_owned();
            }
            (2, Field::Fixed32(b)) => piece.score = f32::from_le_bytes(b),
            (3, Field::Varint(v)) => piece.kind = v,
            _ => {}
        }
    }
    match piece.score.is_finite() {
        true => Ok(piece),
        false => Err(format!("piece {index} ({:?}) has the score {}", piece.text, piece.score).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, body.len() as u8];
        out.extend_from_slice(body);
        out
    }

    fn sample() -> Vec<u8> {
        let mut piece = message(1, "▁a".as_bytes());
        piece.push(2 << 3 | 5);
        piece.extend_from_slice(&(-3.5f32).to_le_bytes());
        piece.extend_from_slice(&[3 << 3, 4]);
        let mut all = message(1, &piece);
        all.extend(message(2, &[3 << 3, 2]));
        all.extend(message(3, &[3 << 3, 0]));
        all
    }

    #[test]
    fn reads_the_fields_it_needs() {
        let model = SentencePiece::parse(&sample()).unwrap();
        assert_eq!(model.pieces, [Piece { text: "▁a".into(), score: -3.5, kind: 4 }]);
        assert_eq!((model.model_type, model.add_dummy_prefix), (2, false));
    }

    fn refusal(bytes: &[u8]) -> String {
        SentencePiece::parse(bytes).unwrap_err().of("m".as_ref()).to_string()
    }

    #[test]
    fn hostile_bytes_are_errors() {
        assert!(SentencePiece::parse(b"").is_err());
        let huge = [10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert!(refusal(&huge).contains("past the end"));
        assert!(refusal(&[0xff; 32]).contains("ten bytes"));
        let good = sample();
        for cut in 0..good.len() {
            let _ = SentencePiece::parse(&good[..cut]);
            let mut flipped = good.clone();
            flipped[cut] ^= 0xff;
            let _ = SentencePiece::parse(&flipped);
        }
    }
}
