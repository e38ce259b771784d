//! Who comes to the shop. A person is a rank (0 is the most active); everything about a person
//! follows from the rank and the seed, so nothing is stored for anybody.

use super::random::{Random, mix};

/// Where the power law of activity goes flat: the most active users have about 130 times the
/// average.
const ACTIVITY_KNEE: f64 = 0.05;

/// Platforms, most used first.
pub(super) const PLATFORMS: [&str; 5] = ["android", "ios", "web", "mobile_web", "tv"];

/// How far a person goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    /// Comes and searches, never looks at a product (5 %).
    Passing,
    /// Looks at products (53 %).
    Browsing,
    /// Puts products in the cart as well (32 %).
    Collecting,
    /// Buys, days after filling the cart (5.6 %).
    BuyingLate,
    /// Buys in the session in which the cart was filled (4.4 %).
    Buying,
}

/// All people of a population.
#[derive(Clone, Debug)]
pub(super) struct People {
    count: u64,
    seed: u64,
    birth_stride: u64,
    id_mask: u64,
}

impl People {
    pub(super) fn new(count: u64, seed: u64) -> Self {
        // The golden ratio spreads neighbours of the birth order over all ranks; a stride
        // coprime to the count visits every rank once.
        let mut birth_stride = (count * 618 / 1_000).max(1);
        while greatest_common_divisor(birth_stride, count) != 1 {
            birth_stride += 1;
        }
        Self {
            count,
            seed,
            birth_stride,
            id_mask: (2 * count).next_power_of_two() - 1,
        }
    }

    /// The rank of the `position`-th person to arrive for the first time, if nobody is drawn by
    /// activity earlier.
    pub(super) fn born_at(&self, position: u64) -> u32 {
        (position * self.birth_stride % self.count) as u32
    }

    /// A person, by activity.
    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        random.power_law(self.count, ACTIVITY_KNEE) as u32
    }

    /// The user id of a person: distinct, and telling nothing of the rank.
    pub(super) fn user_id(&self, rank: u32) -> i64 {
        // An odd factor permutes the residues modulo a power of two.
        500_000_000 + (u64::from(rank).wrapping_mul(0x2545_F491_4F6C_DD1D) & self.id_mask) as i64
    }

    pub(super) fn habit(&self, rank: u32) -> Habit {
        match self.bits(rank) % 1_000 {
            0..50 => Habit::Passing,
            50..580 => Habit::Browsing,
            580..900 => Habit::Collecting,
            900..956 => Habit::BuyingLate,
            _ => Habit::Buying,
        }
    }

    /// The platform of a session: nearly always the person's own.
    pub(super) fn platform(&self, rank: u32, random: &mut Random) -> u8 {
        let own = self.bits(rank) >> 40;
        let roll = if random.chance(920) {
            own
        } else {
            random.next()
        };
        match roll % 100 {
            0..38 => 0,
            38..65 => 1,
            65..90 => 2,
            90..98 => 3,
            _ => 4,
        }
    }

    fn bits(&self, rank: u32) -> u64 {
        mix(u64::from(rank) ^ mix(self.seed ^ 0x009E_091E))
    }
}

fn greatest_common_divisor(mut left: u64, mut right: u64) -> u64 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn everybody_is_born_once_with_an_id_of_their_own() {
        for count in [1u64, 2, 3, 10, 999, 65_536] {
            let people = People::new(count, 9);
            let ranks: HashSet<u32> = (0..count)
                .map(|position| people.born_at(position))
                .collect();
            assert_eq!(ranks.len() as u64, count);
            let ids: HashSet<i64> = ranks.iter().map(|&rank| people.user_id(rank)).collect();
            assert_eq!(ids.len() as u64, count);
        }
    }
}
