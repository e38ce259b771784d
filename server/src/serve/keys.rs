//! Keys that clients show. A key is told once, when it is made; what is kept is its hash.

use std::collections::BTreeSet;
use std::io::Write;
use std::num::NonZero;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use pugmark_engine::time::format_rfc3339;
use pugmark_query::sql::Settings;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// What a key allows.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Send events
    Ingest,
    /// Ask questions
    Query,
    /// Everything, and figures of the service
    Admin,
}

/// What a key may use. Where it says nothing, the service's own limits stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a second; 0 for any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,
    /// Statements at a time; more wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<NonZero<u32>>,
    /// Memory of a statement, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_memory_bytes: Option<usize>,
    /// Longest time of a statement, in milliseconds; 0 for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_deadline_ms: Option<u64>,
}

impl Limits {
    /// What statements begin with.
    pub fn settings(&self, service: &Settings) -> Settings {
        let mut settings = service.clone();
        if let Some(bytes) = self.query_memory_bytes {
            settings.memory_bytes = bytes;
        }
        if let Some(millis) = self.query_deadline_ms {
            settings.deadline = (millis > 0).then(|| Duration::from_millis(millis));
        }
        settings
    }

    /// True where nothing is said.
    pub fn are_the_services(&self) -> bool {
        *self == Self::default()
    }

    /// The limits that are said in the place of those that were.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        Self {
            rate_limit: self.rate_limit.or(before.rate_limit),
            queries: self.queries.or(before.queries),
            query_memory_bytes: self.query_memory_bytes.or(before.query_memory_bytes),
            query_deadline_ms: self.query_deadline_ms.or(before.query_deadline_ms),
        }
    }
}

/// A key, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What it is called by when it is revoked.
    pub id: String,
    /// Whose it is, for people.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Limits::are_the_services")]
    pub limits: Limits,
    /// SHA-256 of its text, in hexadecimal digits.
    hash: String,
}

/// Reading or writing keys failed.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file of keys could not be read or written.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file does not hold keys.
    #[error("{} does not hold keys: {problem}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No key has this id.
    #[error("no key has the id `{0}`; `pugmark keys list` tells those that there are")]
    Unknown(String),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// A file of keys.
#[derive(Clone, Debug)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The keys in a file, which need not exist.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys; none where there is no file.
    ///
    /// # Errors
    /// Where the file cannot be read, or holds something else.
    pub fn read(&self) -> Result<Vec<Key>, KeyError> {
        let json = match std::fs::read(&self.path) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.io("read", source)),
        };
        serde_json::from_slice(&json).map_err(|error| KeyError::Contents {
            path: self.path.clone(),
            problem: error.to_string(),
        })
    }

    /// Makes a key, and tells its text: the only time that anybody does.
    ///
    /// # Errors
    /// Where the file cannot be read or written.
    pub fn create(
        &self,
        name: &str,
        scopes: BTreeSet<Scope>,
        limits: Limits,
        now: i64,
    ) -> Result<(Key, String), KeyError> {
        let mut random = [0; 32 + 4];
        getrandom::fill(&mut random).map_err(KeyError::Random)?;
        let (secret, id) = random.split_at(32);
        let text = format!("pmk_{}", hexadecimal(secret));
        let key = Key {
            id: hexadecimal(id),
            name: name.to_owned(),
            scopes,
            created: format_rfc3339(now),
            limits,
            hash: hexadecimal(&hash(&text)),
        };
        let _locked = self.lock()?;
        let mut keys = self.read()?;
        keys.push(key.clone());
        self.write(&keys)?;
        Ok((key, text))
    }

    /// Takes a key back.
    ///
    /// # Errors
    /// Where there is none of this id, or the file cannot be read or written.
    pub fn revoke(&self, id: &str) -> Result<Key, KeyError> {
        let _locked = self.lock()?;
        let mut keys = self.read()?;
        let revoked = keys.remove(place(&keys, id)?);
        self.write(&keys)?;
        Ok(revoked)
    }

    /// Changes what a key may use; the key as it is then.
    ///
    /// # Errors
    /// Where there is none of this id, or the file cannot be read or written.
    pub fn limit(&self, id: &str, change: impl FnOnce(Limits) -> Limits) -> Result<Key, KeyError> {
        let _locked = self.lock()?;
        let mut keys = self.read()?;
        let place = place(&keys, id)?;
        keys[place].limits = change(keys[place].limits);
        self.write(&keys)?;
        Ok(keys.swap_remove(place))
    }

    /// Writes beside the file and puts it into its place, so that nobody reads half of it.
    fn write(&self, keys: &[Key]) -> Result<(), KeyError> {
        let json = serde_json::to_vec_pretty(keys).map_err(|error| KeyError::Contents {
            path: self.path.clone(),
            problem: error.to_string(),
        })?;
        let directory = self.directory();
        let written = tempfile::NamedTempFile::new_in(directory).and_then(|mut file| {
            file.write_all(&json)?;
            // Whoever could read it, the service above all, still can.
            match std::fs::metadata(&self.path) {
                Ok(old) => {
                    file.as_file().set_permissions(old.permissions())?;
                    let _not_root = chown(file.path(), Some(old.uid()), Some(old.gid()));
                }
                Err(_) => {
                    let owner = std::fs::metadata(directory)?;
                    let _not_root = chown(file.path(), Some(owner.uid()), Some(owner.gid()));
                }
            }
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            std::fs::File::open(directory)?.sync_all()
        });
        written.map_err(|source| self.io("write", source))
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Keeps other processes from changing the keys as long as it is held.
    fn lock(&self) -> Result<std::fs::File, KeyError> {
        let locked = std::fs::File::open(self.directory()).and_then(|directory| {
            directory.lock()?;
            Ok(directory)
        });
        locked.map_err(|source| self.io("lock the directory of", source))
    }

    fn io(&self, operation: &'static str, source: std::io::Error) -> KeyError {
        KeyError::Io {
            operation,
            path: self.path.clone(),
            source,
        }
    }
}

