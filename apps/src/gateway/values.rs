//! Values of the gateway's configuration file: written as the command line has them, or as one would write them in TOML.

use std::time::Duration;

use bywash::config::Cidr;
use bywash::runtime::Spin;
use serde::Deserialize;
use serde::de::Error as _;

use crate::units;

/// A value written as the command line has it.
pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

pub(super) fn parsed_option<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    parsed(deserializer).map(Some)
}

pub(super) fn parsed_list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    texts(deserializer)?.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

/// Addresses of a link's own. Their networks must be said: an address alone would be a network of one host.
pub(super) fn own_addresses<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Cidr>, D::Error> {
    let read = |text: &String| {
        if !text.contains('/') {
            let message = format!("`{text}` needs the prefix length of its network, such as {text}/24");
            return Err(D::Error::custom(message));
        }
        text.parse().map_err(D::Error::custom)
    };
    texts(deserializer)?.iter().map(read).collect()
}

/// Several texts, or one without brackets.
fn texts<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Texts;

    impl<'de> serde::de::Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a list of texts, such as ['192.0.2.1/24']")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }

    deserializer.deserialize_any(Texts)
}

/// A port to serve on.
pub(super) fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    struct Port;

    impl serde::de::Visitor<'_> for Port {
        type Value = u16;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a port, 1 to 65535, without quotes")
        }

        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<u16, E> {
            let port = u16::try_from(number).ok().filter(|port| *port > 0);
            port.ok_or_else(|| E::custom(format!("`{number}` is no port to serve on: 1 to 65535")))
        }
    }

    deserializer.deserialize_any(Port)
}

/// A route's destination: a network, or `default`, whose IP version is that of the gateway.
pub(super) fn destination<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cidr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "default" { Ok(None) } else { text.parse().map(Some).map_err(D::Error::custom) }
}

/// A number of seconds, or a time with its unit.
pub(super) fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    struct Time;

    impl serde::de::Visitor<'_> for Time {
        type Value = Duration;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a number of seconds, or a time such as '5d'")
        }

        fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Duration, E> {
            self.visit_str(&seconds.to_string())
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            units::duration(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_any(Time).map(Some)
}

pub(super) fn spin<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Spin>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::cli::spin(&text).map(Some).map_err(D::Error::custom)
}
