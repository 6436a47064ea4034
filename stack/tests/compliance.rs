//! COMPLIANCE.md: what the standards of TCP and of NAT demand, where that is met and where it is tested. The demands are listed in
//! `stack/compliance.toml`, the places are found by the citations in comments: `MUST-12` for RFC 9293's numbered
//! requirements, the standard and the requirement for those of NATs (`RFC 4787 REQ`, a dash, and `12b`), `RFC 7323 section 5.3` for
//! the other standards. The test fails for a demand that nothing cites and no reason excuses, for a citation of an unknown
//! number, and if the table in the repository is not the current one; `make compliance` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

const HEAD: &str = "# Compliance\n\n\
Written by `make compliance` from `stack/compliance.toml` and the citations in code and tests; do not edit.\n\n\
For RFC 9293 and the standards of NATs (RFC 4787, 5382, 5508) a place is listed where it cites the requirement's number. The \
other standards do not number theirs: a place is \
listed where it cites the section, for all requirements of that section. Demands are in our own words; the numbers \
behind the dash only count them. **Deviates** and **n/a** (not applicable) come with the reason.\n";

/// The standards, as the data file names them, and what the table calls them.
const STANDARDS: [(&str, &str); 9] = [
    ("9293", "RFC 9293, Transmission Control Protocol"),
    ("7323", "RFC 7323, Window scaling and timestamps"),
    ("8985", "RFC 8985, RACK-TLP"),
    ("7413", "RFC 7413, Fast Open"),
    ("5961", "RFC 5961, Blind in-window attacks"),
    ("4787", "RFC 4787, NAT and UDP"),
    ("5382", "RFC 5382, NAT and TCP"),
    ("5508", "RFC 5508, NAT and ICMP"),
    ("7857", "RFC 7857, Updates to these"),
];

/// Those whose requirements have numbers of the standard's own (`REQ-1`), cited behind the standard's.
const NUMBERED: [&str; 3] = ["4787", "5382", "5508"];

/// One demand of a standard.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Demand {
    id: String,
    /// Of the standard; where it does not number its requirements, the citation that counts.
    section: String,
    says: String,
    deviates: Option<String>,
    not_applicable: Option<String>,
}

/// Places by what they cite: numbers of RFC 9293 as they are, else `7323 5.3`, or the standard and its requirement.
#[derive(Default)]
struct Citations {
    code: BTreeMap<String, BTreeSet<String>>,
    tests: BTreeMap<String, BTreeSet<String>>,
}

#[test]
fn the_compliance_table_is_complete_and_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let list = std::fs::read_to_string(root.join("stack/compliance.toml")).unwrap();
    let demands: BTreeMap<String, Vec<Demand>> = toml::from_str(&list).unwrap();
    let mut citations = Citations::default();
    for directory in ["stack/src", "stack/tests", "apps/src", "apps/tests"] {
        for file in rust_files(&root.join(directory)) {
            let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if !name.ends_with("tests/compliance.rs") {
                citations
                    .read(name.trim_start_matches("stack/src/"), &std::fs::read_to_string(&file).unwrap());
            }
        }
    }
    let (table, mut complaints) = tabulate(&demands, &citations);
    let known: BTreeSet<String> = ["9293"]
        .iter()
        .chain(&NUMBERED)
        .flat_map(|number| demands[*number].iter().map(|demand| key_of(number, demand)))
        .collect();
    let is_number = |key: &str| !key.contains(' ') || key.contains(REQUIREMENT);
    let numbers = citations.code.iter().chain(&citations.tests).filter(|(key, _)| is_number(key));
    complaints.extend(
        numbers
            .filter(|(key, _)| !known.contains(*key))
            .map(|(key, places)| format!("{key}, cited by {places:?}, is not in compliance.toml")),
    );
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    let path = root.join("COMPLIANCE.md");
    if std::env::var_os("BYWASH_WRITE_COMPLIANCE").is_some() {
        std::fs::write(path, table).unwrap();
    } else {
        assert!(
            std::fs::read_to_string(path).unwrap() == table,
            "COMPLIANCE.md is old: run `make compliance`"
        );
    }
}

