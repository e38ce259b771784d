//! Bytes that may be held for clients at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many bytes, of which requests take some. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Space {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// What a request holds of it; given back when dropped.
#[derive(Debug)]
pub struct Room {
    space: Space,
    bytes: usize,
}

/// There is no room for so many bytes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Space {
    /// Space for `most` bytes.
    pub fn new(most: usize) -> Self {
        Self {
            taken: Arc::default(),
            most,
        }
    }

    /// Room in it, none of it taken yet.
    pub fn room(&self) -> Room {
        Room {
            space: self.clone(),
            bytes: 0,
        }
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Room {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// Where there are not so many.
    pub fn take(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let before = self.space.taken.fetch_add(bytes, Ordering::Relaxed);
        self.bytes = self.bytes.saturating_add(bytes);
        match before.saturating_add(bytes) <= self.space.most {
            true => Ok(()),
            false => Err(NoRoom),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.space.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let space = Space::new(100);
        let (mut one, mut other) = (space.room(), space.room());
        one.take(60).unwrap();
        assert_eq!(other.take(60), Err(NoRoom));
        drop(other);
        assert_eq!(space.taken(), 60);
        one.take(40).unwrap();
        drop(one);
        assert_eq!(space.taken(), 0);
    }
}
