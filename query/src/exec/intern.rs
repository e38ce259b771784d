//! Texts as small numbers, so that lists of them are short and compare fast.

use hashbrown::HashMap;

/// Texts, numbered in the order in which they first came.
#[derive(Debug, Default)]
pub(super) struct Interner {
    numbers: HashMap<String, u32>,
    text_bytes: usize,
}

impl Interner {
    /// The number of a text.
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if let Some(&known) = self.numbers.get(text) {
            return known;
        }
        let next = self.numbers.len() as u32;
        self.text_bytes += text.len();
        self.numbers.insert(text.to_owned(), next);
        next
    }

    /// The texts, each at the place of its number.
    pub(super) fn into_texts(self) -> Vec<String> {
        let mut texts: Vec<_> = self.numbers.into_iter().collect();
        texts.sort_unstable_by_key(|&(_, number)| number);
        texts.into_iter().map(|(text, _)| text).collect()
    }

    /// About how many bytes this holds.
    pub(super) fn byte_len(&self) -> usize {
        // An entry, a byte of control, and as much again for the room that a table keeps free.
        self.text_bytes + self.numbers.capacity() * 2 * (size_of::<(String, u32)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_at_their_numbers() {
        let mut interner = Interner::default();
        let numbers = ["b", "a", "b", "", "c", "a"].map(|text| interner.number(text));
        assert_eq!(numbers, [0, 1, 0, 2, 3, 1]);
        assert_eq!(interner.numbers.len(), 4);
        assert!(interner.byte_len() > 3);
        assert_eq!(interner.into_texts(), ["b", "a", "", "c"]);
    }
}
