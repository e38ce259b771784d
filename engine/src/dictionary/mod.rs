//! The id dictionary: external user ids and their dense ordinals, both ways.

/// A sealed run of the dictionary, as the manifest names it: the ids of the ordinals
/// `first..first + count` in the file `ids/<number>.ids`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunMeta {
    /// The file's number.
    pub number: u64,
    /// The first ordinal.
    pub first: u32,
    /// How many ordinals.
    pub count: u32,
    /// The file's length in bytes.
    pub length: u64,
}
