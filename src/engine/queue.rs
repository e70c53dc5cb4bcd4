//! Which job comes next. The job table is what was promised; here is its order, so that neither a new job nor the end of one
//! costs a look at all the others.
//!
//! A job stands in a line for each thing that it claims, in the order of the promises, and may begin when it is the first in all of
//! them: what concerns one volume or one backup is done one after another, what concerns others is done beside it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use rusqlite::Connection;

use super::Lane;
use crate::catalog::jobs::{self, Claim, Job};

#[derive(Default)]
pub(super) struct Queue {
    /// The youngest job that has been seen: ids only grow.
    seen: i64,
    /// Who claims a thing, running jobs among them.
    lines: HashMap<Claim, VecDeque<i64>>,
    /// By id: jobs that have not begun.
    waiting: HashMap<i64, Job>,
    /// Those that may begin, for each lane.
    ready: [BTreeSet<i64>; 2],
    /// Those that have begun and are to be tried again, and when.
    later: Vec<(Instant, i64)>,
}

impl Queue {
    /// Takes in what was promised since the last look.
    pub(super) fn look(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for job in jobs::after(connection, self.seen)? {
            for claim in job.claims() {
                // Work that was taken back does not hold up what replaces it.
                while let Some(before) = self.last_waiting(&claim)
                    && !jobs::is_there(connection, before)?
                {
                    self.forget(before);
                }
            }
            self.add(job);
        }
        Ok(())
    }

    /// The oldest job of the lane that may begin. It keeps its places until [`Queue::end`].
    pub(super) fn take(&mut self, connection: &Connection, lane: Lane) -> rusqlite::Result<Option<Job>> {
        let now = Instant::now();
        let due = self.later.extract_if(.., |(when, _)| *when <= now).map(|(_, id)| id).collect::<Vec<_>>();
        due.into_iter().for_each(|id| self.admit(id));
        while let Some(&id) = self.ready[lane as usize].first() {
            if !jobs::is_there(connection, id)? {
                self.forget(id);
                continue;
            }
            self.ready[lane as usize].remove(&id);
            return Ok(self.waiting.remove(&id));
        }
        Ok(None)
    }

    /// May a job of this lane begin?
    pub(super) fn is_ready(&self, lane: Lane) -> bool {
        !self.ready[lane as usize].is_empty()
    }

    /// The job could not be done now: it keeps its places, and others go first until then.
    pub(super) fn put_off(&mut self, job: Job, until: Instant) {
        self.later.push((until, job.id));
        self.waiting.insert(job.id, job);
    }

