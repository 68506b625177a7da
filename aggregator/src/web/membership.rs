//! What the pages know of this aggregator's place in its consumer group.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

/// This aggregator's place in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupState {
    /// Not a member yet, or no longer; with the reason.
    Unknown(String),
    /// A member.
    Member {
        /// Its partitions by topic; none if others hold them all.
        by_topic: BTreeMap<String, Vec<i32>>,
        /// Those on which work has stopped, as `<topic>/<partition>`.
        stopped: Vec<String>,
    },
}

/// Tells the place at this moment; must not block.
pub type Membership = Arc<dyn Fn() -> GroupState + Send + Sync>;

/// The place as a page reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupView {
    /// Whether it is a member.
    pub member: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How many partitions it holds.
    pub partitions: usize,
    /// On which of them work has stopped, as `<topic>/<partition>`: their cameras stand still.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<String>,
    /// Which ones, by topic; left out where the count is enough.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_topic: BTreeMap<String, Vec<i32>>,
}

impl GroupView {
    /// Without the list, which is long and goes to every viewer every few seconds.
    pub fn in_short(self) -> Self {
        Self { by_topic: BTreeMap::new(), ..self }
    }
}

impl From<GroupState> for GroupView {
    fn from(state: GroupState) -> Self {
        match state {
            GroupState::Unknown(problem) => Self {
                member: false,
                problem: Some(problem),
                partitions: 0,
                stopped: Vec::new(),
                by_topic: BTreeMap::new(),
            },
            GroupState::Member { by_topic, stopped } => Self {
                member: true,
                problem: None,
                partitions: by_topic.values().map(Vec::len).sum(),
                stopped,
                by_topic,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_partitions_is_a_member() {
        let none = GroupState::Member { by_topic: BTreeMap::new(), stopped: Vec::new() };
        let view = GroupView::from(none);
        assert!(view.member);
        assert_eq!(view.partitions, 0);
    }
}
