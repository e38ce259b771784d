//! The prompt: history, completion of names, a few commands of its own.

use std::path::PathBuf;

use pugmark_query::sql::SqlNames;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter};

use super::super::CliError;
use super::super::progress::say;
use super::{Asker, Format};

const HELP: &str = "\
Statements end with a semicolon and may span lines; Ctrl-C stops one, Tab completes names.
  \\d [TABLE]    tables, or the columns of one      \\de          event names
  \\df           functions that stand in FROM       \\timing      tell what statements take, or not
  \\format F     table, csv, json or ndjson         \\q           leave
SET as_of = '2025-03-01T12:00:00Z' sets the present of the questions, SET time_zone their days.";

const WORDS: [&str; 38] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "HAVING",
    "JOIN",
    "LEFT JOIN",
    "USING",
    "AND",
    "OR",
    "NOT",
    "IN",
    "IS NULL",
    "BETWEEN",
    "LIKE",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "AS",
    "DISTINCT",
    "count(*)",
    "INTERVAL",
    "EXPLAIN",
    "EXPLAIN ANALYZE",
    "COPY",
    "SET",
    "did(",
    "step(",
    "within =>",
    "last =>",
    "at_least =>",
    "holding =>",
    "then_within =>",
    "not_then =>",
];

/// Reads statements until the end of the input.
pub(super) fn run(asker: &mut Asker) -> Result<(), CliError> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .max_history_size(10_000)
        .map_err(stopped)?
        .build();
    let mut editor: Editor<NameHelper, DefaultHistory> =
        Editor::with_config(config).map_err(stopped)?;
    editor.set_helper(Some(NameHelper {
        words: words(&asker.session.names()?),
    }));
    let history = history_file();
    if let Some(history) = &history {
        let _none_yet = editor.load_history(history);
    }
    say("Type \\? for help, \\q to leave.");
    loop {
        match editor.readline("pugmark> ") {
            Ok(line) => {
                let line = line.trim();
                if line.is_empty() {
                    continue;
                }
                let _kept = editor.add_history_entry(line);
                if line == "\\q" {
                    break;
                }
                if let Err(error) = obey(asker, line) {
                    say(&format!("error: {error}"));
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(stopped(error)),
        }
    }
    if let Some(history) = &history {
        let _kept = editor.save_history(history);
    }
    Ok(())
}

fn stopped(_error: ReadlineError) -> CliError {
    CliError::Stopped("the terminal could not be read; give the statement as an argument")
}

fn obey(asker: &mut Asker, line: &str) -> Result<(), CliError> {
    let Some(command) = line.strip_prefix('\\') else {
        return asker.ask_all(line);
    };
    let (command, rest) = command
        .split_once(char::is_whitespace)
        .unwrap_or((command, ""));
    let rest = rest.trim();
    match command {
        "?" => say(HELP),
        "d" if rest.is_empty() => {
            for (table, columns) in asker.session.names()?.tables {
                say(&format!("{table}  {} columns", columns.len()));
            }
        }
        "d" => {
            let names = asker.session.names()?;
            let Some((_, columns)) = names.tables.iter().find(|(table, _)| table == rest) else {
                return Err(CliError::Stopped("there are the tables events and users"));
            };
            let width = columns.iter().map(|(name, _)| name.chars().count()).max();
            for (name, kind) in columns {
                say(&format!(
                    "{name:width$}  {kind}",
                    width = width.unwrap_or(0)
                ));
            }
        }
        "de" => asker
            .session
            .names()?
            .events
            .iter()
            .for_each(|name| say(name)),
        "df" => asker
            .session
            .names()?
            .functions
            .iter()
            .for_each(|name| say(name)),
        "timing" => {
            asker.timing = !asker.timing;
            say(if asker.timing {
                "timing is on"
            } else {
                "timing is off"
            });
        }
        "format" => {
            let formats = [
                ("table", Format::Table),
                ("csv", Format::Csv),
                ("json", Format::Json),
                ("ndjson", Format::Ndjson),
            ];
            match formats.iter().find(|(name, _)| *name == rest) {
                Some((_, format)) => asker.format = *format,
                None => return Err(CliError::Stopped("formats are table, csv, json and ndjson")),
            }
        }
        _ => {
            return Err(CliError::Stopped(
                "there is no such command; \\? tells which there are",
            ));
        }
    }
    Ok(())
}

fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state =
        state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")));
    let directory = state?.join("pugmark");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("history"))
}

fn words(names: &SqlNames) -> Vec<String> {
    let mut words: Vec<String> = WORDS.iter().map(|word| (*word).to_owned()).collect();
    words.extend(names.events.iter().map(|name| format!("'{name}'")));
    words.extend(names.functions.iter().map(|name| format!("{name}(")));
    for (table, columns) in &names.tables {
        words.push(table.clone());
        words.extend(columns.iter().map(|(name, _)| name.clone()));
    }
    words.sort();
    words.dedup();
    words
}

/// Completes names.
#[derive(Helper, Highlighter, Hinter)]
struct NameHelper {
    words: Vec<String>,
}

/// Where the word that ends at `position` begins.
fn word_start(line: &str, position: usize) -> usize {
    let before = &line[..position];
    let inside = |letter: char| letter.is_alphanumeric() || "_.'".contains(letter);
    before.rfind(|letter| !inside(letter)).map_or(0, |at| {
        at + before[at..].chars().next().map_or(1, char::len_utf8)
    })
}

impl Completer for NameHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = word_start(line, position);
        let begun = line[start..position].to_lowercase();
        let fitting = self
            .words
            .iter()
            .filter(|word| !begun.is_empty() && word.to_lowercase().starts_with(&begun));
        let pairs = fitting.map(|word| Pair {
            display: word.clone(),
            replacement: word.clone(),
        });
        Ok((start, pairs.collect()))
    }
}

impl Validator for NameHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let line = context.input().trim();
        let whole = line.is_empty() || line.starts_with('\\') || line.ends_with(';');
        Ok(match whole {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_at_the_cursor() {
        assert_eq!(word_start("SELECT us", 9), 7);
        assert_eq!(word_start("did('vi", 7), 4);
        assert_eq!(word_start("", 0), 0);
        assert_eq!(word_start("größe,pr", 10), 8);
    }

    #[test]
    fn names_are_completed() {
        let helper = NameHelper {
            words: words(&SqlNames {
                events: vec!["view".to_owned()],
                tables: vec![("users".to_owned(), vec![("plan".to_owned(), String::new())])],
                functions: vec!["funnel".to_owned()],
            }),
        };
        let history = DefaultHistory::new();
        let complete = |line: &str| {
            let (start, pairs) = helper
                .complete(line, line.len(), &Context::new(&history))
                .unwrap();
            (
                start,
                pairs
                    .into_iter()
                    .map(|pair| pair.replacement)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(complete("SELECT pl"), (7, vec!["plan".to_owned()]));
        assert_eq!(
            complete("SELECT * FROM fun"),
            (14, vec!["funnel(".to_owned()])
        );
        assert_eq!(complete("did('v"), (4, vec!["'view'".to_owned()]));
        assert!(complete("").1.is_empty());
    }
}
