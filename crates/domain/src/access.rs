//! Who may do what: roles and scopes, every operation, and the one function that decides.
//!
//! Invariants: what no row allows is denied; a seat is part of no role; an agent's right that depends on the
//! object holds for the agent itself only. The source of the table is the HTTP contract, section Roles.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::id::AgentType;

/// What a token may be granted as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads all but secrets, tokens and audit.
    Viewer,
    /// Reads as a viewer and runs the company's daily business.
    Operator,
    /// Reads as a viewer and has the last word on decisions.
    Human,
    /// Tokens, audit, configuration and the fleet's switch; neither reads the rest nor votes.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Human, Self::Admin];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Human => "human",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no [`Role`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of viewer, operator, human, admin")]
pub struct BadRole;

impl FromStr for Role {
    type Err = BadRole;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(BadRole)
    }
}

/// What a holder was granted: roles, and at most one seat.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grants {
    /// Roles; none is allowed and gives nothing.
    pub roles: BTreeSet<Role>,
    /// The scope `seat:<type>`: votes as that agent.
    pub seat: Option<AgentType>,
}

impl Grants {
    /// Only roles.
    pub fn of(roles: impl IntoIterator<Item = Role>) -> Self {
        Self { roles: roles.into_iter().collect(), seat: None }
    }

