//! Judges what a watcher was told against what happened: etcd's six promises for watches.
//!
//! Ordered, unique, reliable, atomic, resumable, bookmarkable (etcd's API guarantees). The truth is every change of the
//! watched keys, taken from the store and not from a watch.

use std::collections::BTreeMap;

/// A change: its revision, its key.
pub type Change = (i64, String);

/// One response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    Changes(Vec<Change>),
    /// Everything up to this revision has been told.
    Progress(i64),
}

/// What a watcher was told between two breaks of its stream. It asked for what comes from `start` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub start: i64,
    pub sights: Vec<Sight>,
}

impl Session {
    /// What was missed at its place and is told all the same came in the wrong order.
    fn if_told_later(&self, broken: Broken) -> Broken {
        let Broken::Reliable(missed) = broken else { return broken };
        let tells = |sight: &Sight| match sight {
            Sight::Changes(changes) => changes.iter().any(|(revision, _)| *revision == missed),
            Sight::Progress(_) => false,
        };
        if self.sights.iter().any(tells) { Broken::Ordered(missed) } else { broken }
    }
}

/// Which promise was broken, and at which revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Told after a higher revision.
    Ordered(i64),
    /// A change that was told before, in this session or an earlier one.
    Unique(i64),
    /// Not told, though a later one was.
    Reliable(i64),
    /// Told in part: the rest came in another response, or never.
    Atomic(i64),
    /// Below the revision that the session asked for.
    Resumable(i64),
    /// Told after a promise that nothing up to it is left to tell, or never.
    Bookmarkable(i64),
    /// It never happened.
    Invented(i64),
}

type Revisions<'t> = BTreeMap<i64, Vec<&'t str>>;

/// Checks all sessions of one watcher, each of which began where the one before had come to. With `end`, the last one
/// must have been told of everything up to it.
pub fn check_watch(truth: &[Change], sessions: &[Session], end: Option<i64>) -> Result<(), Broken> {
    let mut revisions = Revisions::new();
    for (revision, key) in truth {
        revisions.entry(*revision).or_default().push(key);
    }
    revisions.values_mut().for_each(|keys| keys.sort_unstable());
    // All below it has been told.
    let mut next = sessions.first().map_or(0, |session| session.start);
    for session in sessions {
        // It may begin later than the one before came to only where nothing lies between.
        if let Some(missed) = first_within(&revisions, next, session.start - 1) {
            return Err(Broken::Reliable(missed));
        }
        next = next.max(session.start);
        let mut promised = session.start - 1;
        for sight in &session.sights {
            match sight {
                Sight::Changes(changes) => {
                    let place = (session.start, promised, next);
                    let checked = check_changes(&revisions, changes, place);
                    next = checked.map_err(|broken| session.if_told_later(broken))?;
                }
                Sight::Progress(revision) => {
                    if let Some(missed) = first_within(&revisions, next, *revision) {
                        return Err(Broken::Bookmarkable(missed));
                    }
                    promised = promised.max(*revision);
                    next = next.max(revision + 1);
                }
            }
        }
    }
    match end.and_then(|end| first_within(&revisions, next, end)) {
        Some(missed) => Err(Broken::Reliable(missed)),
        None => Ok(()),
    }
}

/// The first revision with changes from one to another, both included.
fn first_within(revisions: &Revisions<'_>, from: i64, to: i64) -> Option<i64> {
    revisions.range(from..).next().map(|(revision, _)| *revision).filter(|first| *first <= to)
}

