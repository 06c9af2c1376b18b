//! Chat templates: a conversation → the text a checkpoint was trained on.
//!
//! A template is the checkpoint's own Jinja source, rendered as `apply_chat_template` of transformers renders it
//! (`utils/chat_template_utils.py`): blocks trimmed, `tojson` without HTML escapes, `raise_exception` and
//! `strftime_now` defined, Python's string methods available.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, ErrorKind};
use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user" or "assistant".
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What to render besides the conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Render {
    /// Whether to open the assistant's next turn.
    pub generation_prompt: bool,
    /// The variable of that name in Qwen's template; `None` leaves it undefined.
    pub enable_thinking: Option<bool>,
}

/// A compiled chat template with the special tokens it may name.
pub(super) struct Template {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token`, … as text.
    tokens: BTreeMap<String, String>,
}

/// The one template of an environment.
const NAME: &str = "chat_template";

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// The engine's message if the source is not a template.
    pub(super) fn new(source: String, tokens: BTreeMap<String, String>) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| describe(&e))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_filter("trim", trim);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, source).map_err(|e| describe(&e))?;
        Ok(Self { environment, tokens })
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// The template's own message if it refuses the conversation (roles out of order, say), or the engine's.
    pub(super) fn render(&self, messages: &[Message], options: Render) -> Result<String, String> {
        if messages.is_empty() {
            return Err("the conversation has no messages".to_owned());
        }
        let template = self.environment.get_template(NAME).map_err(|e| describe(&e))?;
        let tokens = self.tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let mut context: BTreeMap<&str, Value> = tokens.collect();
        context.insert("messages", messages.iter().map(turn).collect());
        context.insert("add_generation_prompt", options.generation_prompt.into());
        // transformers passes these two as None, which for `is defined` differs from not being passed.
        context.extend([("tools", ().into()), ("documents", ().into())]);
        context.extend(options.enable_thinking.map(|on| ("enable_thinking", on.into())));
        template.render(context).map_err(|e| describe(&e))
    }
}

/// A message as a template sees it.
fn turn(message: &Message) -> Value {
    Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
}

/// One line: what went wrong, without the engine's listing of the template.
fn describe(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) if error.kind() != ErrorKind::InvalidOperation => {
            format!("{what} (line {line} of the template)")
        }
        _ => what,
    }
}

fn raise_exception(message: &str) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// Python's `str.strip`, whose whitespace includes the four separators U+001C to U+001F.
fn trim(text: &str, chars: Option<&str>) -> String {
    let out = |c: char| match chars {
        Some(chars) => chars.contains(c),
        None => c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c),
    };
    text.trim_matches(out).to_owned()
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: the engine's own filter without the escapes
/// that make its result safe inside HTML.
fn tojson(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let json = minijinja::filters::tojson(value, None, options)?.to_string();
    let mut plain = String::with_capacity(json.len());
    let mut rest = json.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        let html = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')];
        if let Some((code, c)) = html.iter().find(|(code, _)| escape.starts_with(code)) {
            plain.push(*c);
            rest = &escape[code.len()..];
        } else {
            // Copying the escaped character (ASCII), too, leaves `\\\\u003c`, an escaped backslash and text, unchanged.
            plain.push_str(&escape[..2]);
            rest = &escape[2..];
        }
    }
    plain.push_str(rest);
    Ok(plain)
}

/// Today (UTC) in the directives that chat templates use: %Y %m %d %b %B.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(format, seconds / 86_400)
        .map_err(|what| minijinja::Error::new(ErrorKind::InvalidOperation, what))
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

fn strftime(format: &str, days: u64) -> Result<String, String> {
    let (year, month, day) = civil(days);
    let name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        let directive = if c == '%' { chars.next() } else { None };
        let text = match (c, directive) {
            ('%', Some('Y')) => year.to_string(),
            ('%', Some('m')) => format!("{month:02}"),
            ('%', Some('d')) => format!("{day:02}"),
            ('%', Some('b')) => name[..3].to_owned(),
            ('%', Some('B')) => name.to_owned(),
            ('%', Some('%')) => c.to_string(),
            ('%', other) => return Err(format!("strftime_now: %{} is not supported", other.unwrap_or(' '))),
            _ => c.to_string(),
        };
        out.push_str(&text);
    }
    Ok(out)
}

/// Year, month (1–12) and day (1–31) of a day counted from 1970-01-01.
/// Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`: years begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message], options: Render) -> Result<String, String> {
        let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
        Template::new(source.to_owned(), tokens)?.render(messages, options)
    }

    fn hello() -> Message {
        Message::new("user", "hello")
    }

    #[test]
    fn blocks_are_trimmed_and_tokens_defined() {
        let source = "{{ bos_token }}\n    {% for m in messages %}\n{{ m.role }}: {{ m['content'] | trim }};\n    {% endfor %}\n";
        let text =
            render(source, &[Message::new("user", " \u{1c}<a & b>\u{3000}")], Render::default()).unwrap();
        assert_eq!(text, "<s>\nuser: <a & b>;\n");
    }

    #[test]
    fn thinking_is_undefined_unless_asked_for() {
        let source =
            "{% if enable_thinking is defined %}{{ enable_thinking is false }}{% else %}none{% endif %}";
        let with = |enable_thinking| {
            render(source, &[hello()], Render { enable_thinking, ..Render::default() }).unwrap()
        };
        assert_eq!([with(None), with(Some(false)), with(Some(true))], ["none", "True", "False"]);
    }

    #[test]
    fn python_methods_slices_and_json() {
        let source = "{{ messages[0].content.split('|')[-1].strip() }} {{ messages[::-1][0].role }} \
                      {{ {'a': ['<é>', 1, none], 'b': {}, \"c'\": '\\\\\\\\u003c'} | tojson }}";
        let text = render(source, &[Message::new("user", "x| y ")], Render::default()).unwrap();
        assert_eq!(text, r#"y user {"a": ["<é>", 1, null], "b": {}, "c'": "\\\\u003c"}"#);
    }

    #[test]
    fn a_template_refuses_in_its_own_words() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[hello()], Render::default());
        assert_eq!(error.unwrap_err(), "roles must alternate");
        assert!(render("{% if %}", &[hello()], Render::default()).unwrap_err().contains("line 1"));
    }

    #[test]
    fn dates() {
        assert_eq!(strftime("%d %b %Y, %B %m%%", 0).unwrap(), "01 Jan 1970, January 01%");
        assert_eq!(strftime("%Y-%m-%d", 19_782).unwrap(), "2024-02-29");
        assert_eq!(strftime("%Y-%m-%d", 20_819).unwrap(), "2027-01-01");
        assert!(strftime("%Q", 0).unwrap_err().contains("%Q"));
    }
}
