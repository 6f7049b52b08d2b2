//! `type = "udp"`: a datagram is answered, or at least not refused.

use super::Outcome;
use super::outcome::printable_bytes;
use super::pattern::Pattern;

/// Longest payload, in bytes: it fits a packet of 1500 bytes over IPv6.
pub const PAYLOAD_MAX: usize = 1400;

/// What is sent, and what must come back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// The payload; may be empty.
    pub send: Vec<u8>,
    /// What the answer must match; `None`: anything.
    pub expect: Option<Pattern>,
    /// What it means that nothing comes back, not even a refusal.
    pub silence: Silence,
}

/// What silence means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Silence {
    /// The server is dead.
    #[default]
    Down,
    /// The server has nothing to say, and its port is open: a closed one would be refused (ICMP).
    Up,
}

impl Settings {
    /// Judges an answer.
    #[must_use]
    pub fn judge(&self, answer: &[u8]) -> Outcome {
        match &self.expect {
            Some(pattern) if !pattern.matches(answer) => {
                let shown = printable_bytes(answer.get(..80).unwrap_or(answer));
                Outcome::down(format!("answered \"{shown}\", which does not match"))
            }
            _ => Outcome::up(),
        }
    }
}

/// Reads pairs of hexadecimal digits; spaces and colons between pairs are allowed.
///
/// # Errors
/// What is wrong, in words.
pub fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.bytes().filter(|b| !matches!(b, b' ' | b':')).collect();
    if !digits.len().is_multiple_of(2) {
        return Err("an odd number of hexadecimal digits".to_owned());
    }
    let value = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pair = |p: &[u8]| Some(value(*p.first()?)? << 4 | value(*p.get(1)?)?);
    let bytes = digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>();
    bytes.ok_or_else(|| "not hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_read_and_others_refused() {
        assert_eq!(from_hex("ff:00 1A").unwrap(), [0xff, 0, 0x1a]);
        assert!(from_hex("").unwrap().is_empty());
        for bad in ["f", "fg", "0x12", "é", "+1"] {
            assert!(from_hex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_must_match_if_it_must() {
        let mut s = Settings { send: vec![], expect: None, silence: Silence::Down };
        assert_eq!(s.judge(b"\0"), Outcome::up());
        s.expect = Some(Pattern::new(r"^\xffpong").unwrap());
        assert!(matches!(s.judge(b"\x1bping"), Outcome::Down(r) if r.contains(r"\x1bping")));
    }
}
