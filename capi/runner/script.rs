//! Reads packetdrill's scripts: options, times, packets, system calls, commands and assertions become [`Event`]s. It reads
//! what the suite beside it and the usual public scripts need; what it cannot read is an error with the line's number.

use std::collections::HashMap;

/// When something happens, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// Since the start.
    At(i64),
    /// Since the event before.
    After(i64),
    /// Since the event before, at the earliest and at the latest.
    Between(i64, i64),
    /// At any time.
    Any,
}

#[derive(Clone, Debug)]
pub struct Event {
    pub line: usize,
    pub when: When,
    /// When a blocking call returns, counted like `when`.
    pub until: Option<i64>,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// A packet of the peer's.
    Inject(Packet),
    /// A packet of the stack's.
    Expect(Packet),
    Call(Call),
    Shell(String),
    Python(String),
}

#[derive(Clone, Debug)]
pub enum Packet {
    Tcp(Segment),
    Icmp { code: String, mtu: u32, seq: u32 },
}

#[derive(Clone, Debug, Default)]
pub struct Segment {
    pub flags: u16,
    pub seq: u32,
    pub len: usize,
    pub ack: Option<u32>,
    pub window: Option<u16>,
    pub urgent: u16,
    /// `None`: any.
    pub options: Option<Vec<TcpOption>>,
    pub ecn: Option<u8>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TcpOption {
    Mss(u16),
    SackOk,
    Nop,
    Eol,
    Wscale(u8),
    Ts(u32, u32),
    Sack(Vec<(u32, u32)>),
    FastOpen(Vec<u8>),
    FastOpenExperimental(Vec<u8>),
    Md5(Vec<u8>),
    /// Kind, and counters in their order.
    AccEcn(u8, Vec<u32>),
}

#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub args: Vec<Arg>,
    pub result: Arg,
    /// `EAGAIN` after a result of -1.
    pub errno: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// `...`
    Any,
    Int(i64),
    Text(Vec<u8>),
    List(Vec<Arg>),
    /// `{a=1, b}`: names are empty where there are none.
    Struct(Vec<(String, Arg)>),
}

#[derive(Debug, Default)]
pub struct Script {
    /// `--name=value`.
    pub options: HashMap<String, String>,
    pub events: Vec<Event>,
}

/// What control messages and their options are made of.
const NOTICES: &[(&str, i64)] = &[
    ("ENOMSG", libc::ENOMSG as i64),
    ("SCM_TIMESTAMPING", 37),
    ("SCM_TSTAMP_SND", 0),
    ("SCM_TSTAMP_SCHED", 1),
    ("SCM_TSTAMP_ACK", 2),
    ("SOF_TIMESTAMPING_TX_HARDWARE", 1 << 0),
    ("SOF_TIMESTAMPING_TX_SOFTWARE", 1 << 1),
    ("SOF_TIMESTAMPING_RX_HARDWARE", 1 << 2),
    ("SOF_TIMESTAMPING_RX_SOFTWARE", 1 << 3),
    ("SOF_TIMESTAMPING_SOFTWARE", 1 << 4),
    ("SOF_TIMESTAMPING_RAW_HARDWARE", 1 << 6),
    ("SOF_TIMESTAMPING_OPT_ID", 1 << 7),
    ("SOF_TIMESTAMPING_TX_SCHED", 1 << 8),
    ("SOF_TIMESTAMPING_TX_ACK", 1 << 9),
    ("SOF_TIMESTAMPING_OPT_CMSG", 1 << 10),
    ("SOF_TIMESTAMPING_OPT_TSONLY", 1 << 11),
    ("SO_EE_ORIGIN_TIMESTAMPING", 4),
    ("SO_EE_ORIGIN_ZEROCOPY", 5),
    ("SO_EE_CODE_ZEROCOPY_COPIED", 1),
];

