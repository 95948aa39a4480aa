//! An agent's credential: proof that the caller is one incarnation of one agent of this installation.
//!
//! Invariants: any server of the installation can make and check it, none is stored; the code covers
//! installation, epoch, agent and incarnation, each with its length, so no two claims share one text;
//! comparison takes constant time. Whether the incarnation is the present one is the store's to say.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::{
    id::{AgentId, Incarnation, InstallationId},
    installation::{Epoch, InstallationKey},
};

/// How every agent credential begins.
pub const PREFIX: &str = "aito-agent";

/// Who a valid credential speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentClaim {
    /// The agent.
    pub agent_id: AgentId,
    /// Its incarnation, present or past.
    pub incarnation: Incarnation,
}

/// Makes and checks agents' credentials.
#[derive(Clone)]
pub struct AgentCredentials {
    mac: Hmac<Sha256>,
}

impl AgentCredentials {
    /// For one installation in one epoch.
    #[must_use]
    pub fn new(key: &InstallationKey, installation: InstallationId, epoch: &Epoch) -> Self {
        let subkey = key.subkey("aito agent credential v1");
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&subkey) else {
            unreachable!("HMAC takes keys of any length");
        };
        part(&mut mac, installation.0.as_bytes());
        part(&mut mac, epoch.as_str().as_bytes());
        Self { mac }
    }

    /// The text `aito-agent.<agent id>.<incarnation>.<code>` that the incarnation is handed at its start.
    #[must_use]
    pub fn mint(&self, claim: AgentClaim) -> String {
        let code = URL_SAFE_NO_PAD.encode(self.code(claim).finalize().into_bytes());
        format!("{PREFIX}.{}.{}.{code}", claim.agent_id.0.simple(), claim.incarnation)
    }

    /// Who the text speaks for; `None` unless this installation made it in this epoch.
    #[must_use]
    pub fn verify(&self, text: &str) -> Option<AgentClaim> {
        if text.len() > 160 {
            return None;
        }
        let mut parts = text.split('.');
        let (prefix, agent, incarnation, code) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if prefix != PREFIX || parts.next().is_some() {
            return None;
        }
        let claim =
            AgentClaim { agent_id: agent.parse().ok()?, incarnation: Incarnation(incarnation.parse().ok()?) };
        let code = URL_SAFE_NO_PAD.decode(code).ok()?;
        self.code(claim).verify_slice(&code).ok()?;
        Some(claim)
    }

    fn code(&self, claim: AgentClaim) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        part(&mut mac, claim.agent_id.0.as_bytes());
        part(&mut mac, &claim.incarnation.0.to_be_bytes());
        mac
    }
}

fn part(mac: &mut Hmac<Sha256>, bytes: &[u8]) {
    mac.update(&(bytes.len() as u64).to_be_bytes());
    mac.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn claim(agent: u128, incarnation: u64) -> AgentClaim {
        AgentClaim { agent_id: AgentId(Uuid::from_u128(agent)), incarnation: Incarnation(incarnation) }
    }

    fn maker(key: u8, installation: u128, epoch: &str) -> AgentCredentials {
        let epoch = epoch.parse().unwrap_or_else(|_| Epoch::from_random([0; 5]));
        AgentCredentials::new(
            &InstallationKey::new([key; 32]),
            InstallationId(Uuid::from_u128(installation)),
            &epoch,
        )
    }

    #[test]
    fn a_credential_names_its_agent_and_incarnation() {
        let maker = maker(1, 1, "abcd");
        let text = maker.mint(claim(5, 8));
        assert_eq!(maker.verify(&text), Some(claim(5, 8)));
        assert_ne!(text, maker.mint(claim(5, 9)));
    }

    #[test]
    fn another_key_installation_or_epoch_refuses_it() {
        let text = maker(1, 1, "abcd").mint(claim(5, 8));
        for other in [maker(2, 1, "abcd"), maker(1, 2, "abcd"), maker(1, 1, "abce")] {
            assert_eq!(other.verify(&text), None);
        }
    }

    #[test]
    fn a_changed_text_is_refused() {
        let maker = maker(1, 1, "abcd");
        let text = maker.mint(claim(5, 8));
        assert_eq!(maker.verify(&text.replacen(".8.", ".9.", 1)), None);
        assert_eq!(maker.verify(&format!("{text}.")), None);
        assert_eq!(maker.verify(&text[..text.len() - 1]), None);
        for garbage in ["", "aito-agent", "aito-agent...", "Bearer x", &"a.".repeat(200)] {
            assert_eq!(maker.verify(garbage), None);
        }
    }
}
