//! `--config FILE.toml`: the command line's options by the same names, options of one command in a table of its name.
//!
//! There is no second list of options: each key of the file becomes `--key=value` for clap, unless the command line
//! already said it. So a value is checked by the same parser, and a key that clap does not know is refused with its line.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use toml::de::{DeTable, DeValue};

use crate::cli::Cli;

/// Largest configuration file read, in bytes: a thousand times what all options need; a larger one is a mistaken path.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why no command came of the command line and the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The command line is wrong, or help was asked for: clap prints it.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The file is no TOML, or a key or value in it is wrong.
    #[error("{}:{line}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what would be right.
        message: String,
    },
}

/// Parses the command line and the configuration file that it names.
///
/// # Errors
/// As [`ConfigFileError`] says.
pub fn parse(argv: Vec<OsString>) -> Result<Cli, ConfigFileError> {
    let matches = Cli::command().try_get_matches_from(&argv)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let Some(path) = &cli.global.config else {
        return Ok(cli);
    };
    // A gateway's file is no list of options: the command reads it.
    if matches!(cli.command, crate::cli::Command::Gateway(_)) {
        return Ok(cli);
    }
    let text = read(path).map_err(|error| ConfigFileError::Read { path: path.clone(), error })?;
    merge(argv, &matches, path, &text)
}

/// Reads a file that may not be larger than a configuration can be.
pub(crate) fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("more than {FILE_BYTES_MAX} bytes are no configuration")));
    }
    Ok(text)
}

/// The command line with the file's keys added to it.
fn merge(argv: Vec<OsString>, matches: &ArgMatches, path: &Path, text: &str) -> Result<Cli, ConfigFileError> {
    let content = |span: Range<usize>, message: String| ConfigFileError::Content {
        path: path.to_owned(),
        line: text[..span.start.min(text.len())].matches('\n').count() + 1,
        message,
    };
    let table = DeTable::parse(text)
        .map_err(|error| content(error.span().unwrap_or(0..0), error.message().to_owned()))?;
    let root = built_command();
    let (chosen, chosen_matches) = matches.subcommand().expect("clap requires a subcommand");
    let mut argv = Appender { argv };
    let mut cli = None;
    for Found { span, key, value } in
        options(table.get_ref(), &root).map_err(|e| content(e.span, e.message))?
    {
        let applies = key.command.is_none_or(|command| command == chosen);
        let command = root.find_subcommand(chosen).expect("clap knows the chosen command");
        let Some(argument) =
            command.get_arguments().find(|argument| argument.get_long() == Some(&key.option))
        else {
            continue; // a shared option that this command does not have, such as `address` for `nic`
        };
        let id = argument.get_id().as_str();
        let said = chosen_matches.value_source(id);
        if !applies || matches!(said, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        argv.add(&key.option, value, argument.get_action().takes_values())
            .map_err(|message| content(span.clone(), message))?;
        let parsed = Cli::command().try_get_matches_from(&argv.argv).and_then(|m| Cli::from_arg_matches(&m));
        cli = Some(parsed.map_err(|error| content(span, first_paragraph(&error)))?);
    }
    match cli {
        Some(cli) => Ok(cli),
        None => Ok(Cli::from_arg_matches(matches)?),
    }
}

/// Where an option of the file stands.
struct Key {
    command: Option<String>,
    option: String,
}

/// An option of the file.
struct Found<'a> {
    span: Range<usize>,
    key: Key,
    value: &'a DeValue<'a>,
}

/// A key that nobody knows.
struct Unknown {
    span: Range<usize>,
    message: String,
}

/// Every option of the file, in the file's order; a key unknown to its command, or at the top to every command, is an error.
fn options<'a>(table: &'a DeTable<'a>, root: &Command) -> Result<Vec<Found<'a>>, Unknown> {
    let mut found = Vec::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if let Some(command) = root.find_subcommand(name).filter(|_| value.get_ref().is_table()) {
            for (key, value) in value.get_ref().as_table().expect("checked above") {
                check(command, std::slice::from_ref(&command), key.get_ref(), key.span(), Some(name))?;
                let key = Key { command: Some(name.to_owned()), option: key.get_ref().to_string() };
                found.push(Found { span: value.span(), key, value: value.get_ref() });
            }
        } else {
            let commands: Vec<&Command> = root.get_subcommands().collect();
            check(root, &commands, name, key.span(), None)?;
            let key = Key { command: None, option: name.to_owned() };
            found.push(Found { span: value.span(), key, value: value.get_ref() });
        }
    }
    found.sort_by_key(|found| found.span.start);
    Ok(found)
}

/// Whether one of `commands` has the option; at the top level only options that more than one of them have may stand.
fn check(
    root: &Command,
    commands: &[&Command],
    name: &str,
    span: Range<usize>,
    table: Option<&str>,
) -> Result<(), Unknown> {
    let known =
        |command: &&Command| command.get_arguments().any(|argument| argument.get_long() == Some(name));
    let having = commands.iter().filter(|command| known(command)).count();
    let needed = if table.is_some() { 1 } else { 2 };
    if having >= needed && !["config", "help", "version"].contains(&name) {
        return Ok(());
    }
    let message = match (having, table) {
        (_, Some(table)) => {
            format!("unknown key `{name}` in [{table}]; `bywash help {table}` lists what there is")
        }
        (0, None) => format!(
            "unknown key `{name}`; the keys are long options, such as those that `{} help http` lists",
            root.get_name()
        ),
        (_, None) => {
            let owner =
                commands.iter().find(|command| known(command)).map_or("", |command| command.get_name());
            format!("`{name}` is an option of `{owner}` alone: it belongs into the table [{owner}]")
        }
    };
    Err(Unknown { span, message })
}

