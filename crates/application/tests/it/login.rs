//! Credentials of every kind: whose they are, whether they still are, and tickets that count once.

use std::time::Duration;

use aito_application::{
    Error,
    login::{LoginError, LoginService, Standing, Text},
    tokens::{BELIEVED, NewToken},
};
use aito_domain::{
    access::{Grants, Role},
    agent::Agent,
    credential::{AgentClaim, AgentCredentials},
    id::{AgentId, Incarnation, InstallationId, TokenId},
    installation::InstallationKey,
    ports::{
        clock::Clock as _,
        ledger::{Change, Ledger as _},
    },
    principal::Principal,
    ticket::{Holder, LIFE, Ticket, Tickets},
    time::after,
    token::{Token, TokenText},
};
use uuid::Uuid;

use super::{
    doors::{Guard, key, wish},
    support::{House, Next, epoch, installation, operator, ty},
};

const MOMENT: Duration = Duration::from_millis(1);

fn credentials() -> AgentCredentials {
    AgentCredentials::new(&key(), installation(), &epoch())
}

fn claim(agent: &Agent, incarnation: u64) -> String {
    credentials().mint(AgentClaim { agent_id: agent.id, incarnation: Incarnation(incarnation) })
}

/// A house with the agent `ceo` in its second incarnation.
async fn with_ceo() -> (House, Agent) {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    let ceo = house.agent("ceo").await;
    (house, ceo)
}

async fn token(guard: &Guard, new: NewToken) -> (Token, TokenText) {
    let (view, text) = guard.tokens.create(new, &operator(), None).await.unwrap();
    (view.token, text)
}

async fn let_in(login: &LoginService, text: &str) -> Result<Standing, LoginError> {
    login.check(&login.read(text)?).await
}

fn is_refused<T>(result: Result<T, LoginError>) -> bool {
    matches!(result, Err(LoginError::Invalid))
}

fn is_away<T>(result: Result<T, LoginError>) -> bool {
    matches!(result, Err(LoginError::Failed(Error::Unavailable { .. })))
}

#[tokio::test]
async fn a_text_is_of_the_kind_that_its_form_says_and_no_forged_one_is_of_any() {
    let (house, ceo) = with_ceo().await;
    let guard = Guard::of(&house);
    let (known, text) = token(&guard, wish("ops")).await;
    let read = |text: &str| guard.login.read(text).map(|text| format!("{text:?}"));
    let agent = claim(&ceo, 1);
    assert!(matches!(
        guard.login.read(&agent),
        Ok(Text::Agent(AgentClaim { agent_id, incarnation: Incarnation(1) })) if agent_id == ceo.id
    ));
    let whole = text.expose();
    assert!(matches!(guard.login.read(&whole), Ok(Text::Token(read)) if read == text));
    assert!(matches!(guard.login.read("a.b.c"), Ok(Text::Other("a.b.c"))));

    let claimed = AgentClaim { agent_id: ceo.id, incarnation: Incarnation(2) };
    let other_installation = InstallationId(Uuid::from_u128(2));
    let forged = [
        AgentCredentials::new(&InstallationKey::new([2; 32]), installation(), &epoch()).mint(claimed),
        AgentCredentials::new(&key(), other_installation, &epoch()).mint(claimed),
        AgentCredentials::new(&key(), installation(), &"later".parse().unwrap()).mint(claimed),
        agent.replace(".1.", ".2."),
        format!("{agent}x"),
        "aito-agent".to_owned(),
        whole[..whole.len() - 1].to_owned(),
        format!("{whole}A"),
        "aito_".to_owned(),
    ];
    for forged in forged {
        assert!(is_refused(read(&forged)), "{forged}");
    }

    // Without an identity provider there is no other kind.
    let alone = LoginService::new(
        guard.door.clone(),
        guard.tokens.clone(),
        credentials(),
        Tickets::new(&key(), installation(), &epoch()),
        None,
        guard.writer.clone(),
    );
    for text in ["a.b.c", "", "idp/ann/viewer/9999999999999"] {
        assert!(is_refused(alone.read(text)), "{text}");
    }

    // What anybody could make the store be asked for is not cheap.
    let cheap = |text: &str| guard.login.is_cheap(&guard.login.read(text).unwrap());
    assert!(cheap(&agent) && cheap("a.b.c") && !cheap(&whole));
    guard.tokens.holder(known.id, text.hash().tag()).await.unwrap();
    assert!(cheap(&whole));
    assert!(!cheap(&TokenText::new(TokenId(Uuid::from_u128(404)), [9; 32]).expose()));
}

