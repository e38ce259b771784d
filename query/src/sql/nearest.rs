//! "Did you mean": the known name that is nearest to an unknown one.

/// The candidate nearest to `name`, if any is near enough to be meant: at most a third of its
/// letters differ, upper and lower case taken alike. Of equals the first by bytes.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let wanted: Vec<char> = name
        .chars()
        .flat_map(char::to_lowercase)
        .take(256)
        .collect();
    let most = wanted.len().div_ceil(3).max(1);
    let scored = candidates.into_iter().filter_map(|candidate| {
        let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        let distance = distance(&wanted, &letters, most)?;
        Some((distance, candidate))
    });
    scored.min().map(|(_, candidate)| candidate)
}

/// Letters to insert, drop, replace or swap with their neighbour to make one of the other; `None`
/// where more than `most`.
fn distance(one: &[char], other: &[char], most: usize) -> Option<usize> {
    if one.len().abs_diff(other.len()) > most {
        return None;
    }
    let mut before_last = vec![0; other.len() + 1];
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut current = Vec::with_capacity(other.len() + 1);
        current.push(row + 1);
        for (column, other_letter) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != other_letter);
            let mut least = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped = row > 0
                && column > 0
                && *letter == other[column - 1]
                && one[row - 1] == *other_letter;
            if swapped {
                least = least.min(before_last[column - 1] + 1);
            }
            current.push(least);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    let found = last.last().copied().unwrap_or_default();
    (found <= most).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood_and_other_words_are_not() {
        let events = ["view", "cart", "purchase", "email_open"];
        assert_eq!(nearest("purchas", events), Some("purchase"));
        assert_eq!(nearest("Pruchase", events), Some("purchase"));
        assert_eq!(nearest("VIEW", events), Some("view"));
        assert_eq!(nearest("refund", events), None);
        assert_eq!(nearest("", events), None);
        assert_eq!(nearest("x", ["y", "x1"]), Some("x1"));
    }
}
