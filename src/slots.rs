//! Slots: where the tokens of sequences stand in a cache of keys and values.

use crate::error::{Result, RopeError};

/// What stands for no slot: the token is not written to the cache.
pub(crate) const NO_SLOT: i32 = -1;

/// The pages of a paged cache, and the block table that says whose they are. A page is what vLLM calls a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pages {
    /// Places of a page: tokens that it holds (`block_size`, `page_size`).
    pub page_size: u32,
    /// Pages of the cache.
    pub pages: u32,
    /// Columns of the block table: pages that a sequence may have.
    pub pages_per_sequence: u32,
}

/// By which rule a token's slot follows from its sequence and its position.
///
/// A slot is a place in a cache: slot s is place `s % page_size` of page `s / page_size`. A contiguous cache
/// `[sequences, heads, capacity, head_dim]` has a page for each sequence, of `capacity` places.
///
/// ```
/// use wgpu_rope::{Pages, SlotRule};
/// let contiguous = SlotRule::contiguous(2, 4096)?;
/// assert_eq!(contiguous.slot(1, 17, &[]), Some(4096 + 17));
/// assert_eq!(contiguous.slot(1, 4096, &[]), None);
/// // A window of 64 places, of which the first 4 stay what they are (attention sinks).
/// let ring = contiguous.with_ring(64, 4)?;
/// assert_eq!([3, 63, 64, 124].map(|p| ring.slot(0, p, &[])), [Some(3), Some(63), Some(4), Some(4)]);
/// let pages = Pages { page_size: 16, pages: 100, pages_per_sequence: 3 };
/// let paged = SlotRule::paged(2, pages)?;
/// assert_eq!(paged.slot(1, 17, &[7, 8, 9, /**/ 50, 51, -1]), Some(51 * 16 + 1));
/// # Ok::<(), wgpu_rope::RopeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotRule {
    sequences: u32,
    /// Places of a sequence that are used; at most 2^31.
    capacity: u32,
    /// Places that stay, where positions past the capacity go round.
    ring: Option<u32>,
    pages: Option<Pages>,
    /// Places from a sequence to the next in a contiguous cache, or of a page.
    page_size: u32,
}

/// Positions that are not negative.
const ALL_POSITIONS: u32 = 1 << 31;

impl SlotRule {
    /// A contiguous cache of `capacity` places for each sequence: slot `sequence * capacity + position`.
    ///
    /// # Errors
    /// [`RopeError::Layout`] for a size of 0; [`RopeError::Overflow`] where slots do not fit i32.
    pub fn contiguous(sequences: u32, capacity: u32) -> Result<Self> {
        at_least_one("sequences", sequences)?;
        at_least_one("capacity", capacity)?;
        check_slots(sequences, capacity)?;
        Ok(Self {
            sequences,
            capacity,
            ring: None,
            pages: None,
            page_size: capacity,
        })
    }

    /// A paged cache with a block table `[sequences, pages_per_sequence]`: position p of sequence q is place `p % page_size` of page
    /// `block_table[q, p / page_size]`.
    ///
    /// # Errors
    /// As for [`SlotRule::contiguous`].
    pub fn paged(sequences: u32, pages: Pages) -> Result<Self> {
        at_least_one("sequences", sequences)?;
        at_least_one("page_size", pages.page_size)?;
        at_least_one("pages", pages.pages)?;
        at_least_one("pages_per_sequence", pages.pages_per_sequence)?;
        check_slots(pages.pages, pages.page_size)?;
        let capacity = pages.pages_per_sequence.saturating_mul(pages.page_size);
        Ok(Self {
            sequences,
            capacity: capacity.min(ALL_POSITIONS),
            ring: None,
            pages: Some(pages),
            page_size: pages.page_size,
        })
    }

    /// Uses the first `capacity` places of each sequence, and goes round in them: positions below `sinks` keep their places for good
    /// (attention sinks), and position p of the others has place `sinks + (p - sinks) % (capacity - sinks)`.
    ///
    /// Tokens of one recording that share a place overwrite each other in no order: fill no more than `capacity - sinks` at once.
    ///
    /// # Errors
    /// [`RopeError::Layout`] for more places than a sequence has, or no fewer sinks than places.
    pub fn with_ring(self, capacity: u32, sinks: u32) -> Result<Self> {
        if capacity > self.capacity {
            let rule = format!("must not exceed the {} places of a sequence", self.capacity);
            return Err(RopeError::layout("ring", rule, capacity));
        }
        if sinks >= capacity {
            let rule = format!("must be fewer than the {capacity} places of the ring");
            return Err(RopeError::layout("sinks", rule, sinks));
        }
        Ok(Self {
            capacity,
            ring: Some(sinks),
            ..self
        })
    }

    /// Sequences of the cache.
    #[must_use]
    pub fn sequences(&self) -> u32 {
        self.sequences
    }

    /// Places of a sequence that are used.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The pages, where the cache has any.
    #[must_use]
    pub fn pages(&self) -> Option<Pages> {
        self.pages
    }

    /// Slots of the whole cache.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.pages.map_or(self.sequences, |pages| pages.pages) * self.page_size
    }

    /// Entries of the block table: `sequences * pages_per_sequence`, 0 for a contiguous cache.
    #[must_use]
    pub fn block_table_entries(&self) -> u64 {
        self.pages.map_or(0, |pages| {
            u64::from(self.sequences) * u64::from(pages.pages_per_sequence)
        })
    }

    /// The slot of a position of a sequence: the twin of `shaders/slots.wgsl`. None for what is outside of the cache: a sequence that is
    /// not there, a negative position, one past the capacity where there is no ring, an entry of the block table that is no page
    /// or is not in the slice. A contiguous cache reads no block table.
    #[must_use]
    pub fn slot(&self, sequence: i32, position: i32, block_table: &[i32]) -> Option<i32> {
        let below = |value: i32, limit: u32| u32::try_from(value).ok().filter(|v| *v < limit);
        let sequence = below(sequence, self.sequences)?;
        let [positions, sinks, period] = self.places();
        let position = below(position, positions)?;
        let place = match position.checked_sub(sinks) {
            None => position,
            Some(past) => sinks + past % period,
        };
        let (page, place) = match self.pages {
            None => (sequence, place),
            Some(pages) => {
                let row = u64::from(sequence) * u64::from(pages.pages_per_sequence);
                let entry = usize::try_from(row + u64::from(place / pages.page_size)).ok()?;
                let page = below(*block_table.get(entry)?, pages.pages)?;
                (page, place % pages.page_size)
            }
        };
        // Within the slots of the cache, which fit i32.
        i32::try_from(u64::from(page) * u64::from(self.page_size) + u64::from(place)).ok()
    }

    /// The first position that has no place, the places that stay, and how many others there are. Without a ring the modulus never
    /// acts: positions end where places do.
    pub(crate) fn places(&self) -> [u32; 3] {
        match self.ring {
            None => [self.capacity, 0, self.capacity],
            Some(sinks) => [ALL_POSITIONS, sinks, self.capacity - sinks],
        }
    }

    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }
}

fn at_least_one(operand: &'static str, value: u32) -> Result<()> {
    if value == 0 {
        return Err(RopeError::layout(operand, "must be at least 1", 0));
    }
    Ok(())
}

fn check_slots(pages: u32, page_size: u32) -> Result<()> {
    let slots = i32::try_from(u64::from(pages) * u64::from(page_size));
    slots
        .map(|_| ())
        .map_err(|_| RopeError::overflow("slots", "their number must fit i32"))
}
