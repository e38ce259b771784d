//! Which event names get a run of their own.

/// The runs of a segment: the commonest names by themselves, sorted, the others in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameRuns {
    /// The names (by number) that have a run of their own, in the order of their text.
    pub(super) own: Vec<u32>,
    /// The run of each name, by its number. The overflow run is behind the others; a name
    /// without rows has none.
    pub(super) run_of: Vec<u32>,
    /// True where there is an overflow run.
    pub(super) has_overflow: bool,
}

/// Stands for the run of a name without rows.
const NO_RUN: u32 = u32::MAX;

impl NameRuns {
    /// Chooses among `names`, which have `rows` rows each, at most `most` for runs of their own:
    /// those with the most rows, and among equals the first by text.
    pub(super) fn choose(names: &[&str], rows: &[u32], most: usize) -> Self {
        let mut own: Vec<u32> = (0..names.len() as u32)
            .filter(|&name| rows[name as usize] > 0)
            .collect();
        let text = |&name: &u32| names[name as usize];
        let has_overflow = own.len() > most;
        let mut run_of = vec![NO_RUN; names.len()];
        if has_overflow {
            own.sort_unstable_by_key(|name| (u32::MAX - rows[*name as usize], text(name)));
            for rare in own.split_off(most) {
                run_of[rare as usize] = most as u32;
            }
        }
        own.sort_unstable_by_key(text);
        for (run, &name) in own.iter().enumerate() {
            run_of[name as usize] = run as u32;
        }
        Self {
            own,
            run_of,
            has_overflow,
        }
    }

    /// Each name in the run of its number.
    pub(super) fn identity(count: u32) -> Self {
        Self {
            own: (0..count).collect(),
            run_of: (0..count).collect(),
            has_overflow: false,
        }
    }

    /// True for the overflow run.
    pub(super) fn is_overflow(&self, run: u32) -> bool {
        self.has_overflow && run as usize == self.own.len()
    }

    /// Number of runs, the overflow run included.
    pub(super) fn len(&self) -> usize {
        self.own.len() + usize::from(self.has_overflow)
    }
}
