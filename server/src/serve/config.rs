//! What the service is told: by a file, the environment and flags, each over the one before.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use thiserror::Error;

use super::ingest::writer::MOST_WAITING_BYTES;

/// Settings as flags and in the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeFlags {
    /// The store; created where there is none
    #[arg(long, value_name = "DIR", env = "PUGMARK_STORE")]
    pub store: Option<PathBuf>,
    /// A file of settings, TOML: the names of these flags, with _ for -
    #[arg(long, value_name = "FILE", env = "PUGMARK_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where HTTP is served (127.0.0.1:8686)
    #[arg(long, value_name = "ADDRESS", env = "PUGMARK_HTTP")]
    pub http: Option<SocketAddr>,
    /// Where PostgreSQL's protocol is served, or off (127.0.0.1:5439)
    #[arg(long, value_name = "ADDRESS", env = "PUGMARK_PG")]
    pub pg: Option<Listen>,
    /// Where Arrow Flight SQL is served, or off (127.0.0.1:8687)
    #[arg(long, value_name = "ADDRESS", env = "PUGMARK_FLIGHT")]
    pub flight: Option<Listen>,
    /// A file of certificates, PEM: with it and --tls-key connections are encrypted
    #[arg(long, value_name = "FILE", env = "PUGMARK_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the first certificate, PEM
    #[arg(long, value_name = "FILE", env = "PUGMARK_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// The file of keys (keys.json beside the store)
    #[arg(long, value_name = "FILE", env = "PUGMARK_KEYS")]
    pub keys: Option<PathBuf>,
    /// Largest body of a request, packed or not, in bytes (10485760)
    #[arg(long, value_name = "BYTES", env = "PUGMARK_MAX_BODY_BYTES")]
    pub max_body_bytes: Option<usize>,
    /// Largest file that is imported, in bytes (68719476736)
    #[arg(long, value_name = "BYTES", env = "PUGMARK_MAX_IMPORT_BYTES")]
    pub max_import_bytes: Option<u64>,
    /// Connections at a time (20000)
    #[arg(long, value_name = "N", env = "PUGMARK_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Requests a second that one key may send; 0 for any number (0)
    #[arg(long, value_name = "N", env = "PUGMARK_RATE_LIMIT")]
    pub rate_limit: Option<u32>,
    /// Seconds that a client may take for the head of a request, and between requests (30)
    #[arg(long, value_name = "SECONDS", env = "PUGMARK_HEADER_SECONDS")]
    pub header_seconds: Option<u64>,
    /// Seconds that a client may take for the body of a request (60)
    #[arg(long, value_name = "SECONDS", env = "PUGMARK_BODY_SECONDS")]
    pub body_seconds: Option<u64>,
    /// Memory of a statement, as 512MB
    #[arg(long, value_name = "SIZE", env = "PUGMARK_QUERY_MEMORY")]
    pub query_memory: Option<String>,
    /// Longest time of a statement, as 60s
    #[arg(long, value_name = "TIME", env = "PUGMARK_QUERY_DEADLINE")]
    pub query_deadline: Option<String>,
    /// Statements at a time; more wait (4)
    #[arg(long, value_name = "N", env = "PUGMARK_QUERIES")]
    pub queries: Option<usize>,
    /// How much is logged: error, warn, info, debug, or directives of tracing (info)
    #[arg(long, value_name = "LEVEL", env = "PUGMARK_LOG")]
    pub log: Option<String>,
    /// How it is logged (text)
    #[arg(long, value_name = "FORM", env = "PUGMARK_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Check the settings, say what they come to, and end
    #[arg(long)]
    pub check: bool,
}

/// Where something is served, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Listen {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

impl Listen {
    /// Where it is served; `None` where it is not.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => address.parse().map(Self::At).map_err(|_| {
                format!(
                    "`{address}` is no address with a port such as 127.0.0.1:5439, and not `off`"
                )
            }),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => out.write_str("off"),
            Self::At(address) => address.fmt(out),
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// An object a line
    Json,
}

/// Settings as a file has them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    store: Option<PathBuf>,
    http: Option<SocketAddr>,
    pg: Option<Listen>,
    flight: Option<Listen>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    keys: Option<PathBuf>,
    max_body_bytes: Option<usize>,
    max_import_bytes: Option<u64>,
    max_connections: Option<usize>,
    rate_limit: Option<u32>,
    header_seconds: Option<u64>,
    body_seconds: Option<u64>,
    query_memory: Option<String>,
    query_deadline: Option<String>,
    queries: Option<usize>,
    log: Option<String>,
    log_format: Option<LogFormat>,
}

