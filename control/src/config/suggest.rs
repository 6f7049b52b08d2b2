//! "Did you mean": the nearest of a few words.

/// The candidate that a typist most likely meant by `word`, if any is near enough.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    // A long word is garbage, not a slip; this also bounds the work.
    if word.len() > 40 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    candidates
        .iter()
        .map(|c| (distance(&word, &c.replace('-', "_")), *c))
        .filter(|(d, c)| *d <= 1.max(c.len().min(word.len()) / 3))
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Edits (insert, delete, replace, swap neighbours) that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let width = b.len() + 1;
    let mut cost = vec![0; (a.len() + 1) * width];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            cost[i * width + j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (cost[(i - 1) * width + j] + 1)
                    .min(cost[i * width + j - 1] + 1)
                    .min(cost[(i - 1) * width + j - 1] + changed);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(cost[(i - 2) * width + j - 2] + 1);
                }
                best
            };
        }
    }
    cost[a.len() * width + b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word_and_strangers_find_none() {
        let keys = ["name", "protocol", "listen", "scheduler", "scheduler_flags", "zero-copy"];
        assert_eq!(nearest("schedular", &keys), Some("scheduler"));
        assert_eq!(nearest("lisetn", &keys), Some("listen"));
        assert_eq!(nearest("Scheduler-Flags", &keys), Some("scheduler_flags"));
        assert_eq!(nearest("zero_copy", &keys), Some("zero-copy"));
        assert_eq!(nearest("frobnicate", &keys), None);
        assert_eq!(nearest(&"scheduler".repeat(1000), &keys), None);
        assert_eq!(nearest("", &["lc"]), None);
    }
}
