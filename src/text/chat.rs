//! Chat templates.

/// A message.
#[derive(Debug)]
pub struct Message;
/// A template.
#[derive(Debug)]
pub struct ChatTemplate;
