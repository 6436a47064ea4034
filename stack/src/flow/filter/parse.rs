//! A text of rules, line by line: sections (`*filter` ... `COMMIT`), chains (`:NAME POLICY`, `-N`, `-P`), rules (`-A`, `-I`), and
//! sets in ipset's words (`create`, `add`). The words of one rule are [`super::options`]'s.

use super::error::RuleError;
use super::options::{self, Words};
use super::rule::{Hook, Table};
use super::set::AddressSet;
use super::words::{self, Word};
use super::{Chain, Policy, RuleSet, link};

/// Longest chain name (iptables': 28 characters and a NUL).
const CHAIN_NAME_MAX: usize = 28;
/// Longest set name (ipset's).
const SET_NAME_MAX: usize = 31;

/// What is wrong with one line.
pub(super) struct Problem {
    pub(super) column: u32,
    pub(super) reason: String,
}

/// Whether it can stand for itself where it is printed.
fn is_name(text: &str, most: usize) -> bool {
    let fits = |char: char| !char.is_whitespace() && !char.is_control() && !matches!(char, '"' | '\'' | '\\');
    (1..=most).contains(&text.len()) && text.chars().all(fits)
}

pub(super) fn problem(column: u32, reason: impl Into<String>) -> Problem {
    Problem { column, reason: reason.into() }
}

pub(super) fn parse(text: &str, file: &str) -> Result<RuleSet, RuleError> {
    let mut reader = Reader { set: RuleSet::default(), section: None };
    let error = |line: u32, problem: Problem| RuleError {
        file: file.to_owned(),
        line,
        column: problem.column,
        reason: problem.reason,
    };
    let mut last = 0;
    for (text, number) in text.lines().zip(1u32..) {
        last = number;
        reader.line(text, number).map_err(|problem| error(number, problem))?;
    }
    if let Some((table, line)) = reader.section {
        let reason = format!("`*{}` of line {line} is not ended by `COMMIT`", table.name());
        return Err(error(last, problem(1, reason)));
    }
    link::check(&reader.set).map_err(|(line, problem)| error(line, problem))?;
    Ok(reader.set)
}

struct Reader {
    set: RuleSet,
    /// The table of the section being read, and the line where that began.
    section: Option<(Table, u32)>,
}

