//! Lists of a company that has been at work for years, next to those of a young one.
//!
//! Invariants: two servers on one PostgreSQL, whose stores differ in the number of rows alone; each request to the one
//! is followed by the same request to the other, so that what slows the machine slows both; every page that is timed
//! has ten rows.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    large_rows::{self, Filled, LARGE, SMALL, Size},
    load::{Connection, Head, Request},
    scenario::{About, Context, Figure, Measured, Scenario, Subject, Target},
    stats::{Latencies, Spread},
};
use crate::wait;

/// Every list that grows with the company, and those that are bounded beside what grows.
const LISTS: [&str; 13] = [
    "/events",
    "/events?type=task_created",
    "/agents/cmo/events",
    "/tasks",
    "/tasks?status=pending",
    "/tasks?assignedTo=cmo",
    "/tasks?assignedTo=cmo&status=completed",
    "/agents/ceo/history",
    "/agents/cmo/mailbox",
    "/domains/whitelist",
    "/domains/approval-requests?status=approved",
    "/audit",
    "/audit?operation=tasks.create",
];

/// Rows of a page that is timed.
const PAGE: u64 = 10;
/// Rows before the 1,000th page.
const DEEP: u64 = 999 * PAGE;
/// The most rows of one answer.
const STRIDE: u64 = 500;
/// Requests of each page to each server in one measurement.
const REQUESTS: usize = 200;
/// How long one measurement may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Lists by cursor.
pub(crate) const LARGE_LISTS: About = About {
    name: "large_lists",
    what: "the first and the 1,000th page (limit=10, by cursor) of each list, with 10,000,000 events and 1,000,000 \
           tasks on PostgreSQL: the median of 200 requests, one after the other over one connection, of the page whose \
           ratio is the worst",
    reference: "the same requests, in turn with these, to a server whose store has 10,000 events and tasks; where a \
                list there is shorter than 1,000 pages, its last page",
    unit: "ms",
    target: Some(Target::AtMost(1.5)),
    on_servers: true,
    only_large: true,
    set_up: |context| Box::pin(set_up(context)),
};

async fn set_up(context: &Context) -> Result<Box<dyn Scenario>, String> {
    large_rows::room(&std::env::temp_dir())?;
    let small = Side::set_up(context, &SMALL).await?;
    let large = Side::set_up(context, &LARGE).await?;
    let mut pages = Vec::new();
    for list in LISTS {
        let first = Request::get(&with(list, "limit=10"));
        let name = format!("{list}, first page");
        pages.push(Page { name, large: first.clone(), small: first });
        let (in_small, in_large) = (small.deep(list).await?, large.deep(list).await?);
        let place = match (in_small.rows_before, in_large.rows_before) {
            (DEEP, DEEP) => "1,000th page".to_owned(),
            (rows, DEEP) => format!("1,000th page (the small one's last, {rows} rows deep)"),
            (rows, _) => format!("last page ({rows} rows deep in the small one)"),
        };
        let name = format!("{list}, {place}");
        pages.push(Page { name, large: in_large.request, small: in_small.request });
    }
    Ok(Box::new(Lists { large, small, pages, rounds: Vec::new(), reference: None }))
}

/// A server on a store of some size.
struct Side {
    subject: Subject,
    filled: Filled,
}

/// A page that is far from the first, of ten rows.
struct Deep {
    rows_before: u64,
    request: Request,
}

impl Side {
    async fn set_up(context: &Context, size: &Size) -> Result<Self, String> {
        let Subject { server, sandbox, .. } = Subject::on_servers(context).await?;
        server.stop().await;
        let filled = large_rows::fill(&sandbox.places().database_url, size).await?;
        Ok(Self { subject: Subject::start_in(sandbox).await?, filled })
    }

    /// The 1,000th page of a list, or the last whole one.
    async fn deep(&self, list: &str) -> Result<Deep, String> {
        let mut connection = Connection::open(&self.subject.address).await?;
        let (there, _) = walk(&mut connection, list, DEEP + PAGE).await?;
        if there < 2 * PAGE {
            return Err(format!("{list} has {there} rows: not two pages"));
        }
        let (rows_before, cursor) = walk(&mut connection, list, there - PAGE).await?;
        let cursor = cursor.ok_or_else(|| format!("{list} does not go on after {rows_before} rows"))?;
        Ok(Deep { rows_before, request: Request::get(&with(list, &format!("limit=10&cursor={cursor}"))) })
    }
}

/// Goes so many rows into a list, or to its end; gives how far that was, and the cursor there.
async fn walk(connection: &mut Connection, list: &str, rows: u64) -> Result<(u64, Option<String>), String> {
    let (mut done, mut cursor) = (0, None::<String>);
    while done < rows {
        let limit = format!("limit={}", STRIDE.min(rows - done));
        let place = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let answer = connection.answer(&Request::get(&with(list, &(limit + &place)))).await?;
        let (count, next) = page(&answer).map_err(|why| format!("{list}: {why}"))?;
        (done, cursor) = (done + count, next);
        if cursor.is_none() || count == 0 {
            break;
        }
    }
    Ok((done, cursor))
}