/// A command line that grows by options, in front of a `--` if there is one.
struct Appender {
    argv: Vec<OsString>,
}

impl Appender {
    /// Adds the option with its value; an array repeats it, `false` leaves a flag out.
    fn add(&mut self, option: &str, value: &DeValue<'_>, takes_value: bool) -> Result<(), String> {
        let at = self.argv.iter().position(|argument| argument == "--").unwrap_or(self.argv.len());
        let insert = |argv: &mut Vec<OsString>, text: String| argv.insert(at, text.into());
        match (value, takes_value) {
            (DeValue::Boolean(true), false) => insert(&mut self.argv, format!("--{option}")),
            (DeValue::Boolean(false), false) => {}
            (_, false) => return Err(format!("`{option}` is either true or false")),
            (DeValue::Array(items), true) => {
                for item in items.iter().rev() {
                    insert(&mut self.argv, format!("--{option}={}", scalar(option, item.get_ref())?));
                }
            }
            (value, true) => insert(&mut self.argv, format!("--{option}={}", scalar(option, value)?)),
        }
        Ok(())
    }
}

/// A single value as it would be typed.
fn scalar(option: &str, value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Integer(_) => Err(format!("`{option}`: write the number in decimal")),
        other => Err(format!("`{option}` cannot be a {}", other.type_str())),
    }
}

/// The command with its global options passed on to the subcommands.
fn built_command() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// What clap has to say, without usage and hints about `--help`.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.trim_start_matches("error: ");
    text.split("\n\n").next().unwrap_or(text).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command as BywashCommand;

    fn merged(arguments: &[&str], text: &str) -> Result<Cli, String> {
        let argv: Vec<OsString> =
            std::iter::once("bywash").chain(arguments.iter().copied()).map(Into::into).collect();
        let matches = Cli::command().try_get_matches_from(&argv).unwrap();
        merge(argv, &matches, Path::new("b.toml"), text).map_err(|error| error.to_string())
    }

    fn http(cli: Cli) -> crate::cli::HttpArgs {
        match cli.command {
            BywashCommand::Http(args) => args,
            other => panic!("{other:?}"),
        }
    }

    const FILE: &str = "interface = 'eth9'\naddress = ['192.0.2.10/24', '2001:db8::10/64']\nlog = 'debug'\n\
                        [http]\nport = 8080\nlisting = true\nidle-timeout = '5s'\n[echo]\nport = 7777\n";

    #[test]
    fn shared_options_and_the_commands_own_table_apply() {
        let cli = merged(&["http"], FILE).unwrap();
        assert_eq!(cli.global.log, "debug");
        let args = http(cli);
        assert_eq!((args.port, args.listing, args.idle_timeout.as_secs()), (8080, true, 5));
        assert_eq!(args.stack.interface.as_deref(), Some("eth9"));
        assert_eq!(
            args.stack.address,
            ["192.0.2.10/24".parse().unwrap(), "2001:db8::10/64".parse().unwrap()]
        );
    }

    #[test]
    fn the_command_line_wins() {
        let args = http(merged(&["http", "--port", "81", "--address", "192.0.2.99/24"], FILE).unwrap());
        assert_eq!((args.port, args.stack.address.len()), (81, 1));
        assert_eq!(args.stack.address[0], "192.0.2.99/24".parse().unwrap());
        assert!(args.listing, "what the command line does not say comes from the file");
    }

    #[test]
    fn options_go_in_front_of_the_double_dash() {
        let cli = merged(&["ping", "--", "192.0.2.1"], "interface = 'eth9'\n[ping]\ncount = 3").unwrap();
        let BywashCommand::Ping(args) = cli.command else { panic!("not ping") };
        assert_eq!((args.count, args.stack.interface.as_deref()), (Some(3), Some("eth9")));
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line() {
        let error = merged(&["http"], "interface = 'x'\nadress = '192.0.2.1/24'\n").unwrap_err();
        assert!(error.starts_with("b.toml:2: unknown key `adress`"), "{error}");
        let error = merged(&["http"], "[echo]\n\nroot = '/'\n").unwrap_err();
        assert!(error.starts_with("b.toml:3: unknown key `root` in [echo]"), "{error}");
        let error = merged(&["http"], "listing = true\n").unwrap_err();
        assert!(error.contains("belongs into the table [http]"), "{error}");
        let error = merged(&["http"], "config = 'other.toml'\n").unwrap_err();
        assert!(error.starts_with("b.toml:1:"), "{error}");
    }

    #[test]
    fn wrong_values_are_refused_with_their_line() {
        for (text, line, word) in [
            ("interface = 'x'\nmtu = 'big'\n", 2, "big"),
            ("[http]\nport = 65536\n", 2, "65536"),
            ("[http]\nlisting = 'yes'\n", 2, "true or false"),
            ("[http]\nport = true\n", 2, "boolean"),
            ("address = [{a = 1}]\n", 1, "table"),
            ("interface = \n", 1, ""),
            ("share-address = true\naddress = ['192.0.2.1/24']\n", 2, "share-address"),
        ] {
            let error = merged(&["http"], text).unwrap_err();
            assert!(
                error.starts_with(&format!("b.toml:{line}: ")) && error.contains(word),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn tables_of_other_commands_change_nothing() {
        let args = http(merged(&["http"], "[echo]\nport = 9999\n").unwrap());
        assert_eq!(args.port, 80);
    }
}
