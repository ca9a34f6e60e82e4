//! Conversations: what a chat template is given.

use serde_json::{Map, Value as Json};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: "system", "user" or "assistant".
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// A conversation, with whatever templates may read of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// Objects with "role" and "content", and what else a template looks for: "tool_calls", "name", parts of a content.
    messages: Vec<Map<String, Json>>,
    tools: Option<Vec<Json>>,
    documents: Option<Vec<Json>>,
    /// Variables of the template.
    variables: Map<String, Json>,
}

/// Names under which the reasoning of a message is passed, the first as templates read it.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Conversation {
    /// An object with "messages", and "tools", "documents" and "chat_template_kwargs" where there are any.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn from_json(line: &Map<String, Json>) -> Result<Self, String> {
        let list = |key: &str| match line.get(key) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Array(items)) if items.iter().all(Json::is_object) => Ok(Some(items.clone())),
            Some(_) => Err(format!("{key:?} must be a list of objects")),
        };
        let variables = match line.get("chat_template_kwargs") {
            None | Some(Json::Null) => Map::new(),
            Some(Json::Object(variables)) => variables.clone(),
            Some(_) => return Err("\"chat_template_kwargs\" must be an object".to_owned()),
        };
        let messages =
            list("messages")?.filter(|m| !m.is_empty()).ok_or("\"messages\" must have at least one message")?;
        let messages = messages.into_iter().filter_map(|m| match m {
            Json::Object(message) => Some(normal(message)),
            _ => None,
        });
        Ok(Conversation {
            messages: messages.collect(),
            tools: list("tools")?,
            documents: list("documents")?,
            variables,
        })
    }

    /// Whether there are tools to be called.
    pub(super) fn has_tools(&self) -> bool {
        self.tools.is_some()
    }

    /// The variables of a template; `tokens`: spellings of special tokens by name; `answer`: up to where the assistant
    /// begins to speak.
    pub(super) fn context(self, tokens: &[(String, String)], answer: bool) -> Map<String, Json> {
        let mut context: Map<String, Json> =
            tokens.iter().map(|(name, text)| (name.clone(), text.as_str().into())).collect();
        context.extend(self.variables);
        context.insert("messages".to_owned(), self.messages.into_iter().map(Json::Object).collect());
        context.insert("tools".to_owned(), self.tools.map_or(Json::Null, Json::Array));
        context.insert("documents".to_owned(), self.documents.map_or(Json::Null, Json::Array));
        context.insert("add_generation_prompt".to_owned(), answer.into());
        context
    }
}

/// The message as transformers hands it on: without keys that are null, and with its reasoning under the names that
/// templates read.
fn normal(message: Map<String, Json>) -> Map<String, Json> {
    let mut message: Map<String, Json> = message.into_iter().filter(|(_, value)| !value.is_null()).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|key| message.get(*key)).cloned() {
        if !message.contains_key("thinking") {
            message.shift_insert(0, "thinking".to_owned(), reasoning.clone());
        }
        message.insert("reasoning_content".to_owned(), reasoning);
    }
    message
}

impl From<&[Message]> for Conversation {
    fn from(messages: &[Message]) -> Self {
        let object = |m: &Message| {
            let entries = [("role", &m.role), ("content", &m.content)];
            entries.into_iter().map(|(key, text)| (key.to_owned(), Json::String(text.clone()))).collect()
        };
        Conversation { messages: messages.iter().map(object).collect(), ..Conversation::default() }
    }
}

impl<const N: usize> From<&[Message; N]> for Conversation {
    fn from(messages: &[Message; N]) -> Self {
        messages.as_slice().into()
    }
}

impl From<&Vec<Message>> for Conversation {
    fn from(messages: &Vec<Message>) -> Self {
        messages.as_slice().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(line: Json) -> Result<Conversation, String> {
        Conversation::from_json(line.as_object().unwrap())
    }

    #[test]
    fn messages_are_normal() {
        let conversation = parse(json!({"messages": [
            {"role": "assistant", "content": null, "reasoning": "r", "name": "n"},
            {"role": "user", "content": [{"type": "text", "text": null}]}
        ]}));
        let context = conversation.unwrap().context(&[("bos_token".into(), "<s>".into())], true);
        let wanted = json!([
            {"thinking": "r", "role": "assistant", "reasoning": "r", "name": "n", "reasoning_content": "r"},
            {"role": "user", "content": [{"type": "text", "text": null}]}
        ]);
        assert_eq!(context["messages"].to_string(), wanted.to_string());
        assert_eq!((&context["tools"], &context["bos_token"]), (&Json::Null, &json!("<s>")));
    }

    #[test]
    fn what_is_no_conversation_is_refused() {
        for (line, words) in [
            (json!({"messages": []}), "at least one"),
            (json!({"messages": "x"}), "list of objects"),
            (json!({"messages": ["x"]}), "list of objects"),
            (json!({"messages": [{}], "tools": "[]"}), "\"tools\" must be"),
            (json!({"messages": [{}], "chat_template_kwargs": 1}), "kwargs"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
