//! What a template may do: read the keys it was given, and nothing else; within bounds.
//!
//! There is no way from a template to a file, a program or another template. Values come from the
//! store and are data: they are never read as templates.

use std::fs;
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context};

use crate::base::limits;

use super::file_inputs::Inputs;
use super::files_options::TemplateOptions;

/// The name under which a template is known in error messages.
const NAME: &str = "template";

/// The text of a template.
pub(super) fn read(source: &TemplateOptions) -> Result<String, String> {
    let path = match source {
        TemplateOptions::Text(text) => return Ok(text.clone()),
        TemplateOptions::File(path) => path,
    };
    read_file(path).map_err(|error| format!("cannot read the template {}: {error}", path.display()))
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    file.take(limits::TEMPLATE_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    if text.len() > limits::TEMPLATE_BYTES_MAX {
        let most = limits::TEMPLATE_BYTES_MAX;
        return Err(io::Error::other(format!("longer than {most} bytes")));
    }
    Ok(text)
}

/// What is wrong with the text of a template, with its line.
pub(super) fn check(text: &str) -> Result<(), String> {
    environment().template_from_named_str(NAME, text).map(|_| ()).map_err(|error| told(&error))
}

/// What a template makes of keys.
pub(super) fn render(text: &str, inputs: &Arc<Inputs>) -> Result<Vec<u8>, String> {
    let mut environment = environment();
    let of = Arc::clone(inputs);
    environment.add_function("key", move |name: &str, default: Option<Value>| {
        let found = of.key(name).map_err(refused)?.map(Value::from);
        found.or(default).ok_or_else(|| refused(format!("the key {name:?} does not exist")))
    });
    let of = Arc::clone(inputs);
    environment.add_function("exists", move |name: &str| {
        of.key(name).map(|found| found.is_some()).map_err(refused)
    });
    let of = Arc::clone(inputs);
    environment.add_function("keys", move |prefix: &str| {
        let found = of.keys(prefix).map_err(refused)?;
        let object = |(key, name, value, revision)| {
            context! { key => key, name => name, value => value, revision => revision }
        };
        Ok(Value::from(found.into_iter().map(object).collect::<Vec<Value>>()))
    });
    let mut output = Bounded(Vec::new());
    let template = environment.template_from_named_str(NAME, text).map_err(|error| told(&error))?;
    template.render_captured_to(context! {}, &mut output).map_err(|error| told(&error))?;
    Ok(output.0)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let mut syntax = SyntaxConfig::builder();
    let syntax = syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
    environment.set_fuel(Some(limits::RENDER_FUEL));
    environment.add_filter("fromjson", |text: &str| {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(text);
        let parsed = parsed.map_err(|error| refused(format!("not valid JSON: {error}")))?;
        Ok(from_json(parsed))
    });
    environment.add_filter("word", |text: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@%+[]".contains(&byte);
        match !text.is_empty() && text.bytes().all(good) {
            true => Ok(text.to_owned()),
            false => Err(refused("a value is not a single plain word".to_owned())),
        }
    });
    environment
}

/// By hand: what minijinja makes of serialised data has a meaning of its own for some keys of maps.
fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(items) => items.into_iter().map(from_json).collect(),
        serde_json::Value::Object(pairs) => {
            Value::from_pairs(pairs.into_iter().map(|(key, value)| (key, from_json(value))))
        }
    }
}

fn refused(text: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

/// Says what is wrong and where, never with the values of keys.
fn told(error: &Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
    let kind = match error.kind() {
        ErrorKind::OutOfFuel => "it takes more steps than a rendering may".to_owned(),
        ErrorKind::WriteFailure => {
            format!("it makes more than {} bytes", limits::RENDERED_BYTES_MAX)
        }
        kind => kind.to_string(),
    };
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    format!("{line}{kind}{detail}")
}

/// Takes as many bytes as a file may have.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > limits::RENDERED_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
