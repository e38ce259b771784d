//! Text patterns: LIKE, and the prefixes, suffixes and parts that are special cases of it.

/// A pattern of literal pieces between wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    items: Vec<Item>,
    ignore_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    /// This character.
    Char(char),
    /// Any one character.
    One,
    /// Any text, also none.
    Many,
}

impl Pattern {
    /// `text`, with anything allowed before it and after it as said.
    pub(crate) fn literal(open_start: bool, text: &str, open_end: bool) -> Self {
        let start = open_start.then_some(Item::Many);
        let end = open_end.then_some(Item::Many);
        let items = start.into_iter().chain(text.chars().map(Item::Char));
        Self {
            items: items.chain(end).collect(),
            ignore_case: false,
        }
    }

    /// SQL's LIKE. An escape character at the very end stands for itself.
    pub(crate) fn like(pattern: &str, escape: Option<char>) -> Self {
        let mut items = Vec::new();
        let mut chars = pattern.chars();
        while let Some(char) = chars.next() {
            items.push(match char {
                _ if Some(char) == escape => Item::Char(chars.next().unwrap_or(char)),
                '%' => Item::Many,
                '_' => Item::One,
                _ => Item::Char(char),
            });
        }
        items.dedup_by(|next, item| *next == Item::Many && *item == Item::Many);
        Self {
            items,
            ignore_case: false,
        }
    }

    pub(crate) fn ignoring_case(self) -> Self {
        let items = self.items.into_iter().flat_map(|item| match item {
            Item::Char(char) => char.to_lowercase().map(Item::Char).collect(),
            other => vec![other],
        });
        Self {
            items: items.collect(),
            ignore_case: true,
        }
    }

    /// The pattern as LIKE writes it, with `\` before what stands for itself.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for item in &self.items {
            match item {
                Item::Char(char @ ('%' | '_' | '\\')) => text.extend(['\\', *char]),
                Item::Char(char) => text.push(*char),
                Item::One => text.push('_'),
                Item::Many => text.push('%'),
            }
        }
        text
    }

    /// True where case does not matter.
    pub(super) fn ignores_case(&self) -> bool {
        self.ignore_case
    }

    /// True where the whole of `text` matches. Time: at most text times pattern.
    pub(crate) fn matches(&self, text: &str) -> bool {
        if self.ignore_case {
            let lower: String = text.chars().flat_map(char::to_lowercase).collect();
            self.matches_exactly(&lower)
        } else {
            self.matches_exactly(text)
        }
    }

    fn matches_exactly(&self, text: &str) -> bool {
        let mut chars = text.chars();
        let mut item = 0;
        // Where to go on if the text does not fit after the last `Many`: it swallows one more
        // character then. Earlier ones never need to swallow more.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            if self.items.get(item) == Some(&Item::Many) {
                item += 1;
                retry = Some((item, chars.clone()));
                continue;
            }
            let next = chars.next();
            let fits = match (self.items.get(item), next) {
                (None, None) => return true,
                (Some(Item::One), Some(_)) => true,
                (Some(Item::Char(expected)), Some(char)) => *expected == char,
                _ => false,
            };
            if fits {
                item += 1;
                continue;
            }
            match &mut retry {
                Some((resume, rest)) if next.is_some() => {
                    rest.next();
                    item = *resume;
                    chars = rest.clone();
                }
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// LIKE by its definition.
    fn judge(pattern: &[Item], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((Item::Many, rest)), _) => {
                (0..=text.len()).any(|skip| judge(rest, &text[skip..]))
            }
            (Some((Item::One, rest)), Some((_, text))) => judge(rest, text),
            (Some((Item::Char(expected), rest)), Some((char, text))) => {
                expected == char && judge(rest, text)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn like_is_its_definition(pattern in "[aé%_]{0,7}", text in "[aéb]{0,9}") {
            let pattern = Pattern::like(&pattern, Some('\\'));
            let text_chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(pattern.matches(&text), judge(&pattern.items, &text_chars));
        }
    }

    #[test]
    fn escapes_and_case() {
        assert!(Pattern::like("100\\%", Some('\\')).matches("100%"));
        assert!(!Pattern::like("100\\%", Some('\\')).matches("1000"));
        assert!(Pattern::like("a!_b", Some('!')).matches("a_b"));
        assert!(!Pattern::like("a!_b", Some('!')).matches("acb"));
        assert!(
            Pattern::like("%ÄPFEL%", None)
                .ignoring_case()
                .matches("drei äpfel")
        );
        assert!(!Pattern::like("%ÄPFEL%", None).matches("drei äpfel"));
        assert!(Pattern::literal(false, "50%", true).matches("50% off"));
        assert!(!Pattern::literal(false, "50%", true).matches("500 off"));
    }
}
