//! A long row goes on from page to page by a number at the beginning of each. The pointer map says the same the other way round,
//! so where the two disagree, the row is not lost: what the map says is kept here, and taken if the number leads nowhere.

use std::collections::HashMap;

use super::pages::{Pages, Use};

#[derive(Default)]
pub struct Strays {
    /// The page that goes on from this one, where that one itself says otherwise.
    next: HashMap<u32, u32>,
    /// Leaves and the first pages of their rows; sorted.
    first: Vec<(u32, u32)>,
}

impl Strays {
    /// Takes down what the pointer map says of a page. True if it is the page of a long row and that one agrees.
    pub fn note(&mut self, pages: &Pages, number: u32) -> bool {
        match pages.usage(number) {
            Use::First(leaf) => self.first.push((leaf, number)),
            Use::Next(before) if pages.next(before) == number => return true,
            Use::Next(before) => {
                self.next.insert(before, number);
            }
            Use::Free | Use::Other => {}
        }
        false
    }

    pub fn sort(&mut self) {
        self.first.sort_unstable();
    }

    /// The page after this one.
    pub fn next(&self, pages: &Pages, page: u32) -> Option<u32> {
        let said = pages.next(page);
        match self.next.get(&page) {
            Some(stray) if pages.usage(said) != Use::Next(page) => Some(*stray),
            _ => Some(said).filter(|said| *said != 0),
        }
    }

    /// The first page of a row of this leaf, which says that it is `said`. `others`: what all rows of the leaf say.
    pub fn first(&self, pages: &Pages, leaf: u32, said: u32, others: impl FnOnce() -> Vec<u32>) -> u32 {
        if pages.usage(said) == Use::First(leaf) {
            return said;
        }
        let from = self.first.partition_point(|(of, _)| *of < leaf);
        let others = others();
        let mut unclaimed = self.first[from..].iter().take_while(|(of, _)| *of == leaf).filter(|(_, page)| !others.contains(page));
        // Only if it is clear which one is meant.
        match (unclaimed.next(), unclaimed.next()) {
            (Some((_, only)), None) => *only,
            _ => said,
        }
    }
}