    /// When the next job that was put off is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.iter().map(|(when, _)| *when).min()
    }

    /// The job gives up its places.
    pub(super) fn end(&mut self, job: &Job) {
        for claim in job.claims() {
            let Some(line) = self.lines.get_mut(&claim) else { continue };
            line.retain(|id| *id != job.id);
            match line.front().copied() {
                Some(first) => self.admit(first),
                None => _ = self.lines.remove(&claim),
            }
        }
    }

    fn add(&mut self, job: Job) {
        let id = job.id;
        self.seen = id;
        for claim in job.claims() {
            self.lines.entry(claim).or_default().push_back(id);
        }
        self.waiting.insert(id, job);
        self.admit(id);
    }

    /// Lets the job begin if nothing that it claims is another's.
    fn admit(&mut self, id: i64) {
        let Some(job) = self.waiting.get(&id) else { return };
        if job.claims().all(|claim| self.lines.get(&claim).and_then(VecDeque::front) == Some(&id)) {
            self.ready[Lane::of(job.kind) as usize].insert(id);
        }
    }

    fn last_waiting(&self, claim: &Claim) -> Option<i64> {
        let last = *self.lines.get(claim)?.back()?;
        self.waiting.contains_key(&last).then_some(last)
    }

    /// A job that was taken back before it began.
    fn forget(&mut self, id: i64) {
        let Some(job) = self.waiting.remove(&id) else { return };
        self.ready[Lane::of(job.kind) as usize].remove(&id);
        self.end(&job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::jobs::JobKind;
    use serde_json::Value;

    /// A catalog without anything that jobs could refer to.
    fn catalog() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("../../schema.sql")).unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        connection
    }

    /// Promises work on a volume; returns the job's id.
    fn promise(c: &Connection, kind: JobKind, volume: i64, source: Option<i64>) -> i64 {
        jobs::insert_volume_job(c, kind, volume, source, &Value::Null, 0).unwrap();
        c.last_insert_rowid()
    }

    fn take(queue: &mut Queue, c: &Connection, lane: Lane) -> Option<Job> {
        queue.look(c).unwrap();
        queue.take(c, lane).unwrap()
    }

    fn finish(queue: &mut Queue, c: &Connection, job: &Job) {
        jobs::remove(c, job.id).unwrap();
        queue.end(job);
    }

    #[test]
    fn what_concerns_one_volume_is_done_in_order_and_others_beside_it() {
        let (c, mut queue) = (catalog(), Queue::default());
        let copy = promise(&c, JobKind::Copy, 1, Some(2));
        let erase = promise(&c, JobKind::Erase, 2, None);
        let beside = promise(&c, JobKind::Erase, 3, None);
        let second = promise(&c, JobKind::Copy, 4, Some(2));
        let first = take(&mut queue, &c, Lane::Data).unwrap();
        assert_eq!(first.id, copy);
        assert!(take(&mut queue, &c, Lane::Data).is_none());
        let other = take(&mut queue, &c, Lane::Quick).unwrap();
        assert_eq!(other.id, beside);
        finish(&mut queue, &c, &other);
        assert!(take(&mut queue, &c, Lane::Quick).is_none());
        finish(&mut queue, &c, &first);
        let last = take(&mut queue, &c, Lane::Quick).unwrap();
        assert_eq!(last.id, erase);
        assert!(!queue.is_ready(Lane::Data));
        finish(&mut queue, &c, &last);
        assert_eq!(take(&mut queue, &c, Lane::Data).unwrap().id, second);
    }

    #[test]
    fn work_that_was_taken_back_holds_up_nothing() {
        let (c, mut queue) = (catalog(), Queue::default());
        promise(&c, JobKind::Copy, 1, Some(2));
        let running = take(&mut queue, &c, Lane::Data).unwrap();
        // It waits for the first and has another volume in its hand.
        let gone = promise(&c, JobKind::Copy, 3, Some(2));
        queue.look(&c).unwrap();
        jobs::remove(&c, gone).unwrap();
        let instead = promise(&c, JobKind::Erase, 3, None);
        assert_eq!(take(&mut queue, &c, Lane::Quick).unwrap().id, instead);
        // Nor is it begun when its turn comes.
        let late = promise(&c, JobKind::Copy, 4, Some(2));
        queue.look(&c).unwrap();
        jobs::remove(&c, late).unwrap();
        finish(&mut queue, &c, &running);
        assert!(take(&mut queue, &c, Lane::Data).is_none());
        assert_eq!((queue.waiting.len(), queue.lines.len()), (0, 1));
    }

    #[test]
    fn a_promised_removal_of_a_file_comes_before_a_later_restore_to_its_place() {
        let (c, mut queue) = (catalog(), Queue::default());
        jobs::insert_file_removal(&c, "/vm/a.raw", false, 0).unwrap();
        assert!(jobs::on_path(&c, "/vm/a.raw").unwrap() && !jobs::on_path(&c, "/vm/b.raw").unwrap());
        let target = serde_json::json!({"path": "/vm/a.raw"});
        jobs::insert(&c, JobKind::Restore, 1, None, &target, 0).unwrap();
        queue.look(&c).unwrap();
        assert!(take(&mut queue, &c, Lane::Data).is_none(), "what was restored would be removed");
        let removal = take(&mut queue, &c, Lane::Quick).unwrap();
        assert!(take(&mut queue, &c, Lane::Data).is_none());
        finish(&mut queue, &c, &removal);
        assert_eq!(take(&mut queue, &c, Lane::Data).unwrap().kind, JobKind::Restore);
    }

    #[test]
    fn what_is_put_off_lets_others_go_first_and_keeps_its_place() {
        let (c, mut queue) = (catalog(), Queue::default());
        let (first, second, behind) = (
            promise(&c, JobKind::Erase, 1, None), promise(&c, JobKind::Erase, 2, None), promise(&c, JobKind::Extend, 1, None),
        );
        let job = take(&mut queue, &c, Lane::Quick).unwrap();
        assert_eq!(job.id, first);
        let due = Instant::now() + std::time::Duration::from_millis(50);
        queue.put_off(job, due);
        let other = take(&mut queue, &c, Lane::Quick).unwrap();
        assert_eq!((other.id, queue.next_due()), (second, Some(due)));
        assert!(take(&mut queue, &c, Lane::Quick).is_none());
        while Instant::now() < due {
            std::thread::yield_now();
        }
        let again = take(&mut queue, &c, Lane::Quick).unwrap();
        assert_eq!((again.id, queue.next_due()), (first, None));
        finish(&mut queue, &c, &again);
        assert_eq!(take(&mut queue, &c, Lane::Quick).unwrap().id, behind);
    }

    #[test]
    fn all_volumes_of_a_new_instance_are_claimed_by_the_restore_that_makes_them() {
        let (c, mut queue) = (catalog(), Queue::default());
        c.execute_batch("INSERT INTO instance_volume VALUES (7, 0, 1, 1), (7, 1, 2, 0)").unwrap();
        jobs::insert(&c, JobKind::Restore, 5, None, &serde_json::json!({"instance": 7}), 0).unwrap();
        promise(&c, JobKind::Copy, 3, Some(2));
        assert_eq!(take(&mut queue, &c, Lane::Data).unwrap().backup_id, Some(5));
        assert!(take(&mut queue, &c, Lane::Data).is_none());
    }
}
