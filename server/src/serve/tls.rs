//! Encryption, by rustls.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use super::config::ConfigError;

/// A stream that is encrypted or not.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// What encrypts connections with the certificates and the key of two files.
///
/// # Errors
/// Names the file that cannot be read, or does not hold what it should.
pub(super) fn acceptor(
    (cert, key): (&Path, &Path),
    protocols: &[&[u8]],
) -> Result<TlsAcceptor, ConfigError> {
    let contents = |path: &Path, problem: String| ConfigError::Contents {
        path: path.to_owned(),
        problem,
    };
    let certificates = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| contents(cert, error.to_string()))?;
    if certificates.is_empty() {
        return Err(contents(cert, "holds no certificate".to_owned()));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|error| contents(key, error.to_string()))?;
    let config = config(certificates, private, protocols);
    let config = config.map_err(|error| contents(cert, error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn config(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}
