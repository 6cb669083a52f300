//! Turns YAML text into a tree whose every node can be found again in the text.
//!
//! The YAML library tells where an *error* is, and nothing about the places of good values. So the
//! place of a node is found by reading the text again and failing on purpose at that node: slower
//! than a scanner of our own, needed only once a mistake is to be reported, and always of one mind
//! with the library about quotes, anchors and indentation.
//!
//! What the values should be is decided in `file`.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor};

/// Most nodes in one file. Aliases can make a short text large ("billion laughs").
const NODES_MAX: usize = 100_000;
/// Most bytes of text in all nodes together, for the same reason: one long text, named often.
const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Deepest nesting of brackets that is given to the library, which takes a time that grows with the
/// square of it before it refuses.
const BRACKETS_MAX: usize = 1_000;

/// Names one node of a tree: its number in the order in which the parser meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(usize);

/// One value of the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub at: Place,
    pub value: Value,
}

/// What a node holds, as YAML sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Float(f64),
    Integer(i128),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Null,
    Text(String),
}

impl Value {
    /// What this is, in the words of an error message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a yes-or-no value",
            Self::Float(_) | Self::Integer(_) => "a number",
            Self::List(_) => "a list",
            Self::Map(_) => "a section",
            Self::Null => "nothing",
            Self::Text(_) => "text",
        }
    }
}

/// Line and column, both from 1.
pub(super) type LineColumn = (usize, usize);

/// The tree of `text`, or why it is no YAML and where.
pub(super) fn parse(text: &str) -> Result<Node, (LineColumn, String)> {
    if let Some(line) = too_deep(text) {
        return Err(((line, 1), "not valid YAML: brackets are nested too deeply".to_owned()));
    }
    read(text, None).map_err(|error| {
        let place = error.location().map_or((1, 1), |l| (l.line(), l.column()));
        let suffix = format!(" at line {} column {}", place.0, place.1);
        (place, format!("not valid YAML: {}", error.to_string().replacen(&suffix, "", 1)))
    })
}

/// The first line in which more brackets are open than any sensible file has, in texts and comments
/// too: to be exact takes a scanner.
fn too_deep(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (number, line) in (1..).zip(text.split('\n')) {
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > BRACKETS_MAX {
                return Some(number);
            }
        }
    }
    None
}

/// Where `place` is in `text`.
pub(super) fn locate(text: &str, place: Place) -> LineColumn {
    match read(text, Some(place)) {
        Ok(_) => (1, 1),
        Err(error) => error.location().map_or((1, 1), |l| (l.line(), l.column())),
    }
}

fn read(text: &str, stop_at: Option<Place>) -> Result<Node, serde_yaml::Error> {
    let (count, text_bytes) = (Cell::new(0), Cell::new(0));
    NodeSeed { count: &count, text_bytes: &text_bytes, stop_at }
        .deserialize(serde_yaml::Deserializer::from_str(text))
}

/// Reads one node; fails at the node `stop_at` if it comes by.
#[derive(Clone, Copy)]
struct NodeSeed<'a> {
    count: &'a Cell<usize>,
    text_bytes: &'a Cell<usize>,
    stop_at: Option<Place>,
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        let at = Place(self.count.get());
        self.count.set(at.0 + 1);
        Ok(Node { at, value: from.deserialize_any(NodeVisitor { seed: self, at })? })
    }
}

struct NodeVisitor<'a> {
    seed: NodeSeed<'a>,
    at: Place,
}

impl NodeVisitor<'_> {
    fn arrive<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.seed.stop_at == Some(self.at) {
            return Err(E::custom("this is the place"));
        }
        if self.at.0 >= NODES_MAX {
            return Err(E::custom(format!("more than {NODES_MAX} values")));
        }
        Ok(())
    }

    fn checked<E: serde::de::Error>(&self, value: Value) -> Result<Value, E> {
        self.arrive().map(|()| value)
    }
}

impl<'de> Visitor<'de> for NodeVisitor<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value without a tag")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.checked(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.checked(Value::Integer(i128::from(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.checked(Value::Integer(i128::from(value)))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Value, E> {
        self.checked(Value::Integer(value))
    }

    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Value, E> {
        self.checked(i128::try_from(value).map_or(Value::Float(f64::INFINITY), Value::Integer))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.checked(Value::Float(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        let bytes = self.seed.text_bytes.get() + value.len();
        self.seed.text_bytes.set(bytes);
        if bytes > TEXT_BYTES_MAX {
            return Err(E::custom(format!("more than {TEXT_BYTES_MAX} bytes of text")));
        }
        self.checked(Value::Text(value.to_owned()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.checked(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.checked(Value::Null)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(A::Error::custom("tags (`!name`) are not used in this file"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.arrive()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.seed)? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        self.arrive()?;
        let mut map = Vec::new();
        while let Some(key) = pairs.next_key_seed(self.seed)? {
            map.push((key, pairs.next_value_seed(self.seed)?));
        }
        Ok(Value::Map(map))
    }
}
