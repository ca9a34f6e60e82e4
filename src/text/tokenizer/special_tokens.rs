//! What is done about special tokens in text and in what is decoded.

/// What is done about special tokens when text is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    /// Put the marks of begin and end around the text, as far as the model wants them.
    pub add: bool,
    /// Take the spelling of a control token (`<|im_end|>`) for that token; otherwise it is text like any other.
    pub parse: bool,
}

impl Special {
    /// A text to be continued or scored: begin mark as the model wants it, spellings of control tokens are text.
    pub const TEXT: Special = Special { add: true, parse: false };
    /// A rendered chat: the template has written every mark.
    pub const RENDERED: Special = Special { add: false, parse: true };
}

/// Whether decoding spells control tokens out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Leave them out.
    Hide,
    /// Write them as the vocabulary spells them.
    Show,
}