/// Settings, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The store.
    pub store: PathBuf,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where PostgreSQL's protocol is served.
    pub pg: Listen,
    /// Where Arrow Flight SQL is served.
    pub flight: Listen,
    /// The files of certificates and of their key, where connections are encrypted.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The file of keys.
    pub keys: PathBuf,
    /// Largest body of a request, packed or not, in bytes.
    pub max_body_bytes: usize,
    /// Largest file that is imported, in bytes.
    pub max_import_bytes: u64,
    /// Connections at a time.
    pub max_connections: usize,
    /// Requests a second of one key; 0 for any number.
    pub rate_limit: u32,
    /// How long the head of a request may take.
    pub header_time: Duration,
    /// How long the body of a request may take.
    pub body_time: Duration,
    /// Memory of a statement.
    pub query_memory: String,
    /// Longest time of a statement.
    pub query_deadline: String,
    /// Statements at a time.
    pub queries: usize,
    /// How much is logged.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// Settings that cannot be.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{}: {problem}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its place.
        problem: String,
    },
    /// A setting is out of bounds, or missing.
    #[error("{setting} {problem}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl Config {
    /// Puts file, environment and flags together, and checks them.
    ///
    /// # Errors
    /// Names the file, or the setting.
    pub fn new(flags: &ServeFlags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => ConfigFile::read(path)?,
            None => ConfigFile::default(),
        };
        let wrong = |setting, problem: &str| ConfigError::Setting {
            setting,
            problem: problem.to_owned(),
        };
        let store = flags.store.clone().or(file.store);
        let store = store.ok_or_else(|| wrong("store", "is not given: say --store DIR"))?;
        let keys = flags.keys.clone().or(file.keys);
        let seconds = |seconds: Option<u64>, usual| Duration::from_secs(seconds.unwrap_or(usual));
        let config = Self {
            keys: keys.unwrap_or_else(|| beside(&store)),
            store,
            http: flags.http.or(file.http).unwrap_or(local(8_686)),
            pg: flags.pg.or(file.pg).unwrap_or(Listen::At(local(5_439))),
            flight: flags
                .flight
                .or(file.flight)
                .unwrap_or(Listen::At(local(8_687))),
            tls: match (
                flags.tls_cert.clone().or(file.tls_cert),
                flags.tls_key.clone().or(file.tls_key),
            ) {
                (Some(cert), Some(key)) => Some((cert, key)),
                (None, None) => None,
                _ => {
                    let problem = "are given both, or neither";
                    return Err(wrong("tls_cert and tls_key", problem));
                }
            },
            max_body_bytes: flags
                .max_body_bytes
                .or(file.max_body_bytes)
                .unwrap_or(10 << 20),
            max_import_bytes: flags
                .max_import_bytes
                .or(file.max_import_bytes)
                .unwrap_or(64 << 30),
            max_connections: flags
                .max_connections
                .or(file.max_connections)
                .unwrap_or(20_000),
            rate_limit: flags.rate_limit.or(file.rate_limit).unwrap_or(0),
            header_time: seconds(flags.header_seconds.or(file.header_seconds), 30),
            body_time: seconds(flags.body_seconds.or(file.body_seconds), 60),
            query_memory: given(&flags.query_memory, file.query_memory, "512MB"),
            query_deadline: given(&flags.query_deadline, file.query_deadline, "60s"),
            queries: flags.queries.or(file.queries).unwrap_or(4),
            log: given(&flags.log, file.log, "info"),
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |setting, problem: &str| {
            Err(ConfigError::Setting {
                setting,
                problem: problem.to_owned(),
            })
        };
        // Packed and unpacked it must fit into the room for all.
        if !(1_024..=MOST_WAITING_BYTES / 2).contains(&self.max_body_bytes) {
            return wrong("max_body_bytes", "must lie between 1024 and 33554432");
        }
        if !(1..=1 << 20).contains(&self.max_connections) || !(1..=1 << 10).contains(&self.queries)
        {
            let most = "must be at least 1, and at most 1048576 and 1024";
            return wrong("max_connections and queries", most);
        }
        let times = Duration::from_secs(1)..=Duration::from_secs(86_400);
        if !times.contains(&self.header_time) || !times.contains(&self.body_time) {
            return wrong(
                "header_seconds and body_seconds",
                "must lie between 1 and 86400",
            );
        }
        self.query_settings()
            .map_err(|error| ConfigError::Setting {
                setting: "query_memory and query_deadline:",
                problem: error.to_string(),
            })?;
        Ok(())
    }

    /// The settings that statements begin with.
    ///
    /// # Errors
    /// Where a size or a time cannot be read.
    pub fn query_settings(
        &self,
    ) -> Result<pugmark_query::sql::Settings, pugmark_query::sql::SqlError> {
        let mut settings = pugmark_query::sql::Settings::default();
        settings.assign("memory_limit", &self.query_memory)?;
        settings.assign("deadline", &self.query_deadline)?;
        Ok(settings)
    }

    /// What the settings come to, a line each.
    pub fn told(&self) -> String {
        let rate = match self.rate_limit {
            0 => "any number".to_owned(),
            rate => rate.to_string(),
        };
        let tls = match &self.tls {
            None => "off".to_owned(),
            Some((cert, key)) => format!("{}, {}", cert.display(), key.display()),
        };
        format!(
            "store = {}\nhttp = {}\npg = {}\nflight = {}\ntls = {tls}\nkeys = {}\nmax_body_bytes = {}\nmax_import_bytes = {}\nmax_connections = {}\n\
             rate_limit = {rate}\nheader_seconds = {}\nbody_seconds = {}\nquery_memory = {}\n\
             query_deadline = {}\nqueries = {}\nlog = {}\nlog_format = {:?}\n",
            self.store.display(),
            self.http,
            self.pg,
            self.flight,
            self.keys.display(),
            self.max_body_bytes,
            self.max_import_bytes,
            self.max_connections,
            self.header_time.as_secs(),
            self.body_time.as_secs(),
            self.query_memory,
            self.query_deadline,
            self.queries,
            self.log,
            self.log_format,
        )
    }
}