/// How many rows an answer has, and its `nextCursor`.
fn page(answer: &[u8]) -> Result<(u64, Option<String>), String> {
    let head = Head::of(answer)?.ok_or("an answer without a head")?;
    let body: Value = serde_json::from_slice(&answer[head.length..]).map_err(|why| why.to_string())?;
    let body = body.as_object().ok_or("no object")?;
    let rows = body.values().find_map(Value::as_array).ok_or("no rows")?;
    let cursor = body.get("nextCursor").ok_or("no nextCursor")?;
    Ok((rows.len() as u64, cursor.as_str().map(str::to_owned)))
}

/// A path with more to its query.
fn with(path: &str, query: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{query}")
}

/// One page, as it is asked for.
struct Page {
    name: String,
    large: Request,
    small: Request,
}

struct Lists {
    large: Side,
    small: Side,
    pages: Vec<Page>,
    /// Ratios of each page, of every measurement.
    rounds: Vec<Vec<f64>>,
    /// Of the measurement that was made last.
    reference: Option<Measured>,
}

impl Lists {
    /// The medians of every page, of both servers, in milliseconds.
    async fn medians(&self) -> Result<Vec<(f64, f64)>, String> {
        let mut large = Connection::open(&self.large.subject.address).await?;
        let mut small = Connection::open(&self.small.subject.address).await?;
        let mut medians = Vec::new();
        for page in &self.pages {
            let (mut of_large, mut of_small) = (Latencies::default(), Latencies::default());
            let since = wait::stopwatch();
            for _ in 0..REQUESTS {
                let began = since();
                large.call(&page.large).await?;
                let between = since();
                small.call(&page.small).await?;
                of_large.push(between - began);
                of_small.push(since() - between);
            }
            medians.push((of_large.percentile_ms(50.0), of_small.percentile_ms(50.0)));
        }
        Ok(medians)
    }

    /// A value for each page.
    fn figures(&self, unit: &'static str, values: impl Iterator<Item = f64>) -> Vec<Figure> {
        self.pages.iter().zip(values).map(|(page, value)| Figure::new(&page.name, value, unit)).collect()
    }
}

#[async_trait(?Send)]
impl Scenario for Lists {
    /// Measures both at once, as many requests as it takes.
    async fn measure_subject(&mut self, _time: Duration) -> Result<Measured, String> {
        let medians = tokio::time::timeout(PATIENCE, self.medians()).await;
        let medians = medians.map_err(|_| format!("not done within {PATIENCE:?}"))??;
        let ratio = |(large, small): &(f64, f64)| large / small;
        let worst = medians.iter().copied().max_by(|one, other| ratio(one).total_cmp(&ratio(other)));
        let (large, small) = worst.ok_or("no list was measured")?;
        self.rounds.push(medians.iter().map(ratio).collect());
        let of_small = self.figures("ms", medians.iter().map(|(_, small)| *small));
        self.reference = Some(Measured { value: small, figures: of_small });
        Ok(Measured { value: large, figures: self.figures("ms", medians.iter().map(|(large, _)| *large)) })
    }

    async fn measure_reference(&mut self, _time: Duration) -> Result<Measured, String> {
        self.reference.take().ok_or_else(|| "it is measured together with the subject".to_owned())
    }

    async fn facts(&mut self) -> Result<Vec<Figure>, String> {
        // The first measurement is dropped, as its pair is.
        let rounds = self.rounds.get(1..).unwrap_or_default();
        let of_page = |place: usize| rounds.iter().filter_map(|round| round.get(place).copied()).collect();
        let ratios: Vec<Vec<f64>> = (0..self.pages.len()).map(of_page).collect();
        let mut facts = self.figures("times", ratios.iter().map(|ratios| Spread::of(ratios).median));
        for (size, side) in [(&SMALL, &self.small), (&LARGE, &self.large)] {
            facts.push(Figure::new(format!("making {}", size.name), side.filled.time.as_secs_f64(), "s"));
            facts.push(Figure::new("its database", side.filled.bytes as f64 / f64::from(1 << 20), "MiB"));
        }
        Ok(facts)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;
    use crate::bench::bare::Responder;

    fn answer(body: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn rows_and_cursors_are_read_from_any_list() {
        let (rows, cursor) = page(&answer(r#"{"tasks": [1, 2], "total": 9, "nextCursor": "x-1"}"#)).unwrap();
        assert_eq!((rows, cursor.as_deref()), (2, Some("x-1")));
        assert_eq!(page(&answer(r#"{"audit": [], "nextCursor": null}"#)).unwrap(), (0, None));
        for bad in ["[]", r#"{"tasks": []}"#, r#"{"nextCursor": null}"#, "no"] {
            assert!(page(&answer(bad)).is_err(), "{bad}");
        }
        assert_eq!(with("/tasks", "limit=1"), "/tasks?limit=1");
        assert_eq!(with("/tasks?status=pending", "limit=1"), "/tasks?status=pending&limit=1");
    }

    #[tokio::test]
    async fn a_walk_ends_where_it_is_to_or_where_the_list_does() {
        let two = Responder::tcp(answer(r#"{"rows": [1, 2], "nextCursor": "c"}"#)).unwrap();
        let mut connection = Connection::open(two.address()).await.unwrap();
        assert_eq!(walk(&mut connection, "/x", 6).await.unwrap(), (6, Some("c".to_owned())));
        assert_eq!(two.answered(), 3);
        let last = Responder::tcp(answer(r#"{"rows": [1, 2], "nextCursor": null}"#)).unwrap();
        let mut connection = Connection::open(last.address()).await.unwrap();
        assert_eq!(walk(&mut connection, "/x", 6).await.unwrap(), (2, None));
    }
}
