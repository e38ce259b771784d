//! What a session has set: settings of Pugmark's own, and those that PostgreSQL's clients expect.

use std::collections::BTreeMap;

use pugmark_query::sql::{Session, Settings};

use super::failure::Failure;

/// The version of PostgreSQL whose clients' questions are answered.
pub(super) const SERVER_VERSION: &str = "15.0";

/// What PostgreSQL's clients ask for and set, with what it is first. None of it changes an answer.
pub(super) const KNOWN: [(&str, &str); 40] = [
    ("application_name", ""),
    ("array_nulls", "on"),
    ("backslash_quote", "safe_encoding"),
    ("bytea_output", "hex"),
    ("check_function_bodies", "on"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("constraint_exclusion", "partition"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_deferrable", "off"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("escape_string_warning", "on"),
    ("extra_float_digits", "1"),
    ("force_parallel_mode", "off"),
    ("geqo", "on"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("in_hot_standby", "off"),
    ("is_superuser", "off"),
    ("jit", "off"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("plan_cache_mode", "auto"),
    ("row_security", "on"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "150000"),
    ("session_authorization", "pugmark"),
    ("standard_conforming_strings", "on"),
    ("synchronous_commit", "on"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
    ("work_mem", "4MB"),
];

/// Those that are of the server, or that nothing here could honour.
const FIXED: [&str; 10] = [
    "integer_datetimes",
    "in_hot_standby",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "max_identifier_length",
    "max_index_keys",
    "server_encoding",
    "server_version",
    "server_version_num",
];

/// Those whose changes clients are told, as they spell them.
pub(super) const TOLD: [&str; 12] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
];

/// Settings of Pugmark's own.
const OWN: [&str; 8] = [
    "as_of",
    "deadline",
    "memory_limit",
    "spill_limit",
    "statement_timeout",
    "threads",
    "time_zone",
    "timezone",
];

/// Most settings that a session sets.
const MOST_SET: usize = 256;

/// What a session has set.
#[derive(Debug, Default)]
pub(super) struct Variables {
    set: BTreeMap<String, String>,
}

impl Variables {
    /// What a variable is; `None` where there is none of this name.
    pub(super) fn get(&self, name: &str, settings: &Settings) -> Option<String> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "timezone" | "time_zone" => return Some(settings.zone_name().to_owned()),
            "statement_timeout" | "deadline" => {
                let millis = settings.deadline.map_or(0, |limit| limit.as_millis());
                return Some(format!("{millis}ms"));
            }
            "memory_limit" => return Some(format!("{}kB", settings.memory_bytes >> 10)),
            "spill_limit" => return Some(format!("{}kB", settings.spill_bytes >> 10)),
            "threads" => return Some(settings.threads.unwrap_or_default().to_string()),
            "as_of" => {
                let time = settings.as_of.map(pugmark_engine::time::format_rfc3339);
                return Some(time.unwrap_or_default());
            }
            _ => {}
        }
        let known = KNOWN.iter().find(|(known, _)| *known == name);
        let first = known.map(|(_, first)| (*first).to_owned());
        self.set.get(&name).cloned().or(first)
    }

    /// All of them.
    pub(super) fn all(&self, settings: &Settings) -> Vec<(String, String)> {
        let own = OWN.iter().filter(|name| **name != "time_zone");
        let known = KNOWN.iter().map(|(name, _)| name).chain(own);
        let mut names: Vec<String> = known.map(|name| (*name).to_owned()).collect();
        names.extend(self.set.keys().cloned());
        names.sort();
        names.dedup();
        let all = names.into_iter().filter_map(|name| {
            let value = self.get(&name, settings)?;
            Some((name, value))
        });
        all.collect()
    }

    /// Sets a variable, or what it was first where there is no value. Settings of Pugmark's own
    /// stay within what the client's key may use.
    pub(super) fn set(
        &mut self,
        name: &str,
        value: Option<&str>,
        session: &Session,
        limits: &Settings,
    ) -> Result<(), Failure> {
        let name = name.to_ascii_lowercase();
        let known = KNOWN.iter().any(|(known, _)| *known == name);
        if OWN.contains(&name.as_str()) {
            return set_own(&name, value, session, limits);
        }
        if FIXED.contains(&name.as_str()) {
            let message = format!("`{name}` cannot be changed");
            return Err(Failure::new("55P02", message));
        }
        if !known && !name.contains('.') && !name.starts_with("enable_") {
            // Says which one was meant.
            let mut settings = session.settings();
            settings
                .assign(&name, value.unwrap_or("default"))
                .map_err(|error| Failure {
                    code: "42704",
                    ..error.into()
                })?;
        }
        if let Some(value) = value {
            check(&name, value)?;
        }
        let full = self.set.len() >= MOST_SET && !self.set.contains_key(&name);
        if name.len() > 63 || (full && value.is_some()) {
            let message =
                format!("a session has {MOST_SET} settings, with names of up to 63 letters");
            return Err(Failure::new("53400", message));
        }
        match value {
            Some(value) => self.set.insert(name, value.to_owned()),
            None => self.set.remove(&name),
        };
        Ok(())
    }

    /// Everything is what it was first.
    pub(super) fn reset(&mut self, session: &Session, limits: &Settings) {
        let name = self.set.remove("application_name");
        self.set.clear();
        if let Some(name) = name {
            self.set.insert("application_name".to_owned(), name);
        }
        session.change(|settings| *settings = limits.clone());
    }
}

/// Refuses what answers could not honour.
fn check(name: &str, value: &str) -> Result<(), Failure> {
    if value.len() > 1_024 {
        return Err(Failure::new(
            "22023",
            format!("the value of `{name}` is too long"),
        ));
    }
    let value = value.trim().to_ascii_uppercase();
    let honoured = match name {
        "client_encoding" => {
            matches!(value.replace(['-', '_'], "").as_str(), "UTF8" | "UNICODE")
        }
        "datestyle" => value.starts_with("ISO"),
        "intervalstyle" => value == "POSTGRES",
        "bytea_output" => value == "HEX",
        "standard_conforming_strings" => value == "ON",
        _ => true,
    };
    match honoured {
        true => Ok(()),
        false => Err(Failure::new(
            "22023",
            format!("`{name}` cannot be `{value}` here"),
        )),
    }
}

fn set_own(
    name: &str,
    value: Option<&str>,
    session: &Session,
    limits: &Settings,
) -> Result<(), Failure> {
    let mut settings = session.settings();
    match value {
        Some(value) => settings.assign(name, value).map_err(|error| Failure {
            code: "22023",
            ..error.into()
        })?,
        None => match name {
            "as_of" => settings.as_of = limits.as_of,
            "memory_limit" => settings.memory_bytes = limits.memory_bytes,
            "spill_limit" => settings.spill_bytes = limits.spill_bytes,
            "deadline" | "statement_timeout" => settings.deadline = limits.deadline,
            "threads" => settings.threads = limits.threads,
            _ => settings = settings.zone(limits.zone_name())?,
        },
    }
    let (bytes, spill) = (limits.memory_bytes, limits.spill_bytes);
    if settings.memory_bytes > bytes || settings.spill_bytes > spill {
        let message = format!(
            "a statement may hold {} MB here, and write {} MB of temporary files; SET less",
            bytes >> 20,
            spill >> 20
        );
        return Err(Failure::new("53200", message));
    }
    let machine = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = limits.threads.unwrap_or(machine);
    settings.threads = settings.threads.map(|own| own.min(threads));
    // No limit is the key's own.
    settings.deadline = match (settings.deadline, limits.deadline) {
        (Some(own), Some(most)) => Some(own.min(most)),
        (own, most) => own.or(most),
    };
    session.change(|own| *own = settings);
    Ok(())
}