/// Where the key of an id is.
fn place(keys: &[Key], id: &str) -> Result<usize, KeyError> {
    let place = keys.iter().position(|key| key.id == id);
    place.ok_or_else(|| KeyError::Unknown(id.to_owned()))
}

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Anybody: no keys are configured.
    Anybody,
    /// Somebody who showed this key.
    Key(Arc<Key>),
}

impl Caller {
    /// The id of the key.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Anybody => None,
            Self::Key(key) => Some(&key.id),
        }
    }

    /// Somebody with a key of this id.
    #[cfg(test)]
    pub(super) fn sample(id: &str, scope: Scope, limits: Limits) -> Self {
        Self::Key(Arc::new(Key {
            id: id.to_owned(),
            name: String::new(),
            scopes: BTreeSet::from([scope]),
            created: String::new(),
            limits,
            hash: String::new(),
        }))
    }

    /// What may be used.
    pub fn limits(&self) -> Limits {
        match self {
            Self::Anybody => Limits::default(),
            Self::Key(key) => key.limits,
        }
    }

    /// The id of the key with its number of statements at a time, where it has one.
    pub(super) fn places(&self) -> Option<(&str, usize)> {
        let most = self.limits().queries?;
        Some((self.id()?, most.get() as usize))
    }

    /// True where this caller's business is what another asked: their own, or anything for an
    /// administrator.
    pub fn may_see(&self, other: &Self) -> bool {
        match self {
            Self::Anybody => true,
            Self::Key(key) => {
                key.scopes.contains(&Scope::Admin) || other.id() == Some(key.id.as_str())
            }
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// No key was shown, or one that there is not.
    #[error(
        "show a key that may do this: as the user of Basic authentication, or as a Bearer token"
    )]
    Unknown,
    /// The key does not allow this.
    #[error("this key may not do this; make one with the scope that it needs")]
    Scope,
}

/// How long keys are taken to be those that were read.
const FRESH: Duration = Duration::from_secs(1);

/// The keys of a running service. A file that changes is read again within a second.
#[derive(Debug)]
pub struct Gate {
    file: KeyFile,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    keys: Vec<(Arc<Key>, Vec<u8>)>,
    version: Option<Version>,
    looked: Instant,
    /// Keys were asked for once, and so are for ever: taking the last one back opens nothing.
    locked: bool,
}

impl Gate {
    /// Reads the keys.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn open(file: KeyFile) -> Result<Self, KeyError> {
        let version = version(&file);
        let keys = hashed(file.read()?);
        let known = Known {
            locked: version.is_some(),
            version,
            keys,
            looked: Instant::now(),
        };
        Ok(Self {
            file,
            known: Mutex::new(known),
        })
    }

    /// True where keys are asked for.
    pub fn is_locked(&self) -> bool {
        self.look(|known| known.locked)
    }

    /// Who shows this key, where it allows something.
    ///
    /// # Errors
    /// Where it does not.
    pub fn admit(&self, shown: Option<&str>, scope: Scope) -> Result<Caller, Denied> {
        self.look(|known| {
            if !known.locked {
                return Ok(Caller::Anybody);
            }
            let shown = hash(shown.ok_or(Denied::Unknown)?);
            // All are compared, each in constant time.
            let mut found = None;
            for (key, hash) in &known.keys {
                if bool::from(hash.ct_eq(&shown[..])) {
                    found = Some(key);
                }
            }
            let key = found.ok_or(Denied::Unknown)?;
            match key.scopes.contains(&scope) || key.scopes.contains(&Scope::Admin) {
                true => Ok(Caller::Key(Arc::clone(key))),
                false => Err(Denied::Scope),
            }
        })
    }

    fn look<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.elapsed() > FRESH {
            known.looked = Instant::now();
            let version = version(&self.file);
            if version != known.version {
                known.locked |= version.is_some();
                known.keys = match self.file.read() {
                    Ok(keys) => {
                        known.version = version;
                        hashed(keys)
                    }
                    // One of the keys may have been taken back: none is good until it can be read.
                    Err(error) => {
                        tracing::error!(%error, "no key is taken");
                        Vec::new()
                    }
                };
            }
        }
        look(&known)
    }
}