/// Names that stand for numbers in calls.
pub fn symbol(name: &str) -> Option<i64> {
    const SOCK_NONBLOCK: i64 = libc::SOCK_NONBLOCK as i64;
    Some(match name {
        "NULL" | "SOF_NONE" => 0,
        "AF_INET" | "PF_INET" => libc::AF_INET.into(),
        "AF_INET6" => libc::AF_INET6.into(),
        "AF_UNSPEC" => libc::AF_UNSPEC.into(),
        "SOCK_STREAM" => libc::SOCK_STREAM.into(),
        "SOCK_DGRAM" => libc::SOCK_DGRAM.into(),
        "SOCK_NONBLOCK" => SOCK_NONBLOCK,
        "SOCK_CLOEXEC" => libc::SOCK_CLOEXEC.into(),
        "IPPROTO_TCP" | "SOL_TCP" => libc::IPPROTO_TCP.into(),
        "IPPROTO_UDP" => libc::IPPROTO_UDP.into(),
        "IPPROTO_IP" | "SOL_IP" => libc::IPPROTO_IP.into(),
        "IPPROTO_IPV6" | "SOL_IPV6" => libc::IPPROTO_IPV6.into(),
        "SOL_SOCKET" => libc::SOL_SOCKET.into(),
        "SO_REUSEADDR" => libc::SO_REUSEADDR.into(),
        "SO_REUSEPORT" => libc::SO_REUSEPORT.into(),
        "SO_KEEPALIVE" => libc::SO_KEEPALIVE.into(),
        "SO_LINGER" => libc::SO_LINGER.into(),
        "SO_RCVBUF" => libc::SO_RCVBUF.into(),
        "SO_SNDBUF" => libc::SO_SNDBUF.into(),
        "SO_RCVTIMEO" => libc::SO_RCVTIMEO.into(),
        "SO_SNDTIMEO" => libc::SO_SNDTIMEO.into(),
        "SO_RCVLOWAT" => libc::SO_RCVLOWAT.into(),
        "SO_OOBINLINE" => libc::SO_OOBINLINE.into(),
        "SO_ERROR" => libc::SO_ERROR.into(),
        "SO_TYPE" => libc::SO_TYPE.into(),
        "SO_ACCEPTCONN" => libc::SO_ACCEPTCONN.into(),
        "SO_ZEROCOPY" => 60,
        "SO_TIMESTAMPING" => 37,
        "TCP_NODELAY" => libc::TCP_NODELAY.into(),
        "TCP_MAXSEG" => libc::TCP_MAXSEG.into(),
        "TCP_CORK" => libc::TCP_CORK.into(),
        "TCP_KEEPIDLE" => libc::TCP_KEEPIDLE.into(),
        "TCP_KEEPINTVL" => libc::TCP_KEEPINTVL.into(),
        "TCP_KEEPCNT" => libc::TCP_KEEPCNT.into(),
        "TCP_SYNCNT" => libc::TCP_SYNCNT.into(),
        "TCP_LINGER2" => libc::TCP_LINGER2.into(),
        "TCP_DEFER_ACCEPT" => libc::TCP_DEFER_ACCEPT.into(),
        "TCP_WINDOW_CLAMP" => libc::TCP_WINDOW_CLAMP.into(),
        "TCP_INFO" => libc::TCP_INFO.into(),
        "TCP_QUICKACK" => libc::TCP_QUICKACK.into(),
        "TCP_CONGESTION" => libc::TCP_CONGESTION.into(),
        "TCP_USER_TIMEOUT" => libc::TCP_USER_TIMEOUT.into(),
        "TCP_FASTOPEN" => 23,
        "TCP_NOTSENT_LOWAT" => 25,
        "TCP_FASTOPEN_CONNECT" => 30,
        "TCP_FASTOPEN_KEY" => 33,
        "TCP_FASTOPEN_NO_COOKIE" => 34,
        "TCP_INQ" | "TCP_CM_INQ" => 36,
        "TCP_RTO_MAX_MS" => 44,
        "IP_TOS" => libc::IP_TOS.into(),
        "IP_RECVERR" => libc::IP_RECVERR.into(),
        "IPV6_RECVERR" => libc::IPV6_RECVERR.into(),
        "IP_FREEBIND" => libc::IP_FREEBIND.into(),
        "IP_MTU_DISCOVER" => libc::IP_MTU_DISCOVER.into(),
        "IP_PMTUDISC_DONT" => libc::IP_PMTUDISC_DONT.into(),
        "MSG_PEEK" => libc::MSG_PEEK.into(),
        "MSG_OOB" => libc::MSG_OOB.into(),
        "MSG_TRUNC" => libc::MSG_TRUNC.into(),
        "MSG_WAITALL" => libc::MSG_WAITALL.into(),
        "MSG_DONTWAIT" => libc::MSG_DONTWAIT.into(),
        "MSG_NOSIGNAL" => libc::MSG_NOSIGNAL.into(),
        "MSG_MORE" => libc::MSG_MORE.into(),
        "MSG_EOR" => libc::MSG_EOR.into(),
        "MSG_FASTOPEN" => libc::MSG_FASTOPEN.into(),
        "MSG_ZEROCOPY" => 0x400_0000,
        "MSG_ERRQUEUE" => libc::MSG_ERRQUEUE.into(),
        "F_GETFL" => libc::F_GETFL.into(),
        "F_SETFL" => libc::F_SETFL.into(),
        "O_RDWR" => libc::O_RDWR.into(),
        "O_RDONLY" => libc::O_RDONLY.into(),
        "O_NONBLOCK" => libc::O_NONBLOCK.into(),
        "SHUT_RD" => libc::SHUT_RD.into(),
        "SHUT_WR" => libc::SHUT_WR.into(),
        "SHUT_RDWR" => libc::SHUT_RDWR.into(),
        "POLLIN" | "EPOLLIN" => libc::POLLIN.into(),
        "POLLOUT" | "EPOLLOUT" => libc::POLLOUT.into(),
        "POLLERR" | "EPOLLERR" => libc::POLLERR.into(),
        "POLLHUP" | "EPOLLHUP" => libc::POLLHUP.into(),
        "POLLPRI" | "EPOLLPRI" => libc::POLLPRI.into(),
        "POLLRDHUP" | "EPOLLRDHUP" => libc::POLLRDHUP.into(),
        "EPOLLET" => i64::from(libc::EPOLLET as u32),
        "EPOLLONESHOT" => i64::from(libc::EPOLLONESHOT as u32),
        "EPOLLEXCLUSIVE" => 1 << 28,
        "EPOLL_CTL_ADD" => libc::EPOLL_CTL_ADD.into(),
        "EPOLL_CTL_MOD" => libc::EPOLL_CTL_MOD.into(),
        "EPOLL_CTL_DEL" => libc::EPOLL_CTL_DEL.into(),
        "SIOCINQ" | "FIONREAD" => 0x541b,
        "SIOCOUTQ" | "TIOCOUTQ" => 0x5411,
        "SIOCOUTQNSD" => 0x894b,
        "SIOCATMARK" => 0x8905,
        "FIONBIO" => 0x5421,
        "ECONNREFUSED" => libc::ECONNREFUSED.into(),
        "ECONNRESET" => libc::ECONNRESET.into(),
        "ETIMEDOUT" => libc::ETIMEDOUT.into(),
        "EHOSTUNREACH" => libc::EHOSTUNREACH.into(),
        "SO_MARK" => libc::SO_MARK.into(),
        _ => return NOTICES.iter().find(|(known, _)| *known == name).map(|(_, value)| *value),
    })
}

