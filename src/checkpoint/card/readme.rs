//! The YAML front matter of README.md, a Hugging Face model card.
//!
//! Only a tree of texts is built: every scalar is text to us. Aliases are refused, since a few lines of them stand
//! for gigabytes. What is wrong with a card is a remark, never an error: the model is none the worse for it.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// A node of the tree. Null is absent.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Longer front matter is not read.
const LIMIT: usize = 1 << 20;

impl Node {
    /// The value of a key that is not null.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(entries) => entries.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
        .filter(|v| **v != Node::Null)
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match self {
            Node::Text(t) => Some(t),
            _ => None,
        }
    }

    /// The items of a list, or the one item that stands where a list may stand.
    pub fn items(&self) -> &[Node] {
        match self {
            Node::List(items) => items,
            Node::Null => &[],
            one => std::slice::from_ref(one),
        }
    }
}

/// The front matter of a card; `None` if it has none.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(card: &str) -> Result<Option<Node>, String> {
    let mut lines = card.lines();
    if lines.next() != Some("---") {
        return Ok(None);
    }
    let mut yaml = String::new();
    for line in lines.take_while(|l| *l != "---") {
        // Tabs are not allowed in YAML, and yet in use.
        yaml.push_str(&line.replace('\t', "  "));
        yaml.push('\n');
        if yaml.len() > LIMIT {
            return Err(format!("the front matter is longer than {LIMIT} bytes"));
        }
    }
    match tree(&yaml)? {
        map @ Node::Map(_) => Ok(Some(map)),
        Node::Null => Ok(None),
        _ => Err("the front matter is not a list of keys and values".into()),
    }
}

/// Cards are flat; a tree is dropped by recursion.
const DEEPEST: usize = 32;
/// Entries of one list that are kept.
const MOST: usize = 256;

/// An unfinished list or map, with the key that waits for its value.
enum Open {
    List(Vec<Node>),
    Map(Vec<(String, Node)>, Option<String>),
}

fn tree(yaml: &str) -> Result<Node, String> {
    let mut stack: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(yaml) {
        let (event, _) = event.map_err(|e| format!("the front matter is not YAML: {e}"))?;
        let node = match event {
            Event::Alias(_) => return Err("the front matter has aliases (*name), which are not read".into()),
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                match (plain, text.as_ref()) {
                    (true, "" | "~" | "null" | "Null" | "NULL") => Node::Null,
                    (_, text) => Node::Text(text.to_owned()),
                }
            }
            Event::SequenceStart(..) | Event::MappingStart(..) if stack.len() >= DEEPEST => {
                return Err(format!("the front matter nests deeper than {DEEPEST}"));
            }
            Event::SequenceStart(..) => {
                stack.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                stack.push(Open::Map(Vec::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                Some(Open::List(items)) => Node::List(items),
                Some(Open::Map(entries, _)) => Node::Map(entries),
                None => continue,
            },
            Event::DocumentEnd => return Ok(Node::Null),
            _ => continue,
        };
        match stack.last_mut() {
            None => return Ok(node),
            // Nobody reads the rest; each entry costs a key or more.
            Some(Open::List(items)) if items.len() >= MOST => {}
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map(entries, key)) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(node.text().unwrap_or_default().to_owned()),
            },
        }
    }
    Ok(Node::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card() {
        let card = "---\nlicense: mit\ntags:\n- a\n- no\nversion: 1.0\nempty:\n\"q\": \"null\"\n---\n# Title\n";
        let tree = parse(card).unwrap().unwrap();
        assert_eq!(tree.get("license").and_then(Node::text), Some("mit"));
        assert_eq!(tree.get("tags").unwrap().items(), [Node::Text("a".into()), Node::Text("no".into())]);
        assert_eq!(tree.get("version").and_then(Node::text), Some("1.0"));
        assert_eq!(tree.get("empty"), None);
        assert_eq!(tree.get("q").and_then(Node::text), Some("null"));
    }

    #[test]
    fn bad_cards_are_remarks() {
        assert_eq!(parse("# no front matter"), Ok(None));
        assert_eq!(parse(""), Ok(None));
        assert!(parse("---\n- a\n---\n").is_err());
        assert!(parse("---\na: [1, 2\nb: }\n---\n").is_err());
        assert!(parse("---\na: &x [1]\nb: *x\n---\n").unwrap_err().contains("aliases"));
        for deep in ["[".repeat(100_000), format!("\n  {}x", "- ".repeat(250_000))] {
            assert!(parse(&format!("---\na: {deep}\n---\n")).is_err());
        }
        let long = format!("---\ntags:\n{}---\n", "- x\n".repeat(10_000));
        assert_eq!(parse(&long).unwrap().unwrap().get("tags").unwrap().items().len(), MOST);
    }
}