/// This machine alone.
fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// The file of keys of a store: beside it, since what is in it is the engine's.
pub fn beside(store: &Path) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_owned();
    name.push(".keys.json");
    store.with_file_name(name)
}

/// Where the files of imports are kept while they come.
pub fn imports_beside(store: &Path) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_owned();
    name.push(".imports");
    store.with_file_name(name)
}

fn given(flag: &Option<String>, file: Option<String>, usual: &str) -> String {
    flag.clone().or(file).unwrap_or_else(|| usual.to_owned())
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Contents {
            path: path.to_owned(),
            problem: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(store: &str) -> ServeFlags {
        ServeFlags {
            store: Some(store.into()),
            ..ServeFlags::default()
        }
    }

    #[test]
    fn flags_win_over_the_file_and_it_over_what_is_usual() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pugmark.toml");
        let file = "store = 'a.pug'\nhttp = '127.0.0.1:1'\nqueries = 2\nlog_format = 'json'\n";
        std::fs::write(&path, file).unwrap();
        let config = Config::new(&ServeFlags {
            config: Some(path),
            queries: Some(3),
            ..ServeFlags::default()
        })
        .unwrap();
        assert_eq!(config.store, Path::new("a.pug"));
        assert_eq!(config.keys, Path::new("a.pug.keys.json"));
        assert_eq!((config.http.port(), config.queries), (1, 3));
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.body_time, Duration::from_secs(60));
        assert!(config.told().contains("query_memory = 512MB\n"));
    }

    #[test]
    fn what_cannot_be_is_told_by_its_name() {
        let told = |flags: &ServeFlags| Config::new(flags).unwrap_err().to_string();
        assert_eq!(
            told(&ServeFlags::default()),
            "store is not given: say --store DIR"
        );
        let mut small = flags("s");
        small.max_body_bytes = Some(5);
        assert!(told(&small).starts_with("max_body_bytes must lie between"));
        let mut memory = flags("s");
        memory.query_memory = Some("much".to_owned());
        assert!(told(&memory).contains("query_memory"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pugmark.toml");
        let mut file = flags("s");
        file.config = Some(path.clone());
        assert!(told(&file).starts_with("cannot read "));
        std::fs::write(&path, "htp = '127.0.0.1:1'\n").unwrap();
        assert!(
            told(&file).contains("unknown field `htp`"),
            "{}",
            told(&file)
        );
    }
}
