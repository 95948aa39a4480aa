//! Fifty clients, seven agents that die again and again, and the tasks of all: each is done once, and in order.

use aito_harness::{Set, claims};

use crate::sandbox;

/// On SQLite with one server, on PostgreSQL with two.
pub(crate) async fn each_task_is_done_once_in_its_order_whoever_dies(set: Set) {
    let size = claims::Size::SHORT;
    let report = claims::run(&sandbox(set), set == Set::Servers, 20_261_126, size).await;
    println!("{report:?}");
    assert!(report.claims >= size.claims && report.granted >= size.tasks, "{report:?}");
    assert!(report.ended.iter().all(|ended| *ended > 0), "all ways to end must be gone: {report:?}");
    // Otherwise the run says nothing of what it is there for.
    assert!(report.deaths > 5 && report.releases > 5, "too little was taken back: {report:?}");
    assert!(report.aged > 5 && report.full > 20, "waiting and the limit decided too little: {report:?}");
}