#[tokio::test]
async fn an_agent_is_its_present_incarnation_only() {
    let (house, ceo) = with_ceo().await;
    let guard = Guard::of(&house);
    let Standing { principal, agent } = let_in(&guard.login, &claim(&ceo, 2)).await.unwrap();
    let expected = Principal::Agent { id: ceo.id, agent_type: ty("ceo"), incarnation: Incarnation(2) };
    assert_eq!((principal, agent.as_ref()), (expected, Some(&ceo)), "as it was read for that");
    for past in [0, 1, 3] {
        let refused = let_in(&guard.login, &claim(&ceo, past)).await;
        let Err(LoginError::PastIncarnation { said, present }) = refused else { panic!("{refused:?}") };
        assert_eq!((said, present), (Incarnation(past), Incarnation(2)));
    }
    let nobody = AgentClaim { agent_id: AgentId(Uuid::from_u128(404)), incarnation: Incarnation(1) };
    assert!(is_refused(let_in(&guard.login, &credentials().mint(nobody)).await));
    let server = house.server(&["ceo", "cmo"]).await;
    let newborn = claim(&house.agent("cmo").await, 0);
    assert!(matches!(let_in(&guard.login, &newborn).await, Err(LoginError::PastIncarnation { .. })));
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    assert!(
        matches!(let_in(&guard.login, &claim(&ceo, 2)).await, Err(LoginError::PastIncarnation { .. })),
        "nothing is believed of an agent"
    );
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_and_never_a_refusal() {
    let (house, ceo) = with_ceo().await;
    let guard = Guard::of(&house);
    let (_, text) = token(&guard, wish("ops")).await;
    let agent = claim(&ceo, 2);
    let until = after(house.clock.now(), Duration::from_secs(60)).timestamp_millis();
    let external = format!("idp/ann/viewer/{until}");
    let mut principals = Vec::new();
    for text in [agent.as_str(), &text.expose(), &external] {
        principals.push(let_in(&guard.login, text).await.unwrap().principal);
    }
    house.pass(BELIEVED);
    let tickets: Vec<_> = principals.iter().map(|principal| guard.login.ticket(principal).0).collect();
    guard.door.shut();
    assert!(is_away(let_in(&guard.login, &agent).await));
    assert!(is_away(let_in(&guard.login, &claim(&ceo, 1)).await), "nobody knows that it is past");
    assert!(is_away(let_in(&guard.login, &text.expose()).await));
    assert!(let_in(&guard.login, &external).await.is_ok(), "it needs no store");
    for (n, expected) in [(0, None), (1, None), (2, Some(true))] {
        let still = guard.login.still(&principals[n]).await;
        match expected {
            Some(expected) => assert_eq!(still.unwrap(), expected),
            None => assert!(matches!(still, Err(Error::Unavailable { .. })), "{:?}", principals[n]),
        }
    }
    for ticket in &tickets[..2] {
        assert!(is_away(guard.login.redeem(ticket, false).await));
    }
    guard.door.open();
    for ticket in &tickets[..2] {
        guard.login.redeem(ticket, false).await.unwrap();
    }
    house.pass(BELIEVED);
    guard.door.damage();
    let damaged = let_in(&guard.login, &text.expose()).await;
    assert!(matches!(damaged, Err(LoginError::Failed(Error::Internal(_)))));
}

#[tokio::test]
async fn who_was_let_in_is_not_any_more_when_the_token_ends() {
    let house = House::new();
    let (guard, elsewhere) = (Guard::of(&house), Guard::of(&house));
    let expires_at = after(house.clock.now(), Duration::from_secs(60)).to_rfc3339();
    let (revoked, revoked_text) = token(&guard, wish("revoked")).await;
    let (_, expiring) = token(&guard, NewToken { expires_at: Some(expires_at), ..wish("expiring") }).await;
    let (rotated, rotated_text) = token(&guard, wish("rotated")).await;
    guard.tokens.rotate(rotated.id, Some(30), None, &operator()).await.unwrap();
    let mut principals = Vec::new();
    for text in [&revoked_text, &expiring, &rotated_text] {
        principals.push(let_in(&guard.login, &text.expose()).await.unwrap().principal);
    }
    let still = async |n: usize| guard.login.still(&principals[n]).await.unwrap();
    assert!(still(0).await && still(1).await && still(2).await);

    elsewhere.tokens.revoke(revoked.id, None, &operator()).await.unwrap();
    house.pass(BELIEVED);
    assert!(!still(0).await && still(1).await && still(2).await);
    house.pass(Duration::from_secs(30) - BELIEVED - MOMENT);
    assert!(still(2).await);
    house.pass(MOMENT);
    assert!(!still(2).await, "the overlap of its secret is over");
    house.pass(Duration::from_secs(30) - MOMENT);
    assert!(still(1).await);
    house.pass(MOMENT);
    assert!(!still(1).await, "it has expired");
    assert!(guard.login.still(&Principal::Anonymous).await.unwrap());
}

#[tokio::test]
async fn who_was_let_in_with_other_rights_is_not_any_more() {
    let house = House::new();
    let guard = Guard::of(&house);
    let (token, text) = token(&guard, wish("ops")).await;
    let principal = let_in(&guard.login, &text.expose()).await.unwrap().principal;
    assert!(guard.login.still(&principal).await.unwrap());
    for grants in [Grants::default(), Grants::of([Role::Viewer, Role::Admin])] {
        let present = house.tokens().await.remove(0);
        let mut commit = guard.writer.begin();
        commit.changes.push(Change::Token(Box::new(Token { grants: grants.clone(), ..present })));
        house.store.commit(&commit).await.unwrap();
        house.pass(BELIEVED);
        assert!(!guard.login.still(&principal).await.unwrap(), "{grants:?}");
    }
    assert_eq!(house.tokens().await[0].id, token.id);
}

#[tokio::test]
async fn an_agent_that_was_let_in_is_not_any_more_in_its_next_incarnation() {
    let (house, ceo) = with_ceo().await;
    let guard = Guard::of(&house);
    let principal = let_in(&guard.login, &claim(&ceo, 2)).await.unwrap().principal;
    assert!(guard.login.still(&principal).await.unwrap());
    house.server(&["ceo"]).await.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    assert!(!guard.login.still(&principal).await.unwrap());
    let gone = Principal::Agent {
        id: AgentId(Uuid::from_u128(404)),
        agent_type: ty("ceo"),
        incarnation: Incarnation(2),
    };
    assert!(!guard.login.still(&gone).await.unwrap());
}

#[tokio::test]
async fn an_identity_provider_gives_roles_it_knows_and_nothing_else() {
    let house = House::new();
    house.server(&["ceo"]).await;
    let guard = Guard::of(&house);
    let until = after(house.clock.now(), Duration::from_secs(60));
    let login = |words: &str| format!("idp/ann/{words}/{}", until.timestamp_millis());
    for (words, roles) in [
        ("viewer", vec![Role::Viewer]),
        ("viewer,operator,viewer", vec![Role::Viewer, Role::Operator]),
        ("seat:ceo", vec![]),
        ("human,seat:ceo,agent:ceo", vec![Role::Human]),
        ("admin ", vec![]),
        (" admin", vec![]),
        ("Admin,ADMIN,adm\u{131}n,admin\n,admin\0", vec![]),
        ("root,*,all,superuser,", vec![]),
        ("", vec![]),
    ] {
        let text = login(words);
        let Standing { principal, agent } = let_in(&guard.login, &text).await.unwrap();
        let grants = Grants::of(roles);
        assert_eq!(grants.seat, None);
        assert_eq!(principal, Principal::External { subject: "ann".to_owned(), grants, until }, "{words:?}");
        assert!(agent.is_none());
    }
    assert!(is_refused(let_in(&guard.login, "a.b.c").await), "what it does not vouch for is nobody's");

    let principal = let_in(&guard.login, &login("viewer")).await.unwrap().principal;
    house.pass(Duration::from_secs(60) - MOMENT);
    assert!(guard.login.still(&principal).await.unwrap());
    house.pass(MOMENT);
    assert!(!guard.login.still(&principal).await.unwrap());
    assert!(is_refused(let_in(&guard.login, &login("viewer")).await));
}

#[tokio::test]
async fn a_ticket_counts_once_whichever_servers_it_meets() {
    let (house, ceo) = with_ceo().await;
    let (a, b) = (Guard::of(&house), Guard::of(&house));
    let (_, text) = token(&a, wish("ops")).await;
    let until = after(house.clock.now(), Duration::from_secs(3600)).timestamp_millis();
    for text in [text.expose(), claim(&ceo, 2), format!("idp/ann/viewer/{until}")] {
        let standing = let_in(&a.login, &text).await.unwrap();
        let (ticket, _) = a.login.ticket(&standing.principal);
        let (of_a, of_b) = tokio::join!(a.login.redeem(&ticket, false), b.login.redeem(&ticket, false));
        let (winner, loser) = if of_a.is_ok() { (of_a, of_b) } else { (of_b, of_a) };
        let winner = winner.unwrap();
        assert_eq!((&winner.principal, &winner.agent), (&standing.principal, &standing.agent));
        assert!(is_refused(loser));
        for guard in [&a, &b, &Guard::of(&house)] {
            assert!(is_refused(guard.login.redeem(&ticket, false).await), "{text}");
        }
        let (again, _) = b.login.ticket(&standing.principal);
        a.login.redeem(&again, false).await.unwrap();
    }
}

#[tokio::test]
async fn a_ticket_is_good_for_its_life_and_only_where_it_was_made() {
    let house = House::new();
    let guard = Guard::of(&house);
    let (token, text) = token(&guard, wish("ops")).await;
    let principal = let_in(&guard.login, &text.expose()).await.unwrap().principal;
    let (last, until) = guard.login.ticket(&principal);
    let (late, _) = guard.login.ticket(&principal);
    assert_eq!(until, after(house.clock.now(), LIFE));
    house.pass(LIFE - MOMENT);
    guard.login.redeem(&last, false).await.unwrap();
    house.pass(MOMENT);
    assert!(is_refused(guard.login.redeem(&late, false).await));

    let ticket = Ticket {
        number: Uuid::from_u128(1),
        until: after(house.clock.now(), LIFE).timestamp_millis(),
        holder: Holder::Token(token.id, text.hash().tag()),
    };
    let commits = guard.ledger.commits();
    for tickets in [
        Tickets::new(&InstallationKey::new([2; 32]), installation(), &epoch()),
        Tickets::new(&key(), InstallationId(Uuid::from_u128(2)), &epoch()),
        Tickets::new(&key(), installation(), &"later".parse().unwrap()),
    ] {
        assert!(is_refused(guard.login.redeem(&tickets.mint(&ticket), true).await));
    }
    for text in ["", "aito-ticket", "aito-ticket..", &text.expose()] {
        assert!(is_refused(guard.login.redeem(text, true).await), "{text}");
    }
    assert_eq!(guard.ledger.commits(), commits, "what is forged writes nothing");
    let (ticket, _) = guard.login.ticket(&principal);
    assert!(is_refused(let_in(&guard.login, &ticket).await), "it is no credential for anything else");
}

#[tokio::test]
async fn a_ticket_is_worth_what_its_holder_is_when_it_is_used() {
    let (house, ceo) = with_ceo().await;
    let (guard, elsewhere) = (Guard::of(&house), Guard::of(&house));
    let (token, text) = token(&guard, wish("ops")).await;
    let now = house.clock.now();
    let ticket_of = async |text: &str| {
        let principal = let_in(&guard.login, text).await.unwrap().principal;
        guard.login.ticket(&principal).0
    };
    let of_token = ticket_of(&text.expose()).await;
    let of_agent = ticket_of(&claim(&ceo, 2)).await;
    let provided = |seconds: u64| {
        format!("idp/ann/viewer/{}", after(now, Duration::from_secs(seconds)).timestamp_millis())
    };
    let (short, long) = (ticket_of(&provided(2)).await, ticket_of(&provided(3)).await);
    elsewhere.tokens.revoke(token.id, None, &operator()).await.unwrap();
    house.server(&["ceo"]).await.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    let passed = (house.clock.now() - now).to_std().unwrap();
    assert!(passed + BELIEVED < Duration::from_secs(2), "{passed:?}");
    house.pass(Duration::from_secs(2) - passed);

    let commits = guard.ledger.commits();
    assert!(is_refused(guard.login.redeem(&of_token, true).await));
    let past = guard.login.redeem(&of_agent, true).await;
    assert!(matches!(past, Err(LoginError::PastIncarnation { present: Incarnation(3), .. })));
    assert!(is_refused(guard.login.redeem(&short, true).await));
    assert_eq!(guard.ledger.commits(), commits);
    let standing = guard.login.redeem(&long, true).await.unwrap();
    assert_eq!(standing.principal.until(), Some(after(now, Duration::from_secs(3))), "no longer than before");
}

#[tokio::test]
async fn a_ticket_of_nobody_is_good_only_where_everybody_is_let_in() {
    let house = House::new();
    let (open, closed) = (Guard::of(&house), Guard::of(&house));
    let (ticket, _) = open.login.ticket(&Principal::Anonymous);
    assert!(is_refused(closed.login.redeem(&ticket, false).await));
    assert_eq!(closed.ledger.commits(), 0, "being refused does not use it up");
    let standing = open.login.redeem(&ticket, true).await.unwrap();
    assert_eq!((standing.principal, standing.agent), (Principal::Anonymous, None));
    assert!(is_refused(open.login.redeem(&ticket, true).await));
}

#[tokio::test]
async fn a_ledger_that_fails_uses_no_ticket_up_and_refuses_none() {
    let house = House::automatic();
    let guard = Guard::of(&house);
    let ticket = || guard.login.ticket(&Principal::Anonymous).0;
    let first = ticket();
    guard.ledger.then([Next::Unavailable]);
    assert!(is_away(guard.login.redeem(&first, true).await));
    guard.login.redeem(&first, true).await.unwrap();

    guard.ledger.then([Next::UnknownApplied]);
    let second = ticket();
    guard.login.redeem(&second, true).await.unwrap();
    assert!(is_refused(guard.login.redeem(&second, true).await));

    // Settled as never used, and barred by that: another one is needed, and that is not the holder's fault.
    guard.ledger.then([Next::UnknownLost]);
    let third = ticket();
    assert!(is_away(guard.login.redeem(&third, true).await));
    assert!(guard.login.redeem(&third, true).await.is_err());
    guard.login.redeem(&ticket(), true).await.unwrap();

    guard.ledger.then([Next::UnknownApplied]);
    guard.ledger.mute_settles(1000);
    assert!(is_away(guard.login.redeem(&ticket(), true).await), "nobody knows whether it was used");
}

#[tokio::test]
async fn a_use_that_got_lost_does_not_count_as_the_use_of_another_server() {
    let house = House::new();
    let (a, b) = (Guard::of(&house), Guard::of(&house));
    let (ticket, _) = a.login.ticket(&Principal::Anonymous);
    a.ledger.then([Next::UnknownLost]);
    a.ledger.mute_settles(1);
    let lost = tokio::spawn({
        let ticket = ticket.clone();
        async move { a.login.redeem(&ticket, true).await }
    });
    house.until_asleep().await;
    b.login.redeem(&ticket, true).await.unwrap();
    let _passing = house.passing(Duration::from_millis(5));
    assert!(is_refused(lost.await.unwrap()), "it was used, and not by this call");
}

#[tokio::test]
async fn who_was_let_in_with_a_secret_that_was_replaced_is_not_any_more() {
    let house = House::new();
    let (guard, elsewhere) = (Guard::of(&house), Guard::of(&house));
    let (token, first) = token(&guard, wish("ops")).await;
    let of_first = let_in(&guard.login, &first.expose()).await.unwrap().principal;
    let ticket = guard.login.ticket(&of_first).0;
    let by = operator();
    let (_, second) = elsewhere.tokens.rotate(token.id, Some(10), None, &by).await.unwrap();
    house.pass(BELIEVED);
    let of_second = let_in(&guard.login, &second.expose()).await.unwrap().principal;
    assert!(guard.login.still(&of_first).await.unwrap(), "it overlaps");
    house.pass(Duration::from_secs(10) - BELIEVED);
    assert!(!guard.login.still(&of_first).await.unwrap(), "though it was let in for good");
    assert!(is_refused(guard.login.redeem(&ticket, false).await));

    let ticket = guard.login.ticket(&of_second).0;
    elsewhere.tokens.rotate(token.id, None, None, &by).await.unwrap();
    house.pass(BELIEVED);
    assert!(!guard.login.still(&of_second).await.unwrap(), "without an overlap at once");
    assert!(is_refused(guard.login.redeem(&ticket, false).await));
}
