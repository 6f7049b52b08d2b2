//! Two nodes that stand in for each other, whoever made them, as a turn sees them.

use crate::lab::Lab;
use crate::record::Scenario;

/// A pair.
pub(super) trait Duo {
    /// Starts both, and waits until one serves and the other knows all that it knows. Before a fail-back, the
    /// preferred node is then without power and the other serves.
    ///
    /// # Errors
    /// If that does not come about; with the ends of the logs.
    fn boot(&mut self, lab: &Lab, scenario: Scenario) -> anyhow::Result<()>;

    /// Established connections of the node that serves.
    fn established(&mut self, lab: &Lab) -> u64;

    /// Makes it happen; returns when no more has to be done.
    ///
    /// # Errors
    /// If it cannot be done.
    fn act(&mut self, lab: &Lab, scenario: Scenario) -> anyhow::Result<()>;

    /// How it sits on its interfaces, in words; none if there is nothing to say.
    fn mode(&mut self) -> Option<String>;

    /// Stops both, and takes away what they have left.
    ///
    /// # Errors
    /// If something stays.
    fn stop(&mut self, lab: &Lab) -> anyhow::Result<()>;

    /// Ends of the logs.
    fn tails(&self) -> String;
}