/// What changes with a file: when, which and how long it is.
type Version = (SystemTime, u64, u64);

fn version(file: &KeyFile) -> Option<Version> {
    let metadata = std::fs::metadata(&file.path).ok()?;
    Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
}

fn hashed(keys: Vec<Key>) -> Vec<(Arc<Key>, Vec<u8>)> {
    let hashed = keys.into_iter().map(|key| {
        let digits: Vec<u8> = key.hash.bytes().collect();
        let bytes = digits.chunks(2).map(|pair| {
            let text = std::str::from_utf8(pair).unwrap_or_default();
            u8::from_str_radix(text, 16).unwrap_or_default()
        });
        let hash = bytes.collect();
        (Arc::new(key), hash)
    });
    hashed.collect()
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_once_kept_hashed_and_revoked() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::new(&directory.path().join("keys.json"));
        let gate = Gate::open(file.clone()).unwrap();
        assert_eq!(gate.admit(None, Scope::Admin), Ok(Caller::Anybody));
        let (ingest, text) = file
            .create(
                "shop",
                BTreeSet::from([Scope::Ingest]),
                Limits::default(),
                0,
            )
            .unwrap();
        let (_, admin) = file
            .create("ops", BTreeSet::from([Scope::Admin]), Limits::default(), 0)
            .unwrap();
        let kept = std::fs::read_to_string(file.path()).unwrap();
        assert!(!kept.contains(&text) && !kept.contains(&text[4..]));
        let gate = Gate::open(file.clone()).unwrap();
        assert!(gate.is_locked());
        let caller = Caller::Key(Arc::new(ingest.clone()));
        assert_eq!(gate.admit(Some(&text), Scope::Ingest), Ok(caller));
        assert_eq!(gate.admit(Some(&text), Scope::Query), Err(Denied::Scope));
        assert!(gate.admit(Some(&admin), Scope::Query).is_ok());
        assert_eq!(gate.admit(Some("pmk_"), Scope::Query), Err(Denied::Unknown));
        assert_eq!(gate.admit(None, Scope::Ingest), Err(Denied::Unknown));
        file.revoke(&ingest.id).unwrap();
        assert!(matches!(file.revoke(&ingest.id), Err(KeyError::Unknown(_))));
        let gate = Gate::open(file.clone()).unwrap();
        assert_eq!(gate.admit(Some(&text), Scope::Ingest), Err(Denied::Unknown));
        // Taking the last key back opens nothing, now or later.
        let admin = file.read().unwrap().remove(0);
        file.revoke(&admin.id).unwrap();
        let gate = Gate::open(file).unwrap();
        assert_eq!(gate.admit(None, Scope::Query), Err(Denied::Unknown));
    }

    #[test]
    fn a_keys_limits_stand_over_the_services() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::new(&directory.path().join("keys.json"));
        let limits = Limits {
            query_memory_bytes: Some(1 << 20),
            query_deadline_ms: Some(0),
            ..Limits::default()
        };
        let (key, _) = file
            .create("few", BTreeSet::from([Scope::Query]), limits, 0)
            .unwrap();
        let mut service = Settings::default();
        service.deadline = Some(Duration::from_secs(60));
        let settings = file.read().unwrap()[0].limits.settings(&service);
        assert_eq!((settings.memory_bytes, settings.deadline), (1 << 20, None));
        let queries = Limits {
            queries: NonZero::new(2),
            ..Limits::default()
        };
        let changed = file.limit(&key.id, |before| queries.over(before)).unwrap();
        assert_eq!(
            changed.limits,
            Limits {
                queries: NonZero::new(2),
                ..limits
            }
        );
        assert_eq!(file.read().unwrap(), [changed]);
        assert!(matches!(
            file.limit("none", |limits| limits),
            Err(KeyError::Unknown(_))
        ));
        assert_eq!(
            Limits::default().settings(&service).deadline,
            service.deadline
        );
        // A file of before there were limits.
        let json = std::fs::read_to_string(file.path()).unwrap();
        let start = json.find(",\n    \"limits\"").unwrap();
        let end = start + json[start..].find('}').unwrap();
        std::fs::write(
            file.path(),
            format!("{}{}", &json[..start], &json[end + 1..]),
        )
        .unwrap();
        assert_eq!(file.read().unwrap()[0].limits, Limits::default());
    }

    #[test]
    fn what_holds_no_keys_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::new(&directory.path().join("keys.json"));
        let none = r#"[{"id": "a", "name": "", "scopes": [], "created": "", "hash": "",
                        "limits": {"queries": 0}}]"#;
        for json in ["", "{}", r#"[{"id": 1}]"#, none] {
            std::fs::write(file.path(), json).unwrap();
            assert!(matches!(
                Gate::open(file.clone()),
                Err(KeyError::Contents { .. })
            ));
        }
    }
}
