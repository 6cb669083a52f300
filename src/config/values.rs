//! Reads single values: durations, sizes, names, addresses, file modes.
//!
//! Each function says on error what it expected, as the end of a sentence. Which key holds what is
//! decided in `file`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::base::Span;

/// Longest name of a cluster or node in bytes; it becomes part of a certificate's identity.
const NAME_BYTES_MAX: usize = 63;

/// `10s`, `250ms`, `1m`, `2h`.
pub(super) fn duration(text: &str) -> Result<Span, String> {
    let wanted = "a duration such as \"250ms\", \"10s\", \"1m\" or \"2h\"";
    let (number, unit) = split_number(text).ok_or(wanted)?;
    let micros_per_unit: u64 = match unit {
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return Err(wanted.into()),
    };
    number.checked_mul(micros_per_unit).map(Span::from_micros).ok_or_else(|| wanted.into())
}

/// `65536`, `64KiB`, `64MiB`, `1GiB`, `1TiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wanted = "a number of bytes, or a size such as \"64KiB\", \"64MiB\" or \"1GiB\"";
    let (number, unit) = split_number(text).ok_or(wanted)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wanted.into()),
    };
    number.checked_mul(1 << shift).ok_or_else(|| wanted.into())
}

/// How a size is written in messages: in the largest unit that divides it.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    units
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift)
        .map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// How a duration is written in messages: in the largest unit that divides it.
pub(super) fn duration_text(span: Span) -> String {
    let millis = span.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    units
        .into_iter()
        .find(|(per, _)| millis > 0 && millis.is_multiple_of(*per))
        .map_or_else(|| format!("{millis}ms"), |(per, unit)| format!("{}{unit}", millis / per))
}

/// The name of a cluster or a node.
pub(super) fn name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && text.len() <= NAME_BYTES_MAX && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a name of 1 to {NAME_BYTES_MAX} letters, digits, \"-\", \"_\" or \".\", \
         the first a letter or digit"
    ))
}

/// Where a member is reached: `10.0.0.1:7400`, `[fd00::1]:7400` or `web1.example.com:7400`.
pub(super) fn address(text: &str) -> Result<String, String> {
    let wanted = "an address with a port, such as \"10.0.0.1:7400\", \"[fd00::1]:7400\" or \
                  \"web1.example.com:7400\"";
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(wanted.into());
        }
        if address.ip().is_unspecified() {
            return Err(
                "an address that the other members can dial, not the unspecified one".into()
            );
        }
        return Ok(address.to_string());
    }
    let (host, port) = text.rsplit_once(':').ok_or(wanted)?;
    let port_good = port.parse::<u16>().is_ok_and(|port| port > 0)
        && port.bytes().all(|byte| byte.is_ascii_digit());
    let label_good = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // A host of digits and dots only is a mistyped IPv4 address, not a name.
    let looks_numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if port_good && host.len() <= 253 && !looks_numeric && host.split('.').all(label_good) {
        return Ok(text.to_owned());
    }
    Err(wanted.into())
}

/// Where to listen: `10.0.0.1:7400`, or `:7400` for all interfaces.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let wanted = "an IP address with a port, such as \"10.0.0.1:7400\", or \":7400\" for all \
                  interfaces";
    let parsed = match text.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .filter(|_| port.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|port: u16| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
        None => text.parse().ok(),
    };
    parsed.filter(|address| address.port() > 0).ok_or_else(|| wanted.into())
}

/// A file mode in octal: `0660`.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let parsed = if octal { u32::from_str_radix(text, 8).ok() } else { None };
    parsed
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "an octal file mode up to \"0777\", such as \"0660\"".into())
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    Some((text.get(..end)?.parse().ok()?, text.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::{address, duration, duration_text, listen, mode, name, size, size_text};
    use crate::base::Span;

    #[test]
    fn durations_and_sizes_are_read_and_written_in_the_same_form() {
        for (text, millis) in [("250ms", 250), ("10s", 10_000), ("1m", 60_000), ("2h", 7_200_000)] {
            assert_eq!(duration(text), Ok(Span::from_millis(millis)), "{text}");
            assert_eq!(duration_text(Span::from_millis(millis)), text);
        }
        for bad in ["", "10", "s", "-1s", "1.5s", "10 s", "10S", "99999999999999999999s", "1d"] {
            assert!(duration(bad).is_err(), "{bad:?} was taken for a duration");
        }
        for (text, bytes) in [("7", 7), ("64KiB", 65_536), ("64MiB", 67_108_864), ("1GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
            assert_eq!(size_text(bytes), text);
        }
        for bad in ["", "64MB", "MiB", "-1", "1.5GiB", "99999999TiB", "64 MiB"] {
            assert!(size(bad).is_err(), "{bad:?} was taken for a size");
        }
    }

    #[test]
    fn names_modes_and_addresses() {
        for good in ["web1", "a", "Rack-3.node_7"] {
            assert!(name(good).is_ok(), "{good} was refused");
        }
        for bad in ["", "-a", ".", "..", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(name(bad).is_err(), "{bad:?} was taken for a name");
        }
        for good in ["10.0.0.1:7400", "[fd00::1]:1", "web1:7400", "a-b.example.com:65535"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in [
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.300:7400",
            "web1:",
            ":7400",
            "web1:+80",
            "a..b:1",
            "a/b:1",
            "0.0.0.0:7400",
            "[::]:7400",
            "web1:70000",
            "",
        ] {
            assert!(address(bad).is_err(), "{bad:?} was taken for an address");
        }
        assert_eq!(listen(":7400").map(|a| a.to_string()).as_deref(), Ok("[::]:7400"));
        for bad in ["7400", "web1:7400", ":0", ":x", ":+1", "10.0.0.1"] {
            assert!(listen(bad).is_err(), "{bad:?} was taken for a place to listen");
        }
        assert_eq!((mode("0660"), mode("600")), (Ok(0o660), Ok(0o600)));
        for bad in ["", "0888", "7777", "rw", "-660", "+660"] {
            assert!(mode(bad).is_err(), "{bad:?} was taken for a mode");
        }
    }
}
