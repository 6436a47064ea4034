//! The filters of `bywash ss`: the useful part of the language that ss(8) has. Words stand side by side to mean "and"; what
//! is wrong is said with its column.

use std::net::{IpAddr, SocketAddr};

use super::model::{Socket, State};

/// A filter: which states, and an expression.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Filter {
    /// `None`: those that are shown unless asked otherwise.
    pub states: Option<Vec<State>>,
    expression: Option<Expression>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    Address(End, Host),
    Port(End, Comparison, u16),
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Local,
    Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    Greater,
    LessOrEqual,
    GreaterOrEqual,
}

/// `10.0.0.0/8`, `[2001:db8::1]:80`, `*:80`, `:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Host {
    network: Option<(IpAddr, u8)>,
    port: Option<u16>,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter is wrong at column {column}: {message}")]
pub struct FilterError {
    /// Counted from 1, in the words joined by single spaces.
    pub column: usize,
    message: String,
}

/// Deepest nesting of parentheses and `not`s: the parser recurses.
const DEPTH_MAX: usize = 64;

impl Filter {
    /// Parses the words of the command line.
    ///
    /// # Errors
    /// The first word that does not fit, and what would.
    pub fn parse(words: &[String]) -> Result<Self, FilterError> {
        let text = words.join(" ");
        let mut parser = Parser { tokens: tokens(&text), at: 0, end: text.len() + 1, depth: 0 };
        let states = parser.states()?;
        let expression = if parser.peek().is_some() { Some(parser.either()?) } else { None };
        match parser.peek() {
            None => Ok(Self { states, expression }),
            Some(_) => Err(parser.error("`and`, `or` or the end")),
        }
    }

    /// Whether the expression (not the states) lets the socket through.
    #[must_use]
    pub fn fits(&self, socket: &Socket) -> bool {
        self.expression.as_ref().is_none_or(|expression| expression.fits(socket))
    }
}

impl Expression {
    fn fits(&self, socket: &Socket) -> bool {
        let end = |end: &End| match end {
            End::Local => Some(socket.local),
            End::Remote => socket.remote,
        };
        match self {
            Self::Address(which, host) => end(which).is_some_and(|addr| host.fits(addr)),
            Self::Port(which, comparison, port) => {
                end(which).is_some_and(|addr| comparison.holds(addr.port(), *port))
            }
            Self::Not(inner) => !inner.fits(socket),
            Self::And(one, two) => one.fits(socket) && two.fits(socket),
            Self::Or(one, two) => one.fits(socket) || two.fits(socket),
        }
    }
}

impl Host {
    fn fits(&self, addr: SocketAddr) -> bool {
        let inside = self.network.is_none_or(|(network, length)| prefix_fits(addr.ip(), network, length));
        inside && self.port.is_none_or(|port| port == addr.port())
    }

    fn parse(text: &str) -> Option<Self> {
        let (address, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                // Both [net]/64:80 and [net/64]:80 are written.
                let (length, port) = match after.strip_prefix('/') {
                    Some(after) => after.split_once(':').map_or((after, None), |(l, p)| (l, Some(p))),
                    None => ("", (!after.is_empty()).then(|| after.strip_prefix(':')).flatten()),
                };
                if !after.is_empty() && length.is_empty() && port.is_none() {
                    return None;
                }
                let joined =
                    if length.is_empty() { address.to_owned() } else { format!("{address}/{length}") };
                (joined, port)
            }
            None if text.matches(':').count() == 1 => {
                let (address, port) = text.split_once(':')?;
                (address.to_owned(), Some(port))
            }
            None => (text.to_owned(), None),
        };
        let network = match address.as_str() {
            "" | "*" => None,
            address => {
                let (ip, length) = address.split_once('/').map_or((address, None), |(a, l)| (a, Some(l)));
                let ip: IpAddr = ip.parse().ok()?;
                let most = if ip.is_ipv4() { 32 } else { 128 };
                let length = length.map_or(Some(most), |length| length.parse().ok())?;
                (length <= most).then_some(())?;
                Some((ip, length))
            }
        };
        let port = match port {
            None | Some("*" | "") => None,
            Some(port) => Some(port.parse().ok()?),
        };
        (network.is_some() || port.is_some() || text.contains('*')).then_some(Self { network, port })
    }
}

fn prefix_fits(ip: IpAddr, network: IpAddr, length: u8) -> bool {
    let shifted = |bits: u128, width: u32| bits.checked_shr(width - u32::from(length)).unwrap_or(0);
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            shifted(ip.to_bits().into(), 32) == shifted(network.to_bits().into(), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            shifted(ip.to_bits(), 128) == shifted(network.to_bits(), 128)
        }
        _ => false,
    }
}

