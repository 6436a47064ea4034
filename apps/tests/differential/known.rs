//! Where the routers differ and are meant to, each with its reason. The test fails on a difference that is not here, and on
//! one that is here and does not show.

/// Differences of one scenario that have one reason.
pub struct Known {
    pub scenario: &'static str,
    /// The steps in which they are, from 1.
    pub steps: &'static [usize],
    /// What their place begins with.
    pub place: &'static str,
    pub reason: &'static str,
}

pub const KNOWN: &[Known] = &[];
