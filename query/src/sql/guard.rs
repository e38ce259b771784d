//! What is refused before it is parsed: texts that would cost more to take apart than any answer
//! is worth, or that could exhaust the stack.

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::error::SqlError;

/// Longest text of a statement, in bytes.
const MOST_BYTES: usize = 4 << 20;
/// Most operators and set operations: each may nest in the one before, and a thread of two megabytes
/// of stack must bear them.
const MOST_LINKS: usize = 600;
/// Most tokens that the parser may look at, besides eight times each: it reads what stands inside a
/// call twice, once in search of a name, so that calls inside calls double and double again.
const MOST_LOOKS: u64 = 1 << 18;
/// Most tables of one FROM.
pub(super) const MOST_TABLES: usize = 64;

/// Refuses texts that are too long or chain too much.
pub(super) fn check(text: &str) -> Result<(), SqlError> {
    if text.len() > MOST_BYTES {
        return Err(SqlError::of(format!(
            "the statement has {} bytes, more than {MOST_BYTES}; put long lists into a file and \
             join it",
            text.len()
        )));
    }
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| SqlError::Statement {
        place: Some(super::error::Place {
            line: error.location.line,
            column: error.location.column,
        }),
        problem: error.message,
    })?;
    let mut links = 0;
    let mut looks = Looks::default();
    for token in tokens {
        if looks.endless(&token.token) {
            return Err(SqlError::at(
                token.span,
                "the statement has too many calls or FROMs inside each other; build it up with WITH",
            ));
        }
        links += usize::from(is_link(&token.token));
        if links > MOST_LINKS {
            return Err(SqlError::at(
                token.span,
                format!(
                    "the statement chains more than {MOST_LINKS} operators; use IN (…) or a join"
                ),
            ));
        }
    }
    Ok(())
}

/// How often the parser will look at tokens, at most: also where it fails at the innermost.
#[derive(Default)]
struct Looks {
    tokens: u64,
    looks: u64,
    /// The brackets that are open.
    open: Vec<Opened>,
    /// How often what stands here is read twice.
    twice: u32,
    before: Opened,
    just_opened: bool,
}

/// What a bracket is of, which says how often all inside is read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Opened {
    #[default]
    Expression,
    /// Its arguments are read as names first.
    Call,
    /// Read as what the keyword means first, and then as a call.
    Keyword,
    /// Read as a subquery first.
    Table,
    /// Of an array, or else of a column named so.
    Subscript,
}

impl Opened {
    fn twice(self) -> u32 {
        match self {
            Self::Expression => 0,
            Self::Call | Self::Table | Self::Subscript => 1,
            Self::Keyword => 2,
        }
    }

    /// What a bracket behind a word is of.
    fn behind(word: Keyword) -> Self {
        match word {
            Keyword::NoKeyword => Self::Call,
            Keyword::FROM | Keyword::JOIN | Keyword::LATERAL => Self::Table,
            Keyword::IN
            | Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::WHERE
            | Keyword::ON
            | Keyword::WHEN
            | Keyword::THEN
            | Keyword::ELSE
            | Keyword::SELECT
            | Keyword::AS
            | Keyword::OVER
            | Keyword::UNION
            | Keyword::ALL
            | Keyword::HAVING => Self::Expression,
            _ => Self::Keyword,
        }
    }
}

impl Looks {
    /// Counts a token; true once there are too many looks.
    fn endless(&mut self, token: &Token) -> bool {
        let opened = std::mem::take(&mut self.just_opened);
        match token {
            Token::Whitespace(_) => {
                self.just_opened = opened;
                return false;
            }
            Token::LParen => {
                self.push(self.before);
                // More brackets may stand before a table; in an expression they cost nothing.
                if self.before != Opened::Table {
                    self.before = Opened::Expression;
                }
            }
            Token::LBracket => {
                self.push(Opened::Subscript);
                self.before = Opened::Expression;
            }
            Token::RParen | Token::RBracket => {
                let closed = self.open.pop().unwrap_or_default();
                self.twice -= closed.twice();
                self.before = Opened::Expression;
            }
            Token::Comma => self.before = Opened::Table,
            Token::Word(word) => {
                if opened && matches!(word.keyword, Keyword::SELECT | Keyword::WITH) {
                    self.is_subquery();
                }
                self.before = Opened::behind(word.keyword);
            }
            _ => self.before = Opened::Expression,
        }
        self.tokens += 1;
        self.looks = self.looks.saturating_add(1 << self.twice.min(40));
        self.looks > MOST_LOOKS + 8 * self.tokens
    }

    fn push(&mut self, opened: Opened) {
        self.open.push(opened);
        self.twice += opened.twice();
        self.just_opened = true;
    }

    /// What was opened last holds a subquery: a table is nothing else, and no name begins so.
    fn is_subquery(&mut self) {
        if let Some(last) = self.open.last_mut() {
            let is = match last {
                Opened::Keyword => Opened::Call,
                _ => Opened::Expression,
            };
            self.twice -= last.twice() - is.twice();
            *last = is;
        }
    }
}

fn is_link(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::IS
                | Keyword::BETWEEN
                | Keyword::COLLATE
                | Keyword::JOIN
                | Keyword::WHEN
        ),
        Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::Mod
        | Token::StringConcat
        | Token::DoubleColon
        | Token::LBracket
        | Token::Eq
        | Token::Lt
        | Token::Gt
        | Token::LtEq
        | Token::GtEq
        | Token::Neq
        | Token::Caret
        | Token::Pipe
        | Token::Ampersand
        | Token::Arrow
        | Token::LongArrow => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_statements_pass_and_endless_ones_do_not() {
        let ids: Vec<String> = (0..100_000).map(|id| format!("'{id}'")).collect();
        check(&format!("SELECT 1 WHERE user_id IN ({})", ids.join(","))).unwrap();
        let chain = "a = 1 OR ".repeat(400);
        let error = check(&format!("SELECT {chain} true")).unwrap_err();
        assert!(error.to_string().contains("chains more than"), "{error}");
        assert!(error.to_string().starts_with("line 1, column "), "{error}");
        assert!(check(&" ".repeat(MOST_BYTES + 1)).is_err());
        assert!(check("SELECT 'open").is_err());
        let calls = |depth: usize| format!("SELECT {}1{}", "f(".repeat(depth), ")".repeat(depth));
        check(&calls(12)).unwrap();
        check(&"SELECT * FROM (".repeat(20)).unwrap();
        assert!(check(&"array[".repeat(30)).is_err());
        assert!(check(&"CAST(".repeat(15)).is_err());
        let error = check(&calls(30)).unwrap_err().to_string();
        assert!(error.contains("inside each other"), "{error}");
        assert!(check(&format!("SELECT 1 FROM {}", "(".repeat(30))).is_err());
        check(&format!("SELECT {}1{}", "(".repeat(40), ")".repeat(40))).unwrap();
    }
}