impl Reader {
    fn line(&mut self, text: &str, number: u32) -> Result<(), Problem> {
        let trimmed = text.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            return Ok(());
        }
        let words = words::split(text).map_err(|column| problem(column, "this quote is not closed"))?;
        let Some(first) = words.first() else { return Ok(()) };
        match first.text.as_str() {
            "COMMIT" => self.commit(&words),
            "create" | "add" => self.ipset(&words),
            text if text.starts_with('*') => self.begin_section(first, number),
            text if text.starts_with(':') => self.chain_line(&words),
            _ => self.command(&words, number),
        }
    }

    fn begin_section(&mut self, word: &Word, number: u32) -> Result<(), Problem> {
        if let Some((table, line)) = self.section {
            return Err(problem(
                word.column,
                format!("`*{}` of line {line} is not ended by `COMMIT`", table.name()),
            ));
        }
        let table = table_named(&word.text[1..], word.column + 1)?;
        self.section = Some((table, number));
        self.set.table_mut(table);
        Ok(())
    }

    fn commit(&mut self, words: &[Word]) -> Result<(), Problem> {
        if self.section.take().is_none() {
            return Err(problem(words[0].column, "`COMMIT` without a `*table` before it"));
        }
        nothing_more(&words[1..])
    }

    /// `:NAME POLICY [packets:bytes]`.
    fn chain_line(&mut self, words: &[Word]) -> Result<(), Problem> {
        let Some((table, _)) = self.section else {
            return Err(problem(
                words[0].column,
                "a chain outside a section: begin with `*filter`, `*nat`, `*mangle` or `*raw`",
            ));
        };
        let name = Word { text: words[0].text[1..].to_owned(), column: words[0].column + 1 };
        let Some(policy) = words.get(1) else {
            return Err(problem(
                name.column,
                "a policy is missing: ACCEPT, DROP, or - for a chain of your own",
            ));
        };
        if let Some(counters) = words.get(2) {
            check_counters(counters)?;
            nothing_more(&words[3..])?;
        }
        if policy.text == "-" {
            if is_built_in(table, &name.text) {
                return Err(problem(
                    policy.column,
                    format!("{} is built in and needs a policy: ACCEPT or DROP", name.text),
                ));
            }
            // iptables-restore makes a chain anew when it is declared again.
            return self.new_chain(table, &name, true);
        }
        self.set_policy(table, &name, policy)
    }

    /// An `iptables` line, with or without that word: options that name the table, then a command.
    fn command(&mut self, words: &[Word], number: u32) -> Result<(), Problem> {
        let mut words = Words::new(words);
        let mut family = super::Family::Any;
        // Scripts may name the program by its path.
        match words.peek().map(|word| word.text.rsplit('/').next().unwrap_or_default()) {
            Some("iptables") => {
                family = super::Family::Ipv4;
                words.next();
            }
            Some("ip6tables") => {
                family = super::Family::Ipv6;
                words.next();
            }
            Some(text) if text.starts_with('[') => {
                // Counters before a rule, as `iptables-save -c` prints them.
                check_counters(words.peek().expect("just seen"))?;
                words.next();
            }
            _ => {}
        }
        let mut table = self.section.map(|(table, _)| table);
        loop {
            let Some(word) = words.next() else {
                return Err(problem(words.end(), "a command is missing: -A, -I, -P, -N, -F or -X"));
            };
            match word.text.as_str() {
                "-t" | "--table" => {
                    let name = words.value(word, "a table: filter, nat, mangle or raw")?;
                    let named = table_named(&name.text, name.column)?;
                    if let Some((section, line)) = self.section.filter(|(section, _)| *section != named) {
                        let reason = format!("this line stands in `*{}` of line {line}", section.name());
                        return Err(problem(name.column, reason));
                    }
                    table = Some(named);
                }
                "-4" | "--ipv4" => family = super::Family::Ipv4,
                "-6" | "--ipv6" => family = super::Family::Ipv6,
                // Nobody else has the table, and it may be waited for as long as one likes.
                "-w" | "--wait" => {
                    if words.peek().is_some_and(|word| word.text.bytes().all(|byte| byte.is_ascii_digit())) {
                        words.next();
                    }
                }
                command => {
                    let command = Word { text: command.to_owned(), column: word.column };
                    return self.chain_command(
                        table.unwrap_or(Table::Filter),
                        family,
                        &command,
                        words,
                        number,
                    );
                }
            }
        }
    }

    fn chain_command(
        &mut self,
        table: Table,
        family: super::Family,
        command: &Word,
        mut words: Words<'_>,
        number: u32,
    ) -> Result<(), Problem> {
        match command.text.as_str() {
            "-A" | "--append" | "-I" | "--insert" => {
                let chain = words.value(command, "a chain")?.clone();
                let insert = matches!(command.text.as_str(), "-I" | "--insert");
                let mut place = None;
                if insert && let Some(number) = words.peek().and_then(|word| word.text.parse::<usize>().ok())
                {
                    place = Some((number, words.next().expect("just seen").column));
                }
                let rules = options::rules(words, family, number)?;
                let chains = self.set.table_mut(table);
                let Some(chain_rules) = chains.iter_mut().find(|known| known.name == chain.text) else {
                    return Err(problem(chain.column, no_chain(table, &chain.text)));
                };
                let len = chain_rules.rules.len();
                let at = match place {
                    None if insert => 0,
                    None => len,
                    Some((number, column)) if number == 0 || number > len + 1 => {
                        return Err(problem(
                            column,
                            format!("the chain has {len} rules: 1 to {} is possible", len + 1),
                        ));
                    }
                    Some((number, _)) => number - 1,
                };
                // As in iptables, of several to be inserted each is put in front of those before.
                for (further, rule) in rules.into_iter().enumerate() {
                    chain_rules.rules.insert(if insert { at } else { at + further }, rule);
                }
                Ok(())
            }
            "-P" | "--policy" => {
                let chain = words.value(command, "a chain")?.clone();
                let policy = words.value(command, "a policy: ACCEPT or DROP")?.clone();
                words.end_here()?;
                self.set_policy(table, &chain, &policy)
            }
            "-N" | "--new-chain" => {
                let chain = words.value(command, "a name")?.clone();
                words.end_here()?;
                self.new_chain(table, &chain, false)
            }
            "-F" | "--flush" => {
                let chain = words.next().cloned();
                words.end_here()?;
                let chains = self.set.table_mut(table);
                match chain {
                    None => chains.iter_mut().for_each(|chain| chain.rules.clear()),
                    Some(name) => match chains.iter_mut().find(|chain| chain.name == name.text) {
                        Some(chain) => chain.rules.clear(),
                        None => return Err(problem(name.column, no_chain(table, &name.text))),
                    },
                }
                Ok(())
            }
            "-X" | "--delete-chain" => {
                let chain = words.next().cloned();
                words.end_here()?;
                self.delete_chains(table, chain.as_ref())
            }
            // Counters begin at 0 anyway.
            "-Z" | "--zero" => {
                words.next();
                words.end_here()
            }
            "-D" | "--delete" | "-R" | "--replace" | "-E" | "--rename-chain" | "-C" | "--check" | "-L"
            | "--list" | "-S" | "--list-rules" => {
                let reason = format!(
                    "`{}` makes no sense in a file, which says what there is in the end: -A, -I, -P, -N, -F or -X",
                    command.text
                );
                Err(problem(command.column, reason))
            }
            other => {
                Err(problem(command.column, format!("`{other}` is no command: -A, -I, -P, -N, -F or -X")))
            }
        }
    }

    /// `-X [NAME]`: chains of one's own that are empty and that no rule leads to; without a name, all.
    fn delete_chains(&mut self, table: Table, name: Option<&Word>) -> Result<(), Problem> {
        let chains = self.set.table_mut(table);
        let in_use = |chains: &[Chain], name: &str| {
            let leads = chains
                .iter()
                .flat_map(|chain| &chain.rules)
                .any(|rule| link::chain_of(&rule.target) == Some(name));
            leads || chains.iter().any(|chain| chain.name == name && !chain.rules.is_empty())
        };
        let Some(name) = name else {
            let free: Vec<bool> =
                chains.iter().map(|chain| chain.policy.is_none() && !in_use(chains, &chain.name)).collect();
            let mut free = free.into_iter();
            chains.retain(|_| !free.next().unwrap_or(false));
            return Ok(());
        };
        match chains.iter().position(|chain| chain.name == name.text) {
            None => Err(problem(name.column, no_chain(table, &name.text))),
            Some(at) if chains[at].policy.is_some() => {
                Err(problem(name.column, format!("{} is built in", name.text)))
            }
            Some(_) if in_use(chains, &name.text) => {
                Err(problem(name.column, format!("{} has rules, or one leads there: -F first", name.text)))
            }
            Some(at) => {
                chains.remove(at);
                Ok(())
            }
        }
    }

    fn new_chain(&mut self, table: Table, name: &Word, again: bool) -> Result<(), Problem> {
        if !is_name(&name.text, CHAIN_NAME_MAX) || name.text.starts_with(['-', '!']) {
            let reason = format!(
                "`{}` cannot be a chain's name: 1 to {CHAIN_NAME_MAX} characters, no space, not - or ! first",
                name.text
            );
            return Err(problem(name.column, reason));
        }
        if options::is_target_name(&name.text) {
            return Err(problem(name.column, format!("`{}` is a target's name", name.text)));
        }
        let chains = self.set.table_mut(table);
        match chains.iter_mut().find(|chain| chain.name == name.text) {
            Some(_) if !again => Err(problem(name.column, format!("chain {} exists already", name.text))),
            Some(chain) => {
                chain.rules.clear();
                Ok(())
            }
            None => {
                chains.push(Chain { name: name.text.clone(), policy: None, rules: Vec::new() });
                Ok(())
            }
        }
    }

    fn set_policy(&mut self, table: Table, name: &Word, policy: &Word) -> Result<(), Problem> {
        let value = match policy.text.as_str() {
            "ACCEPT" => Policy::Accept,
            "DROP" => Policy::Drop,
            other => return Err(problem(policy.column, format!("`{other}` is no policy: ACCEPT or DROP"))),
        };
        if table == Table::Nat && value == Policy::Drop {
            return Err(problem(policy.column, "the nat table is no place to drop: use the filter table"));
        }
        let chains = self.set.table_mut(table);
        match chains.iter_mut().find(|chain| chain.name == name.text) {
            Some(chain) if chain.policy.is_some() => {
                chain.policy = Some(value);
                Ok(())
            }
            Some(_) => Err(problem(name.column, format!("{} is not built in: it has no policy", name.text))),
            None => Err(problem(name.column, no_chain(table, &name.text))),
        }
    }

    /// `create NAME hash:ip|hash:net [options]`, `add NAME ADDRESS[/PREFIX]`.
    fn ipset(&mut self, words: &[Word]) -> Result<(), Problem> {
        let mut words = Words::new(words);
        let command = words.next().expect("the line has a word").clone();
        let name = words.value(&command, "a set's name")?.clone();
        if command.text == "create" {
            let kind = words.value(&command, "a type: hash:ip or hash:net")?.clone();
            let hosts_only = match kind.text.as_str() {
                "hash:ip" => true,
                "hash:net" => false,
                other => {
                    return Err(problem(
                        kind.column,
                        format!("`{other}` is no type known here: hash:ip or hash:net"),
                    ));
                }
            };
            while let Some(option) = words.next() {
                match option.text.as_str() {
                    // Both versions are held in one set, and tables grow by themselves.
                    "family" | "hashsize" | "maxelem" | "bucketsize" | "initval" => {
                        let option = option.clone();
                        words.value(&option, "a value")?;
                    }
                    "-exist" => {}
                    "timeout" | "counters" | "comment" | "skbinfo" | "forceadd" => {
                        let reason = format!(
                            "sets here hold networks and nothing else, until the file is read again: leave `{}` out",
                            option.text
                        );
                        return Err(problem(option.column, reason));
                    }
                    other => {
                        return Err(problem(option.column, format!("`{other}` is no option known here")));
                    }
                }
            }
            if !is_name(&name.text, SET_NAME_MAX) {
                let reason = format!("a set's name has 1 to {SET_NAME_MAX} characters, and no space");
                return Err(problem(name.column, reason));
            }
            let new = AddressSet::new(hosts_only);
            if self.set.sets.insert(name.text.clone(), new).is_some() {
                return Err(problem(name.column, format!("set {} exists already", name.text)));
            }
            return Ok(());
        }
        let network = words.value(&command, "an address or network")?.clone();
        words.end_here()?;
        let Some(set) = self.set.sets.get_mut(&name.text) else {
            return Err(problem(
                name.column,
                format!("there is no set {}: `create {} hash:net` first", name.text, name.text),
            ));
        };
        let cidr = options::network(&network)?;
        let whole = if cidr.addr.is_ipv4() { 32 } else { 128 };
        if set.hosts_only && cidr.prefix_len != whole {
            return Err(problem(
                network.column,
                format!("{} holds addresses only: create it as hash:net", name.text),
            ));
        }
        set.insert(cidr);
        Ok(())
    }
}

fn table_named(name: &str, column: u32) -> Result<Table, Problem> {
    Table::named(name).ok_or_else(|| {
        problem(column, format!("`{name}` is no table known here: filter, nat, mangle or raw"))
    })
}

fn is_built_in(table: Table, name: &str) -> bool {
    table.hooks().iter().any(|hook| hook.name() == name)
}

fn no_chain(table: Table, name: &str) -> String {
    match Hook::named(name) {
        Some(_) => format!("the {} table has no chain {name}", table.name()),
        None => format!("there is no chain {name} in the {} table: `-N {name}` first", table.name()),
    }
}

/// `[packets:bytes]`: read, and not used.
fn check_counters(word: &Word) -> Result<(), Problem> {
    let number = |text: &str| text.parse::<u64>().is_ok();
    let inside = word.text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match inside.and_then(|text| text.split_once(':')) {
        Some((packets, bytes)) if number(packets) && number(bytes) => Ok(()),
        _ => Err(problem(word.column, format!("`{}` is not [packets:bytes]", word.text))),
    }
}

fn nothing_more(words: &[Word]) -> Result<(), Problem> {
    words
        .first()
        .map_or(Ok(()), |word| Err(problem(word.column, format!("`{}` is too much here", word.text))))
}