impl Comparison {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "=" | "==" | "eq" => Self::Equal,
            "!=" | "ne" | "neq" => Self::NotEqual,
            "<" | "lt" => Self::Less,
            ">" | "gt" => Self::Greater,
            "<=" | "le" | "leq" => Self::LessOrEqual,
            ">=" | "ge" | "geq" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    fn holds(self, one: u16, two: u16) -> bool {
        match self {
            Self::Equal => one == two,
            Self::NotEqual => one != two,
            Self::Less => one < two,
            Self::Greater => one > two,
            Self::LessOrEqual => one <= two,
            Self::GreaterOrEqual => one >= two,
        }
    }
}

/// A word and its column, counted from 1.
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    column: usize,
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    const SYMBOLS: [char; 8] = ['(', ')', '!', '=', '<', '>', '&', '|'];
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.trim_start().chars().next() {
        rest = rest.trim_start();
        let start = text.len() - rest.len();
        let len = if matches!(first, '(' | ')') {
            1
        } else if SYMBOLS.contains(&first) {
            let is_operator = |c: char| SYMBOLS[2..].contains(&c);
            rest.find(|c| !is_operator(c)).unwrap_or(rest.len()).min(2)
        } else {
            rest.find(|c: char| c.is_whitespace() || SYMBOLS.contains(&c)).unwrap_or(rest.len())
        };
        tokens.push(Token { text: &rest[..len], column: start + 1 });
        rest = &rest[len..];
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    /// The column behind the last word.
    end: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&str> {
        self.tokens.get(self.at).map(|token| token.text)
    }

    fn take(&mut self, words: &[&str]) -> bool {
        let found = self.peek().is_some_and(|word| words.contains(&word));
        self.at += usize::from(found);
        found
    }

    fn error(&self, expected: &str) -> FilterError {
        match self.tokens.get(self.at) {
            Some(token) => FilterError {
                column: token.column,
                message: format!("expected {expected}, found `{}`", token.text),
            },
            None => FilterError { column: self.end, message: format!("expected {expected}, found the end") },
        }
    }

    fn states(&mut self) -> Result<Option<Vec<State>>, FilterError> {
        let mut states: Option<Vec<State>> = None;
        loop {
            let excludes = match self.peek() {
                Some("state") => false,
                Some("exclude") => true,
                _ => return Ok(states),
            };
            self.at += 1;
            let named = self.peek().and_then(State::named);
            let Some(named) = named else { return Err(self.error(State::NAMES)) };
            self.at += 1;
            if excludes {
                states.get_or_insert_with(|| State::ALL.to_vec()).retain(|state| !named.contains(state));
            } else {
                states.get_or_insert_default().extend(named);
            }
        }
    }

    fn either(&mut self) -> Result<Expression, FilterError> {
        let mut one = self.both()?;
        while self.take(&["or", "|", "||"]) {
            one = Expression::Or(Box::new(one), Box::new(self.both()?));
        }
        Ok(one)
    }

    fn both(&mut self) -> Result<Expression, FilterError> {
        let mut one = self.single()?;
        loop {
            let joined = self.take(&["and", "&", "&&"]);
            let ends = self.peek().is_none_or(|word| matches!(word, ")" | "or" | "|" | "||"));
            if !joined && ends {
                return Ok(one);
            }
            one = Expression::And(Box::new(one), Box::new(self.single()?));
        }
    }

    fn single(&mut self) -> Result<Expression, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error("at most 64 parentheses and `not`s inside each other"));
        }
        let result = self.single_at_depth();
        self.depth -= 1;
        result
    }

    fn single_at_depth(&mut self) -> Result<Expression, FilterError> {
        if self.take(&["not", "!"]) {
            return Ok(Expression::Not(Box::new(self.single()?)));
        }
        if self.take(&["("]) {
            let inner = self.either()?;
            return if self.take(&[")"]) { Ok(inner) } else { Err(self.error("`)`")) };
        }
        let (end, is_port) = match self.peek() {
            Some("src") => (End::Local, false),
            Some("dst") => (End::Remote, false),
            Some("sport") => (End::Local, true),
            Some("dport") => (End::Remote, true),
            _ => return Err(self.error("`src`, `dst`, `sport`, `dport`, `not` or `(`")),
        };
        self.at += 1;
        let comparison = self.peek().and_then(Comparison::parse);
        self.at += usize::from(comparison.is_some());
        if is_port {
            let comparison = comparison.ok_or_else(|| self.error("a comparison such as `=` or `>`"))?;
            let port = self.peek().and_then(|word| word.strip_prefix(':').unwrap_or(word).parse().ok());
            let port = port.ok_or_else(|| self.error("a port such as `:80`"))?;
            self.at += 1;
            return Ok(Expression::Port(end, comparison, port));
        }
        let host = self.peek().and_then(Host::parse);
        let host = host.ok_or_else(|| self.error("an address such as `10.0.0.0/8` or `[2001:db8::1]:80`"))?;
        self.at += 1;
        let address = Expression::Address(end, host);
        match comparison {
            None | Some(Comparison::Equal) => Ok(address),
            Some(Comparison::NotEqual) => Ok(Expression::Not(Box::new(address))),
            Some(_) => {
                self.at -= 2;
                Err(self.error("`=` or `!=` in front of an address"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Filter, FilterError> {
        Filter::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn fits(text: &str, local: &str, remote: &str) -> bool {
        let socket = Socket {
            local: local.parse().unwrap(),
            remote: Some(remote.parse().unwrap()),
            ..Socket::default()
        };
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).fits(&socket)
    }

    #[test]
    fn addresses_prefixes_and_ports_select() {
        let (local, remote) = ("192.0.2.10:80", "10.1.2.3:40000");
        for (text, expected) in [
            ("sport = :80", true),
            ("sport = 81", false),
            ("dport > :1024 dport <= :40000", true),
            ("dst 10.0.0.0/8", true),
            ("dst 10.2.0.0/16", false),
            ("dst 0.0.0.0/0", true),
            ("dst = 10.1.2.3:40000", true),
            ("dst != 10.1.2.3", false),
            ("src 192.0.2.10:443", false),
            ("src :80", true),
            ("src *:80 and dst *", true),
            ("dst ::/0", false),
            ("not dst 10.0.0.0/8", false),
            ("!(sport=:81)", true),
            ("sport = :81 or dport eq 40000", true),
            ("sport = :81 or dport = :1 and src 192.0.2.10", false),
            ("( sport = :80 | sport = :81 ) & dst 10.1.2.3", true),
        ] {
            assert_eq!(fits(text, local, remote), expected, "{text}");
        }
        let (local, remote) = ("[2001:db8::10]:80", "[2001:db8::1]:5");
        for (text, expected) in [
            ("dst [2001:db8::1]:5", true),
            ("dst [2001:db8::]/32:6", false),
            ("dst 2001:db8::/32", true),
            ("dst [2001:db8::/64]:5", true),
            ("dst 10.0.0.0/8", false),
        ] {
            assert_eq!(fits(text, local, remote), expected, "{text}");
        }
    }

    #[test]
    fn states_add_up_and_exclusions_take_away() {
        assert_eq!(parse("state established").unwrap().states, Some(vec![State::Established]));
        let two = parse("state time-wait state syn-recv sport = :80").unwrap();
        assert_eq!(two.states, Some(vec![State::TimeWait, State::SynReceived]));
        let rest = parse("exclude listening exclude time-wait").unwrap().states.unwrap();
        assert_eq!(rest.len(), State::ALL.len() - 2);
        assert_eq!(Filter::parse(&[]).unwrap(), Filter::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
        for (text, column, word) in [
            ("state estblished", 7, "established"),
            ("sport :80", 7, "comparison"),
            ("sport = http", 9, ":80"),
            ("sport = :65536", 9, ":80"),
            ("dst", 4, "the end"),
            ("dst 10.0.0.0/33", 5, "10.0.0.0/33"),
            ("dst > 10.0.0.1", 5, "`=` or `!=`"),
            ("( sport = :80", 14, "`)`"),
            ("sport = :80 )", 13, "`and`"),
            ("nonsense", 1, "`src`"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.column, column, "{text}: {error}");
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        let deep = format!("{}sport = :80", "not ".repeat(100_000));
        assert!(parse(&deep).unwrap_err().to_string().contains("64"));
    }

    proptest! {
        /// Nothing typed makes the parser panic, and a column given lies in the text or right behind it.
        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-z :=!()<>&|/0-9.\\[\\]*é]{0,60}") {
            if let Err(error) = Filter::parse(std::slice::from_ref(&text)) {
                prop_assert!((1..=text.len() + 1).contains(&error.column));
            }
        }

        /// A random expression over ports agrees with the comparison itself.
        #[test]
        fn port_comparisons_are_those_of_numbers(port in any::<u16>(), other in any::<u16>()) {
            let local = format!("192.0.2.1:{port}");
            prop_assert_eq!(fits(&format!("sport >= :{other}"), &local, "192.0.2.2:1"), port >= other);
            prop_assert_eq!(fits(&format!("sport ne {other}"), &local, "192.0.2.2:1"), port != other);
        }
    }
}