/// Checks one response, and gives the first revision that is left to tell.
fn check_changes(
    revisions: &Revisions<'_>,
    changes: &[Change],
    (start, promised, mut next): (i64, i64, i64),
) -> Result<i64, Broken> {
    for part in changes.chunk_by(|one, other| one.0 == other.0) {
        let revision = part[0].0;
        let mut keys: Vec<&str> = part.iter().map(|(_, key)| key.as_str()).collect();
        keys.sort_unstable();
        let Some(all) = revisions.get(&revision) else { return Err(Broken::Invented(revision)) };
        if keys.iter().any(|key| !all.contains(key)) {
            return Err(Broken::Invented(revision));
        }
        if revision < start {
            return Err(Broken::Resumable(revision));
        }
        if revision <= promised {
            return Err(Broken::Bookmarkable(revision));
        }
        if revision < next || keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Broken::Unique(revision));
        }
        if let Some(missed) = first_within(revisions, next, revision - 1) {
            return Err(Broken::Reliable(missed));
        }
        if keys != *all {
            return Err(Broken::Atomic(revision));
        }
        next = revision + 1;
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn change(revision: i64, key: &str) -> Change {
        (revision, key.to_owned())
    }

    fn truth() -> Vec<Change> {
        [(2, "a"), (3, "a"), (3, "b"), (5, "a"), (7, "b")].map(|(at, key)| change(at, key)).into()
    }

    fn told(changes: &[(i64, &str)]) -> Sight {
        Sight::Changes(changes.iter().map(|(at, key)| change(*at, key)).collect())
    }

    fn judge(sessions: &[(i64, &[Sight])]) -> Result<(), Broken> {
        let session =
            |(start, sights): &(i64, &[Sight])| Session { start: *start, sights: sights.to_vec() };
        let sessions: Vec<Session> = sessions.iter().map(session).collect();
        check_watch(&truth(), &sessions, Some(7))
    }

    #[test]
    fn what_is_as_promised_passes() {
        let both = told(&[(2, "a"), (3, "b"), (3, "a")]);
        let rest = told(&[(5, "a")]);
        let last = told(&[(7, "b")]);
        let whole =
            [both.clone(), Sight::Progress(4), rest.clone(), Sight::Progress(6), last.clone()];
        assert_eq!(judge(&[(1, &whole)]), Ok(()));
        // Broken off, and resumed behind what was told or promised.
        let parts: [(i64, &[Sight]); 3] =
            [(1, from_ref(&both)), (4, from_ref(&rest)), (6, from_ref(&last))];
        assert_eq!(judge(&parts), Ok(()));
        assert_eq!(judge(&[(1, &[both.clone(), Sight::Progress(4)]), (5, &[rest, last])]), Ok(()));
        assert_eq!(judge(&[(4, &[told(&[(5, "a"), (7, "b")]), Sight::Progress(4)])]), Ok(()));
    }

    #[test]
    fn every_broken_promise_is_found() {
        let (first, third) = (told(&[(2, "a")]), told(&[(3, "a"), (3, "b")]));
        let (fifth, last) = (told(&[(5, "a")]), told(&[(7, "b")]));
        let cases: [(&[(i64, &[Sight])], Broken); 14] = [
            (&[(1, &[told(&[(3, "a"), (3, "b"), (2, "a")])])], Broken::Ordered(2)),
            (&[(3, &[fifth.clone(), third.clone()])], Broken::Ordered(3)),
            (&[(1, &[first.clone(), first.clone()])], Broken::Unique(2)),
            (&[(1, &[first.clone(), told(&[(3, "a"), (3, "a"), (3, "b")])])], Broken::Unique(3)),
            (&[(1, from_ref(&first)), (2, from_ref(&first))], Broken::Unique(2)),
            (&[(1, &[first.clone(), fifth.clone()])], Broken::Reliable(3)),
            (&[(1, &[first.clone(), third.clone(), fifth.clone()])], Broken::Reliable(7)),
            (&[(1, &[first.clone(), third.clone()]), (6, from_ref(&last))], Broken::Reliable(5)),
            (&[(1, &[first.clone(), told(&[(3, "a")]), told(&[(3, "b")])])], Broken::Atomic(3)),
            (&[(1, &[first.clone(), told(&[(3, "b")]), fifth.clone()])], Broken::Atomic(3)),
            (&[(4, from_ref(&third))], Broken::Resumable(3)),
            (&[(1, &[first.clone(), Sight::Progress(3), third.clone()])], Broken::Bookmarkable(3)),
            (&[(6, &[Sight::Progress(7)])], Broken::Bookmarkable(7)),
            (&[(1, &[first.clone(), told(&[(4, "a")])])], Broken::Invented(4)),
        ];
        for (sessions, broken) in cases {
            assert_eq!(judge(sessions), Err(broken), "{sessions:?}");
        }
        let swapped = told(&[(7, "b"), (5, "a")]);
        let sessions = [Session { start: 5, sights: vec![fifth.clone(), last, swapped] }];
        assert_eq!(check_watch(&truth(), &sessions, None), Err(Broken::Unique(7)));
        let backwards = [Session { start: 5, sights: vec![told(&[(5, "a"), (7, "b")]), fifth] }];
        assert_eq!(check_watch(&truth(), &backwards, None), Err(Broken::Unique(5)));
    }
}
