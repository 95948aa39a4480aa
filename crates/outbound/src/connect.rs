//! Opens connections: looks the name up, judges each address, connects to those that may be reached, agrees on TLS.
//!
//! Invariants: every connection is made here, and each is made to an address that was judged just before; a name is
//! looked up once for a connection, so no second answer can differ. The certificate must be the host's, by an authority
//! that is known.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    error::OutboundError,
    lookup::Lookup,
    policy::Policy,
    target::{Place, Target},
    translate,
};

/// How many addresses of a name are tried.
const MAX_TRIES: usize = 4;

/// A connection, with TLS or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections as a policy has it.
pub(crate) struct Connector {
    lookup: Arc<dyn Lookup>,
    tls: TlsConnector,
}

impl Connector {
    /// Trusts these authorities.
    pub(crate) fn new(lookup: Arc<dyn Lookup>, roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { lookup, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// A connection to the target.
    pub(crate) async fn open(
        &self,
        target: &Target,
        policy: &Policy,
    ) -> Result<Box<dyn Stream>, OutboundError> {
        let opening = async {
            let addresses = self.admitted(target, policy).await?;
            let stream = reach(&addresses, target.port(), policy.connect_timeout).await?;
            if target.plain() {
                return Ok(Box::new(stream) as Box<dyn Stream>);
            }
            let stream = self.tls.connect(server_name(target)?, stream).await;
            Ok(Box::new(stream.map_err(|error| translate::tls(&error))?) as Box<dyn Stream>)
        };
        timeout(policy.connect_timeout, opening).await.unwrap_or(Err(OutboundError::TimedOut { sent: false }))
    }

    /// The addresses of the target that may be reached; at least one.
    pub(crate) async fn admitted(
        &self,
        target: &Target,
        policy: &Policy,
    ) -> Result<Vec<IpAddr>, OutboundError> {
        let found = match target.host() {
            Place::Address(address) => vec![*address],
            Place::Name(name) => self.lookup.addresses(name).await.map_err(|source| {
                OutboundError::Unreachable { what: "the host's name is not found", source: Some(source) }
            })?,
        };
        let mut refusal = None;
        let mut admitted = Vec::new();
        for address in found {
            match policy.judge(address, target.plain()) {
                Ok(()) => admitted.push(address.to_canonical()),
                Err(why) => refusal = refusal.or(Some(why)),
            }
        }
        match refusal {
            _ if !admitted.is_empty() => Ok(admitted),
            Some(why) => Err(why.into()),
            None => Err(OutboundError::Unreachable { what: "the host's name has no address", source: None }),
        }
    }
}

/// The first connection that comes about. Each address has its share of the time.
async fn reach(addresses: &[IpAddr], port: u16, within: Duration) -> Result<TcpStream, OutboundError> {
    let tries = &addresses[..addresses.len().min(MAX_TRIES)];
    let share = within / u32::try_from(tries.len().max(1)).unwrap_or(1);
    let mut failure = OutboundError::TimedOut { sent: false };
    for address in tries {
        match timeout(share, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => {
                // Requests are written whole, so there is nothing to wait for.
                if let Err(source) = stream.set_nodelay(true) {
                    failure = unreachable(source);
                    continue;
                }
                return Ok(stream);
            }
            Ok(Err(source)) => failure = unreachable(source),
            Err(_) => failure = OutboundError::TimedOut { sent: false },
        }
    }
    Err(failure)
}

fn unreachable(source: io::Error) -> OutboundError {
    OutboundError::Unreachable { what: "the server cannot be connected to", source: Some(source) }
}

fn server_name(target: &Target) -> Result<ServerName<'static>, OutboundError> {
    match target.host() {
        Place::Address(address) => Ok(ServerName::IpAddress((*address).into())),
        Place::Name(name) => ServerName::try_from(name.clone())
            .map_err(|_| OutboundError::Invalid { what: "no certificate can have the host's name" }),
    }
}
