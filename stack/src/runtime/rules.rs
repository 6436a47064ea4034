//! Other rules for a running stack, from any thread.

use std::rc::Rc;
use std::sync::Arc;

use super::control::{ControlError, Handle};
use super::local::Local;
use crate::config::{ConfigError, FilterConfig};
use crate::flow::filter::RuleSet;

/// Why a running stack keeps its old rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// They are not for a host.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The runtime has ended, or a shard does not take commands.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl Handle {
    /// Gives every shard other rules, each between two bursts; connections and flows that were let through go on. A runtime
    /// whose configuration had no rules goes on without.
    ///
    /// # Errors
    /// See [`RulesError`]. Rules that are wrong reach no shard.
    pub fn set_rules(&self, rules: &Arc<RuleSet>) -> Result<(), RulesError> {
        let filter = FilterConfig::new(Arc::clone(rules), String::new());
        if !self.0.forwards {
            filter.validate()?;
        }
        for shard in 0..self.shards() {
            let rules = Arc::clone(rules);
            let set = move |local: &Rc<Local>| {
                let _ = local.with(|stack, now| stack.set_rules(now, rules));
            };
            self.send(shard, Box::new(set))?;
        }
        Ok(())
    }
}
