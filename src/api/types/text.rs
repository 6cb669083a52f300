//! How durations, ids and bytes are written in JSON.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::Error as _;
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration as requests write it: one or more whole numbers with a unit (`h`, `m`, `s`, `ms`),
/// from the longest unit to the shortest, such as `10s`, `250ms`, `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DurationText(pub Duration);

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a duration: write it like \"10s\", \"250ms\", \"1m30s\" or \"1h\"")]
pub struct DurationTextError;

/// The units from the longest to the shortest, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for DurationText {
    type Err = DurationTextError;

    fn from_str(text: &str) -> Result<Self, DurationTextError> {
        let mut rest = text;
        let mut millis: u64 = 0;
        let mut units = UNITS.as_slice();
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| DurationTextError)?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
            let at = units.iter().position(|(name, _)| *name == &rest[..letters]);
            let at = at.ok_or(DurationTextError)?;
            let part = number.checked_mul(units[at].1).ok_or(DurationTextError)?;
            millis = millis.checked_add(part).ok_or(DurationTextError)?;
            rest = &rest[letters..];
            units = &units[at + 1..];
        }
        if text.is_empty() {
            Err(DurationTextError)
        } else {
            Ok(Self(Duration::from_millis(millis)))
        }
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis.is_multiple_of(1_000) {
            write!(f, "{}s", millis / 1_000)
        } else {
            write!(f, "{millis}ms")
        }
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format_args!("\"{text}\" {error}")))
    }
}

/// A lease or a digest: a lower-case hexadecimal string of up to 16 digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HexId(pub u64);

impl FromStr for HexId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.is_empty() || text.len() > 16 || !text.bytes().all(hex) {
            return Err("is not an id: ids are 1 to 16 lower-case hexadecimal digits");
        }
        let number = u64::from_str_radix(text, 16);
        Ok(Self(number.expect("1 to 16 hexadecimal digits are a 64-bit number")))
    }
}

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl Serialize for HexId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HexId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format_args!("\"{text}\" {error}")))
    }
}

/// One life of a node's data directory: sixteen lower-case hexadecimal digits, leading zeros
/// included, so that it can be compared as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Incarnation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        HexId::deserialize(deserializer).map(|id| Self(id.0))
    }
}

/// A key among the keys of a lease, where there is no field name to carry `_base64`: the object
/// `{"key": …}` or `{"key_base64": …}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "KeyNameFields")]
pub struct KeyName(pub Bytes);

#[derive(Deserialize)]
struct KeyNameFields {
    key: Option<String>,
    key_base64: Option<String>,
}

impl TryFrom<KeyNameFields> for KeyName {
    type Error = String;

    fn try_from(fields: KeyNameFields) -> Result<Self, String> {
        Ok(Self(required(fields.key, fields.key_base64, "key")?))
    }
}

impl Serialize for KeyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        entry(&mut map, "key", "key_base64", &self.0)?;
        map.end()
    }
}

/// Writes bytes under `plain` when they are UTF-8, under `encoded` otherwise.
pub(super) fn entry<M: SerializeMap>(
    map: &mut M,
    plain: &'static str,
    encoded: &'static str,
    bytes: &[u8],
) -> Result<(), M::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => map.serialize_entry(plain, text),
        Err(_) => map.serialize_entry(encoded, &STANDARD.encode(bytes)),
    }
}

/// Reads what [`entry`] wrote, if either field is there. `name` is that of the plain field.
pub(super) fn optional(
    plain: Option<String>,
    encoded: Option<String>,
    name: &str,
) -> Result<Option<Bytes>, String> {
    match (plain, encoded) {
        (Some(_), Some(_)) => Err(format!("has both \"{name}\" and \"{name}_base64\"")),
        (Some(text), None) => Ok(Some(Bytes::from(text))),
        (None, Some(text)) => match STANDARD.decode(&text) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(_) => Err(format!("\"{name}_base64\" is not base64 with padding (RFC 4648)")),
        },
        (None, None) => Ok(None),
    }
}

/// Reads what [`entry`] wrote; one of both fields must be there.
pub(super) fn required(
    plain: Option<String>,
    encoded: Option<String>,
    name: &str,
) -> Result<Bytes, String> {
    optional(plain, encoded, name)?
        .ok_or_else(|| format!("missing field \"{name}\" or \"{name}_base64\""))
}

#[cfg(test)]
mod tests {
    use super::{DurationText, HexId, KeyName, optional};
    use bytes::Bytes;
    use std::time::Duration;

    #[test]
    fn durations_are_sums_of_units_from_long_to_short_and_nothing_else() {
        for (text, millis) in [
            ("10s", 10_000),
            ("250ms", 250),
            ("1m", 60_000),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1h2m3s4ms", 3_723_004),
            ("0s", 0),
            ("007s", 7_000),
        ] {
            let parsed: DurationText = text.parse().unwrap();
            assert_eq!(parsed.0, Duration::from_millis(millis), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "10 s",
            "-1s",
            "+1s",
            "1.5s",
            "1S",
            "1d",
            "1us",
            "30s1m",
            "1s1s",
            "1s ",
            " 1s",
            "1e3s",
            "99999999999999999999s",
            "18446744073709551615h",
            "\u{661}s",
        ] {
            assert!(text.parse::<DurationText>().is_err(), "{text:?} was taken for a duration");
        }
        let shown = |millis| DurationText(Duration::from_millis(millis)).to_string();
        assert_eq!((shown(90_000), shown(1_500)), ("90s".to_owned(), "1500ms".to_owned()));
    }

    #[test]
    fn ids_are_short_lower_case_hexadecimal() {
        for (text, number) in [("0", 0), ("1f", 31), ("ffffffffffffffff", u64::MAX)] {
            assert_eq!(text.parse::<HexId>(), Ok(HexId(number)));
        }
        assert_eq!(HexId(31).to_string(), "1f");
        for text in ["", "1F", "0x1", "g", "+1", "00000000000000001"] {
            assert!(text.parse::<HexId>().is_err(), "{text:?} was taken for an id");
        }
    }

    #[test]
    fn bytes_are_text_when_they_can_be_and_base64_otherwise() {
        let text = KeyName(Bytes::from_static(b"a\"b"));
        assert_eq!(serde_json::to_string(&text).unwrap(), r#"{"key":"a\"b"}"#);
        let binary = KeyName(Bytes::from_static(b"\xff\x00"));
        let json = serde_json::to_string(&binary).unwrap();
        assert_eq!(json, r#"{"key_base64":"/wA="}"#);
        assert_eq!(serde_json::from_str::<KeyName>(&json).unwrap(), binary);
        let both = optional(Some("a".into()), Some("YQ==".into()), "key").unwrap_err();
        assert!(both.contains("both"), "{both}");
        assert!(optional(None, Some("YQ".into()), "key").is_err(), "padding is required");
    }
}