/// Reads a script; `defines` are names that stand for text.
pub fn parse(text: &str, defines: &HashMap<String, String>) -> Result<Script, String> {
    let mut reader = Reader { bytes: text.as_bytes(), at: 0, defines };
    let mut script = Script::default();
    loop {
        reader.space();
        if reader.at == reader.bytes.len() {
            return Ok(script);
        }
        let line = reader.line();
        let mut event = |reader: &mut Reader<'_>| -> Result<(), String> {
            if reader.eat("--") {
                let end = reader.rest().find('\n').unwrap_or(reader.rest().len());
                let text = reader.rest()[..end].split("//").next().unwrap_or("").trim().to_owned();
                reader.at += end;
                let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                script.options.insert(name.to_owned(), value.to_owned());
                return Ok(());
            }
            script.events.push(reader.event(line)?);
            Ok(())
        };
        event(&mut reader).map_err(|error| format!("line {line}: {error}"))?;
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    defines: &'a HashMap<String, String>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        core::str::from_utf8(&self.bytes[self.at..]).unwrap_or("")
    }

    fn line(&self) -> usize {
        1 + self.bytes[..self.at].iter().filter(|byte| **byte == b'\n').count()
    }

    /// Skips blanks and comments.
    fn space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("//") || trimmed.starts_with('#') {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                self.at += trimmed.find("*/").map_or(trimmed.len(), |end| end + 2);
            } else {
                return;
            }
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn need(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}` before `{}`", self.ahead())) }
    }

    fn ahead(&self) -> String {
        self.rest().chars().take(24).collect::<String>().replace('\n', "\\n")
    }

    /// The longest run of characters that `belongs` takes.
    fn word(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        self.space();
        let rest = self.rest();
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn name(&mut self) -> &'a str {
        self.word(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    fn until(&mut self, end: &str) -> Result<String, String> {
        let rest = self.rest();
        let len = rest.find(end).ok_or_else(|| format!("no `{end}` follows"))?;
        self.at += len + end.len();
        Ok(rest[..len].to_owned())
    }

    fn number<T: core::str::FromStr>(&mut self) -> Result<T, String> {
        let word = self.word(|c| c.is_ascii_digit());
        word.parse().map_err(|_| format!("expected a number before `{}`", self.ahead()))
    }

    /// Seconds, in microseconds.
    fn seconds(&mut self) -> Result<i64, String> {
        self.space();
        let rest = self.rest().as_bytes();
        let mut end = 0;
        while end < rest.len()
            && (rest[end].is_ascii_digit() || (rest[end] == b'.' && rest.get(end + 1) != Some(&b'.')))
        {
            end += 1;
        }
        let text = &self.rest()[..end];
        let seconds: f64 = text.parse().map_err(|_| format!("expected a time before `{}`", self.ahead()))?;
        self.at += end;
        Ok((seconds * 1e6).round() as i64)
    }

    fn event(&mut self, line: usize) -> Result<Event, String> {
        let (mut when, mut until) = (When::After(0), None);
        if self.eat("*") {
            when = When::Any;
        } else if self.eat("+") {
            let start = self.seconds()?;
            when = When::After(start);
            if self.eat("...") {
                until = Some(self.seconds()?);
            } else if self.eat("~") {
                self.eat("+");
                when = When::Between(start, self.seconds()?);
            }
        } else if self.rest().starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            let start = self.seconds()?;
            when = When::At(start);
            if self.eat("...") {
                until = Some(self.seconds()?);
            }
        }
        let action = self.action()?;
        Ok(Event { line, when, until, action })
    }

    fn action(&mut self) -> Result<Action, String> {
        if self.eat("`") {
            return Ok(Action::Shell(self.until("`")?));
        }
        if self.eat("%{") {
            return Ok(Action::Python(self.until("}%")?));
        }
        if self.eat("<") {
            return Ok(Action::Inject(self.packet()?));
        }
        if self.eat(">") {
            return Ok(Action::Expect(self.packet()?));
        }
        Ok(Action::Call(self.call()?))
    }

    // ---- packets

    fn packet(&mut self) -> Result<Packet, String> {
        if self.eat("icmp") {
            return self.icmp();
        }
        let mut segment = Segment::default();
        if self.eat("[") {
            segment.ecn = match self.until("]")?.trim() {
                "noecn" => Some(0),
                "ect1" => Some(1),
                "ect0" => Some(2),
                "ce" => Some(3),
                other => return Err(format!("cannot match `{other}` of an IP header")),
            };
        }
        // A digit is the value of AccECN's three bits.
        let flags = self.word(|c| "FSRPEWCAUN.-01234567".contains(c));
        if flags.is_empty() {
            return Err(format!("expected flags before `{}`", self.ahead()));
        }
        for flag in flags.chars() {
            segment.flags |= match flag {
                'F' => 0x01,
                'S' => 0x02,
                'R' => 0x04,
                'P' => 0x08,
                '.' => 0x10,
                'U' => 0x20,
                'E' => 0x40,
                'W' | 'C' => 0x80,
                'A' | 'N' => 0x100,
                ace @ '0'..='7' => (ace as u16 - '0' as u16) << 6,
                _ => 0,
            };
        }
        segment.seq = self.number()?;
        self.need(":")?;
        let _end: u32 = self.number()?;
        self.need("(")?;
        segment.len = self.number()?;
        self.need(")")?;
        if self.eat("ack") {
            segment.ack = Some(self.number()?);
        }
        if self.eat("win") {
            segment.window = Some(self.number()?);
        }
        if self.eat("urg") {
            segment.urgent = self.number()?;
        }
        segment.options = Some(Vec::new());
        if self.rest().trim_start_matches([' ', '\t']).starts_with('<') {
            self.need("<")?;
            segment.options = self.options()?;
        }
        Ok(Packet::Tcp(segment))
    }

    fn icmp(&mut self) -> Result<Packet, String> {
        let kind = self.name();
        let mut code = match kind {
            "unreachable" => self.name().to_owned(),
            "packet_too_big" => "frag_needed".to_owned(),
            _ => return Err(format!("cannot send ICMP {kind}")),
        };
        let mut mtu = 0;
        if code == "mtu" {
            mtu = self.number()?;
            code = "frag_needed".to_owned();
        } else if self.eat("mtu") {
            mtu = self.number()?;
        }
        self.need("[")?;
        let seq = self.number()?;
        self.until("]")?;
        Ok(Packet::Icmp { code, mtu, seq })
    }

    fn options(&mut self) -> Result<Option<Vec<TcpOption>>, String> {
        if self.eat("...") {
            self.need(">")?;
            return Ok(None);
        }
        let mut options = Vec::new();
        loop {
            let name = self.name();
            options.push(match name {
                "mss" => TcpOption::Mss(self.number()?),
                "sackOK" => TcpOption::SackOk,
                "nop" => TcpOption::Nop,
                "eol" => TcpOption::Eol,
                "wscale" => TcpOption::Wscale(self.number()?),
                "TS" => {
                    self.need("val")?;
                    let val = self.number()?;
                    self.need("ecr")?;
                    TcpOption::Ts(val, self.number()?)
                }
                "sack" => {
                    let mut blocks = Vec::new();
                    while self.rest().trim_start().starts_with(|c: char| c.is_ascii_digit()) {
                        let start = self.number()?;
                        self.need(":")?;
                        blocks.push((start, self.number()?));
                    }
                    TcpOption::Sack(blocks)
                }
                "FO" => TcpOption::FastOpen(self.hex()?),
                "FOEXP" => TcpOption::FastOpenExperimental(self.hex()?),
                "md5" => TcpOption::Md5(self.hex()?),
                "ECN" => self.accurate_ecn()?,
                other => return Err(format!("unknown TCP option `{other}`")),
            });
            if self.eat(">") {
                return Ok(Some(options));
            }
            self.need(",")?;
        }
    }

    fn hex(&mut self) -> Result<Vec<u8>, String> {
        let word = self.name();
        let word = self.defines.get(word).map_or(word, String::as_str);
        if word.len() % 2 == 1 {
            return Err(format!("`{word}` has half a byte"));
        }
        let byte =
            |i: usize| u8::from_str_radix(&word[i..i + 2], 16).map_err(|_| format!("not hex: `{word}`"));
        (0..word.len()).step_by(2).map(byte).collect()
    }

    fn accurate_ecn(&mut self) -> Result<TcpOption, String> {
        let (mut kind, mut counters) = (172, Vec::new());
        loop {
            self.space();
            match self.rest().get(..3) {
                Some(name @ ("e0b" | "ceb" | "e1b")) => {
                    if counters.is_empty() && name == "e1b" {
                        kind = 174;
                    }
                    self.at += 3;
                    counters.push(self.number()?);
                }
                _ => return Ok(TcpOption::AccEcn(kind, counters)),
            }
        }
    }

    // ---- calls

    fn call(&mut self) -> Result<Call, String> {
        let name = self.name().to_owned();
        if name.is_empty() {
            return Err(format!("cannot read `{}`", self.ahead()));
        }
        self.need("(")?;
        let mut args = Vec::new();
        while !self.eat(")") {
            args.push(self.arg()?);
            if !self.rest().trim_start().starts_with(')') {
                self.need(",")?;
            }
        }
        self.need("=")?;
        let result = self.arg()?;
        let mut errno = None;
        let blanks = |c| c == ' ' || c == '\t';
        if self.rest().trim_start_matches(blanks).starts_with('E') {
            errno = Some(self.name().to_owned());
        }
        if self.rest().trim_start_matches(blanks).starts_with('(') {
            self.need("(")?;
            self.until(")")?;
        }
        Ok(Call { name, args, result, errno })
    }

    fn arg(&mut self) -> Result<Arg, String> {
        if self.eat("...") {
            return Ok(Arg::Any);
        }
        if self.eat("[") {
            let mut items = Vec::new();
            while !self.eat("]") {
                items.push(self.arg()?);
                self.eat(",");
            }
            return Ok(Arg::List(items));
        }
        if self.eat("{") {
            return self.structure();
        }
        if self.eat("\"") {
            return self.text();
        }
        let mut value = self.term()?;
        while self.eat("|") {
            value |= self.term()?;
        }
        Ok(Arg::Int(value))
    }

    fn structure(&mut self) -> Result<Arg, String> {
        let mut fields = Vec::new();
        while !self.eat("}") {
            let start = self.at;
            let mut name = self.name().to_owned();
            // `msg_iov(2)=` and `msg_name(...)=`.
            if !name.is_empty() && self.eat("(") {
                self.until(")")?;
            }
            if name.is_empty() || !self.eat("=") {
                self.at = start;
                name.clear();
            }
            fields.push((name, self.arg()?));
            self.eat(",");
        }
        Ok(Arg::Struct(fields))
    }

    fn text(&mut self) -> Result<Arg, String> {
        let text = self.until("\"")?;
        let mut bytes = Vec::new();
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            if let Some(byte) = rest.strip_prefix("\\x").and_then(|rest| rest.get(..2)) {
                bytes.push(u8::from_str_radix(byte, 16).map_err(|_| format!("bad escape `\\x{byte}`"))?);
                rest = &rest[4..];
            } else {
                bytes.extend_from_slice(c.to_string().as_bytes());
                rest = &rest[c.len_utf8()..];
            }
        }
        Ok(Arg::Text(bytes))
    }

    fn term(&mut self) -> Result<i64, String> {
        let negative = self.eat("-");
        let word = self.name();
        let word = self.defines.get(word).map_or(word, String::as_str);
        let value = if let Some(hex) = word.strip_prefix("0x") {
            i64::from_str_radix(hex, 16).ok()
        } else {
            word.parse().ok().or_else(|| symbol(word))
        };
        let value = value.ok_or_else(|| format!("unknown name `{word}` before `{}`", self.ahead()))?;
        Ok(if negative { -value } else { value })
    }
}
