//! What is wrong with a rule, and where.

use core::fmt;

/// A line that is refused: file, line, column and the reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleError {
    /// Name of the file, as it was given.
    pub file: String,
    /// Line, from 1 on.
    pub line: u32,
    /// Column of the first character of the word that is wrong, from 1 on.
    pub column: u32,
    /// What is wrong, and what would be right.
    pub reason: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.reason)
    }
}

impl std::error::Error for RuleError {}
