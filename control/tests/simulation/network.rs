//! A network that loses, repeats, delays (and so reorders) and cuts, by a seed; and one who listens in.

use std::collections::VecDeque;

/// Nanoseconds.
pub type Time = u64;
pub const MS: Time = 1_000_000;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to before `high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low).max(1)
    }

    /// So many times of a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.range(0, of.len() as u64) as usize]
    }
}

/// What happens to datagrams.
#[derive(Clone, Debug)]
pub struct Network {
    pub paths: usize,
    /// By path and sender.
    pub up: Vec<[bool; 2]>,
    /// Of a hundred.
    pub loss: u64,
    pub repeat: u64,
    pub delay: (Time, Time),
    pub random: Random,
}

impl Network {
    /// When copies of a datagram arrive.
    pub fn carry(&mut self, path: usize, from: usize, now: Time) -> Vec<Time> {
        if !self.up[path][from] || self.random.percent(self.loss) {
            return Vec::new();
        }
        let copies = if self.random.percent(self.repeat) { 3 } else { 1 };
        (0..copies).map(|_| now + self.random.range(self.delay.0, self.delay.1 + 1)).collect()
    }

    /// Whether what a node sends can arrive.
    pub fn is_open(&self, from: usize) -> bool {
        self.up.iter().any(|path| path[from])
    }

    /// Whether the nodes can hear each other.
    pub fn is_joined(&self) -> bool {
        self.is_open(0) && self.is_open(1)
    }

    pub fn heal(&mut self) {
        self.up.iter_mut().for_each(|path| *path = [true; 2]);
    }
}

/// Who listens in, plays back and makes up.
#[derive(Debug)]
pub struct Stranger {
    heard: VecDeque<(usize, usize, Vec<u8>)>,
    random: Random,
}

impl Stranger {
    pub fn new(seed: u64) -> Self {
        Self { heard: VecDeque::new(), random: Random(seed) }
    }

    /// A datagram to `to` has passed on a path.
    pub fn listen(&mut self, path: usize, to: usize, bytes: &[u8]) {
        if self.random.percent(20) || self.heard.len() < 8 {
            self.heard.push_back((path, to, bytes.to_vec()));
        }
        if self.heard.len() > 64 {
            let at = self.random.range(0, 64) as usize;
            self.heard.remove(at);
        }
    }

    /// Something to a node.
    pub fn speak(&mut self, paths: usize) -> (usize, usize, Vec<u8>) {
        let random = &mut self.random;
        let (mut path, mut to, mut bytes) = match self.heard.len() as u64 {
            0 => (0, random.range(0, 2) as usize, vec![0; 64]),
            n => self.heard[random.range(0, n) as usize].clone(),
        };
        let at = random.range(0, bytes.len() as u64) as usize;
        match random.range(0, 10) {
            // As it was: an old one.
            0..=3 => {}
            // On another path, or back to where it came from.
            4 => path = random.range(0, paths as u64 + 1) as usize,
            5 => to = 1 - to,
            // Changed: any byte; number, nonce and echoes among them.
            6 => bytes[at] ^= 1 << random.range(0, 8),
            7 => bytes.truncate(at),
            8 => bytes.resize(1201 + at, 0xaa),
            // Of a release to come, or without a proof.
            _ if bytes.len() > 8 && random.percent(50) => bytes[6..9].copy_from_slice(&[9, 8, 9]),
            _ => bytes[..2].copy_from_slice(&[0, 0]),
        }
        (path, to, bytes)
    }
}
