//! Containers as the engine shows them: `GET /containers`.
//!
//! Invariant: a container that only looks like an agent's is marked; nothing can be done to it through this interface.

use crate::ContainerStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name, the `containerId` of its agent.
    #[schema(examples("aito-ceo-abc123"))]
    pub container_id: String,
    /// The type of the agent that it belongs to; of a foreign one what it claims, null when it claims none.
    #[serde(rename = "type")]
    #[schema(required)]
    pub agent_type: Option<String>,
    /// The incarnation that it is; null for a foreign one.
    #[schema(required)]
    pub incarnation: Option<u64>,
    /// How it is.
    pub container_status: ContainerStatus,
    /// Whether it is the present incarnation of its agent.
    pub present: bool,
    /// Whether it is none of this installation: it is shown and never touched.
    pub foreign: bool,
    /// Whose a foreign one is, as far as can be told; null for one of ours.
    #[schema(required)]
    pub whose: Option<String>,
}

/// `GET /containers`: those of this installation by name, then the foreign ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerList {
    /// The containers.
    pub containers: Vec<Container>,
    /// The cursor of the next page; null on the last.
    #[serde(default)]
    #[schema(required)]
    pub next_cursor: Option<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shape_of_a_foreign_container() {
        let container = Container {
            container_id: "aito-ceo".to_owned(),
            agent_type: Some("ceo".to_owned()),
            incarnation: None,
            container_status: ContainerStatus::Running,
            present: false,
            foreign: true,
            whose: Some("compose project old".to_owned()),
        };
        assert_eq!(
            serde_json::to_value(ContainerList { containers: vec![container], next_cursor: None }).unwrap(),
            json!({
                "containers": [{
                    "containerId": "aito-ceo",
                    "type": "ceo",
                    "incarnation": null,
                    "containerStatus": "running",
                    "present": false,
                    "foreign": true,
                    "whose": "compose project old",
                }],
                "nextCursor": null,
            })
        );
    }
}