fn tabulate(demands: &BTreeMap<String, Vec<Demand>>, citations: &Citations) -> (String, Vec<String>) {
    let (mut out, mut complaints) = (HEAD.to_owned(), Vec::new());
    for (number, title) in STANDARDS {
        let _ = write!(out, "\n## {title}\n\n| | Demand | Met in | Tested by |\n|---|---|---|---|\n");
        for demand in &demands[number] {
            let key = key_of(number, demand);
            let code = places(&citations.code, &key);
            let tests = places(&citations.tests, &key);
            let reason = match (&demand.deviates, &demand.not_applicable) {
                (Some(why), _) => format!("<br>**Deviates**: {why}"),
                (_, Some(why)) => format!("<br>**n/a**: {why}"),
                _ => String::new(),
            };
            if code.is_empty() && tests.is_empty() && reason.is_empty() {
                complaints.push(format!(
                    "RFC {number} {} ({}): cited nowhere, without a reason",
                    demand.id, demand.says
                ));
            }
            let cell = |places: String| if places.is_empty() { "—".to_owned() } else { places };
            let Demand { id, section, says, .. } = demand;
            let numbered = number == "9293" || NUMBERED.contains(&number);
            let id = if numbered { format!("{id} ({section})") } else { id.clone() };
            let _ = writeln!(out, "| {id} | {says}{reason} | {} | {} |", cell(code), cell(tests));
        }
    }
    (out, complaints)
}

/// The citation of a demand.
fn key_of(number: &str, demand: &Demand) -> String {
    match number {
        "9293" => demand.id.clone(),
        _ if NUMBERED.contains(&number) => format!("{number} {}", demand.id),
        _ => format!("{number} {}", demand.section),
    }
}

fn places(all: &BTreeMap<String, BTreeSet<String>>, key: &str) -> String {
    let quoted = |place: &String| format!("`{place}`");
    all.get(key).into_iter().flatten().map(quoted).collect::<Vec<_>>().join("<br>")
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

impl Citations {
    /// Takes the citations of a file: a comment's place is the item it documents, or the function it is in.
    fn read(&mut self, name: &str, source: &str) {
        let lines: Vec<&str> = source.lines().collect();
        let mut in_tests = name.contains("tests") || name.contains("testing");
        let mut function = String::new();
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at].trim();
            in_tests |= line.starts_with("mod tests {");
            if let Some(item) = item_of(line).filter(|_| line.contains("fn ")) {
                function = item;
            }
            let Some(begin) = line.find("//") else {
                at += 1;
                continue;
            };
            let mut comment = line[begin..].trim_start_matches(['/', '!']).to_owned();
            let whole_line = begin == 0;
            at += 1;
            while whole_line && at < lines.len() && lines[at].trim().starts_with("//") {
                comment.push_str(lines[at].trim().trim_start_matches(['/', '!']));
                at += 1;
            }
            let documented = || {
                let next = lines[at..].iter().map(|line| line.trim()).find(|line| !line.starts_with("#["));
                next.and_then(item_of)
            };
            let item = match line {
                _ if line.starts_with("//!") => None,
                _ if line.starts_with("///") => documented(),
                _ => Some(function.clone()).filter(|function| !function.is_empty()),
            };
            let place = item.map_or(name.to_owned(), |item| format!("{name}: {item}"));
            let found = if in_tests { &mut self.tests } else { &mut self.code };
            for key in cited(&comment) {
                found.entry(key).or_default().insert(place.clone());
            }
        }
    }
}

/// The name of the function, type, constant, field or variant that a line begins.
fn item_of(line: &str) -> Option<String> {
    let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    let noise = [
        "pub",
        "super",
        "crate",
        "const",
        "static",
        "fn",
        "struct",
        "enum",
        "trait",
        "type",
        "mod",
        "macro_rules",
    ];
    words.into_iter().find(|word| !noise.contains(word)).map(str::to_owned)
}

/// How the numbers of [`NUMBERED`] begin.
const REQUIREMENT: &str = "REQ-";

/// What a comment cites.
fn cited(comment: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let words: Vec<&str> = comment.split_whitespace().collect();
    let clean =
        |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).trim_end_matches("'s").to_owned();
    let mut standard_of_next = None;
    for (at, word) in words.iter().enumerate() {
        let number = clean(word);
        // Requirements in a row are of the standard before them; one without a standard is of none.
        if number.starts_with(REQUIREMENT) {
            let standard = standard_of_next.clone().or_else(|| {
                let before = words.get(at.checked_sub(2)?..at)?;
                (clean(before[0]) == "RFC").then(|| clean(before[1]))
            });
            keys.push(standard.as_ref().map_or(number.clone(), |standard| format!("{standard} {number}")));
            standard_of_next = standard;
            continue;
        }
        if number != "and" && number != "to" {
            standard_of_next = None;
        }
        if let Some((kind, digits)) = number.split_once('-')
            && ["MUST", "SHLD", "MAY", "REC"].contains(&kind)
            && digits.parse::<u16>().is_ok()
        {
            keys.push(number);
        } else if number == "RFC" && words.get(at + 2).is_some_and(|word| word.starts_with("section")) {
            let standard = clean(words[at + 1]);
            for word in &words[at + 3..] {
                let section = clean(word);
                if section.starts_with(|c: char| c.is_ascii_digit()) {
                    keys.push(format!("{standard} {section}"));
                } else if section != "and" && section != "to" {
                    break;
                }
            }
        }
    }
    keys
}
