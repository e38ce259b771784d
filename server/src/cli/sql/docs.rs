//! The examples of the documentation are run: what is printed there is what comes out.
//!
//! A block of `sql` that a block of `text` follows is an example and its output, over the store of
//! `pugmark generate --events 200000`, as of midnight after its last day. With `PUGMARK_BLESS=1` the
//! outputs are written instead of compared.

use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use pugmark_engine::Store;
use pugmark_query::population::{Population, PopulationConfig};
use pugmark_query::sql::{Session, Settings, SqlError};

use crate::rows::table_text;

/// Midnight after the population's last day: 2025-04-01.
const AS_OF: &str = "2025-04-01T00:00:00Z";

fn documents() -> Vec<PathBuf> {
    let docs = Path::new("../docs");
    let names = ["query-language.md", "scenarios.md", "coming-from.md"];
    names.iter().map(|name| docs.join(name)).collect()
}

fn session(directory: &Path) -> Session {
    let population = Population::new(PopulationConfig::of_events(200_000));
    let bar = indicatif::ProgressBar::hidden();
    super::super::generate::into_store(&population, directory, &bar).unwrap();
    let store = Store::builder(directory).read_only().open().unwrap();
    let mut settings = Settings::default();
    settings.files = true;
    settings.assign("as_of", AS_OF).unwrap();
    Session::new(store).with_settings(settings)
}

fn answer(session: &Session, runtime: &tokio::runtime::Runtime, sql: &str) -> String {
    let told = runtime.block_on(async {
        let mut text = String::new();
        for statement in Session::parse(sql)? {
            let answer = session.run(statement).await?;
            let schema = answer.schema.clone();
            let batches: Vec<_> = answer.rows.try_collect().await?;
            text = table_text(&schema, &batches).map_err(|error| SqlError::Engine(error.into()))?;
        }
        Ok::<_, SqlError>(text)
    });
    told.unwrap_or_else(|error| format!("error: {error}"))
}

/// The document with the outputs of its examples as they are, and how many there are.
fn rerun(document: &str, ask: impl Fn(&str) -> String) -> (String, usize) {
    let mut told = String::new();
    let mut examples = 0;
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        told.push_str(line);
        told.push('\n');
        if line != "```sql" {
            continue;
        }
        let mut sql = String::new();
        for line in lines.by_ref() {
            told.push_str(line);
            told.push('\n');
            if line == "```" {
                break;
            }
            sql.push_str(line);
            sql.push('\n');
        }
        if lines.peek() == Some(&"```text") {
            lines.by_ref().find(|line| *line == "```");
            let output = ask(&sql);
            let lines: Vec<&str> = output.lines().map(str::trim_end).collect();
            told.push_str(&format!("```text\n{}\n```\n", lines.join("\n")));
            examples += 1;
        }
    }
    (told, examples)
}

#[test]
fn the_examples_of_the_documentation_are_true() {
    let directory = tempfile::tempdir().unwrap();
    let session = session(directory.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for path in documents() {
        let document = std::fs::read_to_string(&path).unwrap();
        let (told, examples) = rerun(&document, |sql| answer(&session, &runtime, sql));
        assert!(examples > 0, "{} has no example", path.display());
        if std::env::var_os("PUGMARK_BLESS").is_some() {
            std::fs::write(&path, told).unwrap();
            continue;
        }
        for (number, (is, was)) in told.lines().zip(document.lines()).enumerate() {
            assert_eq!(is, was, "{}:{}", path.display(), number + 1);
        }
        assert_eq!(
            told.lines().count(),
            document.lines().count(),
            "{}",
            path.display()
        );
    }
}
