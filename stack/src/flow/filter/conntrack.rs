//! The options of `-m conntrack` and `-m state`.

use super::StateSet;
use super::names::protocol_number;
use super::options::{Draft, Words, network, port_range};
use super::parse::{Problem, problem};
use super::rule::{CtEnd, Match};
use super::words::Word;

/// One of them; `Ok(false)`: it is none.
pub(super) fn option(
    draft: &mut Draft,
    word: &Word,
    inverted: bool,
    words: &mut Words<'_>,
) -> Result<bool, Problem> {
    let name = word.text.as_str();
    if matches!(name, "--ctstate" | "--state") {
        let module = draft.module_of(word, &[if name == "--state" { "state" } else { "conntrack" }])?;
        let set = states(words.value(word, "states, such as NEW,ESTABLISHED")?)?;
        draft.add_to(module, inverted, Match::CtState(set));
        return Ok(true);
    }
    let is_port = |end: &CtEnd| name.strip_prefix(end.option()) == Some("port");
    let test = if name == "--ctproto" {
        let value = words.value(word, "a protocol, such as tcp")?;
        let number = protocol_number(&value.text).or_else(|| value.text.parse().ok());
        Match::CtProtocol(number.filter(|number| *number > 0).ok_or_else(|| {
            problem(value.column, format!("`{}` is no protocol: a name, or 1 to 255", value.text))
        })?)
    } else if let Some(end) = CtEnd::ALL.into_iter().find(|end| end.option() == name) {
        let value = words.value(word, "an address or network")?;
        let network = network(value)?;
        draft.see_network(&network, value.column)?;
        Match::CtAddress(end, network)
    } else if let Some(end) = CtEnd::ALL.into_iter().find(is_port) {
        Match::CtPort(end, port_range(words.value(word, "a port or first:last")?, ':')?)
    } else {
        return Ok(false);
    };
    let module = draft.module_of(word, &["conntrack"])?;
    draft.add_to(module, inverted, test);
    Ok(true)
}

/// `--ctstate` and `--state`: names in any case, or beginnings of them.
fn states(word: &Word) -> Result<StateSet, Problem> {
    let mut set = StateSet::default();
    for text in word.text.split(',') {
        let upper = text.to_ascii_uppercase();
        let begun = |name: &&&str| !upper.is_empty() && name.starts_with(&upper);
        let Some(name) = StateSet::NAMES.iter().find(begun) else {
            let reason = format!("`{text}` is no state: {}", StateSet::NAMES.join(", "));
            return Err(problem(word.column, reason));
        };
        set.add(name);
    }
    Ok(set)
}
