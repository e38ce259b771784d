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
    for token in tokens {
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
    }
}