    /// Whether they hold a role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// A caller as far as rights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<'a> {
    /// No credential, where one is asked for.
    Nobody,
    /// No credential, on a listener that asks for none: may do all.
    Anonymous,
    /// Somebody with grants.
    Holder(&'a Grants),
    /// The present incarnation of an agent.
    Agent(&'a AgentType),
}

macro_rules! operations {
    ($( $(#[$doc:meta])* $name:ident = $word:literal: $rule:expr; )*) => {
        /// Everything that can be asked for over HTTP.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Operation {
            $( $(#[$doc])* $name, )*
        }

        impl Operation {
            /// Every operation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in the audit, `<area>.<verb>`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$name => $word, )* }
            }

            /// Who may.
            fn rule(self) -> Rule {
                match self { $( Self::$name => $rule, )* }
            }
        }
    };
}

/// Who may do an operation; what is not said is denied.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// Everybody, without a credential.
    public: bool,
    /// Every credential.
    any_credential: bool,
    /// Each of these roles by itself.
    roles: &'static [Role],
    /// Agents.
    agents: Agents,
    /// Whoever holds the seat of the object.
    seat: bool,
    /// It changes something that its author answers for.
    audited: bool,
}

/// What agents may of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agents {
    /// Nothing.
    No,
    /// Where the object is the agent itself.
    Own,
    /// The same, where the request's body names the object: without one, it may ask, and is asked again with it.
    Named,
    /// Always; what the object must be to the agent is the use case's to check.
    Yes,
}

const DENIED: Rule = Rule {
    public: false,
    any_credential: false,
    roles: &[],
    agents: Agents::No,
    seat: false,
    audited: false,
};
const PUBLIC: Rule = Rule { public: true, ..DENIED };
/// What a viewer reads, and with it operators and humans.
const READ: Rule = Rule { roles: &[Role::Viewer, Role::Operator, Role::Human], ..DENIED };
const OPERATE: Rule = Rule { roles: &[Role::Operator], audited: true, ..DENIED };
const ADMINISTER: Rule = Rule { roles: &[Role::Admin], audited: true, ..DENIED };
/// What an agent says of itself: in the event log with its author, and so not in the audit as well.
const SELF: Rule = Rule { agents: Agents::Own, ..DENIED };

operations! {
    /// `GET /health`.
    Health = "health.read": PUBLIC;
    /// `GET /ready`.
    Ready = "ready.read": PUBLIC;
    /// `GET /openapi.json` and its page.
    ApiDescription = "openapi.read": PUBLIC;
    /// `GET /n/{secret}` and its POST.
    NoticeLink = "notice.open": Rule { audited: true, ..PUBLIC };
    /// `GET /health/full`.
    HealthFull = "health.read_full": READ;
    /// `GET /metrics`.
    Metrics = "metrics.read": READ;

    /// `GET /agents`.
    ListAgents = "agents.list": READ;
    /// `GET /agents/{type}`.
    ReadAgent = "agents.read": READ;
    /// `GET /agents/{type}/health`.
    ReadAgentHealth = "agents.read_health": READ;
    /// `GET /agents/{type}/spec`.
    ReadAgentSpec = "agents.read_spec": READ;
    /// `GET /agents/{type}/events`.
    ReadAgentEvents = "agents.read_events": READ;
    /// `GET /agents/{type}/logs`.
    ReadAgentLogs = "agents.read_logs": READ;
    /// `GET /agents/{type}/stats`.
    ReadAgentStats = "agents.read_stats": READ;
    /// `GET /agents/{type}/usage`.
    ReadAgentUsage = "agents.read_usage": READ;
    /// `POST /agents/{type}/start`.
    StartAgent = "agents.start": OPERATE;
    /// `POST /agents/{type}/stop`.
    StopAgent = "agents.stop": OPERATE;
    /// `POST /agents/{type}/restart`.
    RestartAgent = "agents.restart": OPERATE;
    /// `POST /agents/{type}/heartbeat`.
    Heartbeat = "agents.heartbeat": SELF;
    /// `GET /agents/{type}/history`.
    ReadHistory = "history.read": Rule { agents: Agents::Own, ..READ };
    /// `POST /agents/{type}/history`.
    AddHistory = "history.add": SELF;
    /// `GET /agents/{type}/state`.
    ReadState = "state.read": Rule { agents: Agents::Own, ..READ };
    /// `PUT /agents/{type}/state/{key}`.
    WriteState = "state.write": SELF;
    /// `GET /agents/{type}/mailbox`.
    ReadMailbox = "mailbox.read": Rule { agents: Agents::Own, ..READ };
    /// `POST /agents/{type}/mailbox/{id}/ack`.
    AcknowledgeMessage = "mailbox.acknowledge": SELF;
    /// `POST /agents/{type}/message`.
    SendMessage = "messages.send": Rule { agents: Agents::Yes, ..OPERATE };
    /// `POST /broadcast`.
    Broadcast = "messages.broadcast": OPERATE;
    /// `POST /agents/{type}/think`.
    Think = "agents.think": SELF;
    /// `GET /containers`.
    ListContainers = "containers.list": READ;
    /// `GET /workers`.
    ListWorkers = "workers.list": READ;
    /// `GET /fleet`.
    ReadFleet = "fleet.read": READ;
    /// `POST /fleet/stop`.
    StopFleet = "fleet.stop": ADMINISTER;
    /// `POST /fleet/resume`.
    ResumeFleet = "fleet.resume": ADMINISTER;

    /// `GET /events`.
    ListEvents = "events.list": READ;
    /// `GET /events/stream`.
    StreamEvents = "events.stream": READ;
    /// `GET /ws`. An agent sees what is about itself.
    OpenSocket = "events.socket": Rule { agents: Agents::Yes, ..READ };
    /// `POST /ws/tickets`.
    CreateTicket = "tickets.create": Rule { any_credential: true, ..DENIED };

    /// `GET /decisions`, `/decisions/pending`, `/decisions/escalated`.
    ListDecisions = "decisions.list": Rule { agents: Agents::Yes, ..READ };
    /// `GET /decisions/{id}` and its timeline.
    ReadDecision = "decisions.read": Rule { agents: Agents::Yes, ..READ };
    /// `POST /decisions`.
    Propose = "decisions.propose":
        Rule { roles: &[Role::Operator, Role::Human], agents: Agents::Yes, audited: true, ..DENIED };
    /// `POST /decisions/{id}/vote`; the object is the seat.
    Vote = "decisions.vote": Rule { agents: Agents::Own, seat: true, audited: true, ..DENIED };
    /// `POST /decisions/{id}/opinions`; the object is the agent.
    GiveOpinion = "decisions.give_opinion": Rule { agents: Agents::Own, audited: true, ..DENIED };
    /// `POST /decisions/{id}/escalate`.
    Escalate = "decisions.escalate":
        Rule { roles: &[Role::Operator, Role::Human], agents: Agents::Yes, audited: true, ..DENIED };
    /// `POST /decisions/{id}/resolve`.
    Resolve = "decisions.resolve": Rule { roles: &[Role::Human], audited: true, ..DENIED };
    /// `POST /decisions/{id}/withdraw`; who proposed is the use case's to check.
    Withdraw = "decisions.withdraw":
        Rule { roles: &[Role::Operator, Role::Human], agents: Agents::Yes, audited: true, ..DENIED };
    /// `POST /decisions/{id}/tier`.
    RaiseTier = "decisions.raise_tier":
        Rule { roles: &[Role::Operator, Role::Human], agents: Agents::Yes, audited: true, ..DENIED };
    /// `GET /escalations`.
    ListEscalations = "escalations.list": READ;

    /// `GET /tasks`; an agent sees those assigned to or created by it.
    ListTasks = "tasks.list": Rule { agents: Agents::Yes, ..READ };
    /// `GET /tasks/{id}`; as [`Self::ListTasks`].
    ReadTask = "tasks.read": Rule { agents: Agents::Yes, ..READ };
    /// `POST /tasks`.
    CreateTask = "tasks.create": Rule { agents: Agents::Yes, ..OPERATE };
    /// `PATCH /tasks/{id}`.
    EditTask = "tasks.edit": OPERATE;
    /// `POST /tasks/claim`; the object is the agent, which the body names. As with what an agent says of itself, the
    /// event log tells of it.
    ClaimTask = "tasks.claim": Rule { agents: Agents::Named, ..DENIED };
    /// `POST /tasks/{id}/complete`, `fail`, `cancel`; whose task it is is the use case's to check.
    EndTask = "tasks.end": Rule { agents: Agents::Yes, ..OPERATE };

    /// `GET /domains/whitelist`.
    ListDomains = "domains.list": READ;
    /// `GET /domains/check`.
    CheckDomain = "domains.check": Rule { agents: Agents::Yes, ..READ };
    /// `POST /domains/whitelist`.
    AddDomain = "domains.add": OPERATE;
    /// `DELETE /domains/{domain}`.
    RemoveDomain = "domains.remove": OPERATE;
    /// `GET /domains/approval-requests`.
    ListDomainRequests = "domains.list_requests": READ;
    /// `POST /domains/approval-requests`.
    RequestDomain = "domains.request": Rule { agents: Agents::Yes, ..OPERATE };
    /// `POST /domains/approval-requests/{id}/approve`, `reject`.
    DecideDomainRequest = "domains.decide_request":
        Rule { roles: &[Role::Operator, Role::Human], audited: true, ..DENIED };

    /// `GET /settings`, `/settings/schema`.
    ReadSettings = "settings.read": READ;
    /// `POST /settings/{category}/{key}` of any category but `governance`.
    WriteSetting = "settings.write": OPERATE;
    /// `POST /settings/governance/{key}`.
    WriteGovernance = "settings.write_governance": Rule { roles: &[Role::Human], audited: true, ..DENIED };

    /// `GET /benchmark/runs` and one of them.
    ReadBenchmarks = "benchmarks.read": READ;
    /// `POST /benchmark/run`, `DELETE /benchmark/runs/{runId}`.
    RunBenchmark = "benchmarks.run": OPERATE;
    /// `GET /scheduler/jobs` and their runs.
    ReadJobs = "jobs.read": READ;
    /// Everything else about jobs.
    ManageJobs = "jobs.manage": OPERATE;
    /// `GET /dead-letters`.
    ListDeadLetters = "dead_letters.list": READ;
    /// `POST /dead-letters/{id}/replay`.
    ReplayDeadLetter = "dead_letters.replay": OPERATE;
    /// `GET /knowledge/search`.
    SearchKnowledge = "knowledge.search": Rule { agents: Agents::Yes, ..READ };
    /// `POST /knowledge`: the archive.
    AddKnowledge = "knowledge.add": Rule { agents: Agents::Yes, ..OPERATE };
    /// `GET /backlog/report`.
    ReadBacklog = "backlog.read": READ;

    /// `GET /tokens`.
    ListTokens = "tokens.list": Rule { audited: false, ..ADMINISTER };
    /// `POST /tokens`.
    CreateToken = "tokens.create": ADMINISTER;
    /// `POST /tokens/{id}/rotate`.
    RotateToken = "tokens.rotate": ADMINISTER;
    /// `DELETE /tokens/{id}`.
    RevokeToken = "tokens.revoke": ADMINISTER;
    /// `GET /audit`.
    ReadAudit = "audit.read": Rule { audited: false, ..ADMINISTER };
}

impl Operation {
    /// Whether it changes something that its author answers for, so that done, failed and refused attempts go to
    /// the audit. What an agent says of itself is in the event log instead.
    #[must_use]
    pub fn is_audited(self) -> bool {
        self.rule().audited
    }

    /// Whether it is open to callers without a credential.
    #[must_use]
    pub fn is_public(self) -> bool {
        self.rule().public
    }
}

/// Why a caller may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A credential is needed.
    #[error("a credential is needed")]
    NoCredential,
    /// The caller's grants do not reach; the text names what would.
    #[error("it lacks {needs}")]
    Lacks {
        /// `the role operator`, `the scope seat:ceo`.
        needs: String,
    },
    /// An agent asked for what is another's.
    #[error("agent {agent} may do this for itself only, not for {other}")]
    NotItsOwn {
        /// Who asked.
        agent: AgentType,
        /// Whose it is.
        other: String,
    },
}

/// Whether `who` may do `operation` on the agent or seat `object`, where the operation has one.
///
/// # Errors
/// [`Denied`]: everything that the table does not allow.
pub fn permit(who: Who<'_>, operation: Operation, object: Option<&str>) -> Result<(), Denied> {
    let rule = operation.rule();
    match who {
        _ if rule.public => Ok(()),
        Who::Anonymous => Ok(()),
        Who::Nobody => Err(Denied::NoCredential),
        _ if rule.any_credential => Ok(()),
        Who::Holder(grants) => {
            let by_role = rule.roles.iter().any(|role| grants.has(*role));
            let by_seat = rule.seat && grants.seat.as_ref().is_some_and(|seat| Some(seat.as_str()) == object);
            if by_role || by_seat { Ok(()) } else { Err(Denied::Lacks { needs: needs(rule, object) }) }
        }
        Who::Agent(agent) => match (rule.agents, object) {
            (Agents::Yes, _) | (Agents::Named, None) => Ok(()),
            (Agents::Own | Agents::Named, Some(object)) if object == agent.as_str() => Ok(()),
            (Agents::Own | Agents::Named, Some(other)) => {
                Err(Denied::NotItsOwn { agent: agent.clone(), other: other.to_owned() })
            }
            (Agents::Own, None) | (Agents::No, _) => Err(Denied::Lacks { needs: needs(rule, object) }),
        },
    }
}

/// What would be enough, in words.
fn needs(rule: Rule, object: Option<&str>) -> String {
    let mut enough: Vec<String> = rule.roles.iter().map(|role| format!("the role {role}")).collect();
    if rule.seat {
        enough.push(format!("the scope seat:{}", object.unwrap_or("<type>")));
    }
    if enough.is_empty() {
        // Whatever is not public, for roles or for seats is for agents.
        return "the credential of the agent itself".to_owned();
    }
    enough.join(" or ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    fn ceo() -> AgentType {
        "ceo".parse().unwrap()
    }

    #[test]
    fn nobody_gets_public_things_only_and_the_anonymous_caller_everything() {
        for operation in Operation::ALL {
            let nobody = permit(Who::Nobody, *operation, None);
            let public =
                ["health.read", "ready.read", "openapi.read", "notice.open"].contains(&operation.as_str());
            assert_eq!(nobody.is_ok(), public, "{operation:?}");
            assert_eq!(permit(Who::Anonymous, *operation, None), Ok(()), "{operation:?}");
        }
    }

    #[test]
    fn no_grant_gives_nothing_but_a_ticket() {
        let none = Grants::default();
        for operation in Operation::ALL.iter().filter(|operation| !operation.is_public()) {
            let may = permit(Who::Holder(&none), *operation, Some("ceo")).is_ok();
            assert_eq!(may, *operation == Operation::CreateTicket, "{operation:?}");
        }
    }

    #[test]
    fn a_seat_comes_with_no_role_and_is_good_for_itself_only() {
        let all = Grants::of(Role::ALL);
        assert!(permit(Who::Holder(&all), Operation::Vote, Some("ceo")).is_err());
        let seat = Grants { seat: Some(ceo()), ..Grants::default() };
        assert_eq!(permit(Who::Holder(&seat), Operation::Vote, Some("ceo")), Ok(()));
        let denied = permit(Who::Holder(&seat), Operation::Vote, Some("dao")).unwrap_err();
        assert_eq!(denied.to_string(), "it lacks the scope seat:dao");
        let others = Operation::ALL.iter().filter(|o| permit(Who::Holder(&seat), **o, Some("ceo")).is_ok());
        let others: Vec<_> = others.filter(|o| !o.is_public()).collect();
        assert_eq!(others, [&Operation::CreateTicket, &Operation::Vote]);
    }

    #[test]
    fn an_agent_acts_for_itself_only() {
        let ceo = ceo();
        for operation in [Operation::Heartbeat, Operation::AddHistory, Operation::Vote, Operation::ClaimTask]
        {
            assert_eq!(permit(Who::Agent(&ceo), operation, Some("ceo")), Ok(()));
            for other in [Some("cmo"), Some("CEO"), Some("ceo ")] {
                assert!(permit(Who::Agent(&ceo), operation, other).is_err(), "{operation:?} {other:?}");
            }
            // What only the body names is asked for again with it.
            let unnamed = permit(Who::Agent(&ceo), operation, None).is_ok();
            assert_eq!(unnamed, operation == Operation::ClaimTask, "{operation:?}");
        }
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let names: BTreeSet<_> = Operation::ALL.iter().map(|operation| operation.as_str()).collect();
        assert_eq!(names.len(), Operation::ALL.len());
    }
}
