//! Reads the whole event log and checks that it tells one consistent story.

use std::collections::BTreeMap;

use aito_api::Event;
use aito_client::{Client, EventQuery, Page};
use serde_json::Value;

/// Every event of the log, oldest first, read by pages through the API.
pub async fn whole_log(client: &Client) -> Vec<Event> {
    let mut events = Vec::new();
    let mut cursor = None;
    loop {
        let query = EventQuery { event_type: None, page: Page { limit: Some(500), cursor: cursor.clone() } };
        let page = client.events(&query).await.unwrap();
        events.extend(page.events);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    events.reverse();
    events
}

/// The number in a position.
pub fn number(position: &str) -> u64 {
    position.rsplit_once('-').unwrap_or_else(|| panic!("\"{position}\" is no position")).1.parse().unwrap()
}

/// Checks positions (1, 2, 3, … without holes), ids (no two alike), and per agent that incarnations begin
/// once each, rising, and that nothing is told of an incarnation before it began or after the next one did
/// (but that it is being stopped). Gives the last status that was told of each agent.
pub fn check(events: &[Event]) -> BTreeMap<String, String> {
    let mut ids = std::collections::BTreeSet::new();
    let mut last = BTreeMap::new();
    let mut begun: BTreeMap<String, u64> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(number(&event.position), index as u64 + 1, "a hole or double position at {event:?}");
        assert!(ids.insert(event.id), "event {} stands in the log twice", event.id);
        let text = |key: &str| event.payload.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let Some(agent) = text("agentType") else { continue };
        if let Some(incarnation) = event.payload.get("incarnation").and_then(Value::as_u64) {
            let known = begun.entry(agent.clone()).or_default();
            if event.event_type == "agent_starting" {
                assert!(
                    incarnation > *known,
                    "incarnation {incarnation} of {agent} began after {known}: {event:?}"
                );
                *known = incarnation;
            } else {
                assert_eq!(
                    incarnation, *known,
                    "told of another incarnation than the present one: {event:?}"
                );
            }
        }
        if let Some(status) = text("status") {
            last.insert(agent, status);
        }
    }
    last
}
