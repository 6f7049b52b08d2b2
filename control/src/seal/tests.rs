use super::*;
use crate::seal::{Context, Keyring, Purpose};

const SESSION: &[u8] = &[7; 16];

fn context<'a>(from: &'a str, to: &'a str, session: &'a [u8]) -> Context<'a> {
    Context { purpose: Purpose::Stream, from, to, session }
}

fn keyring(mode: Mode, ids: &[u8]) -> Keyring {
    let texts: Vec<_> = ids.iter().map(|id| (*id, format!("{id:02x}").repeat(32))).collect();
    let files: Vec<_> = texts.iter().map(|(id, text)| (*id, text.as_str())).collect();
    Keyring::parse(mode, &files).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let text: String = text.split_whitespace().collect();
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// A sealer and an opener with given subkeys.
fn with_keys(proof: &[u8], cipher: &[u8]) -> (Sealer, Opener) {
    let derived = || Derived {
        id: 1,
        proof: hmac::Key::new(hmac::HMAC_SHA256, proof),
        cipher: aead::UnboundKey::new(&aead::CHACHA20_POLY1305, cipher)
            .ok()
            .map(aead::LessSafeKey::new),
    };
    (Sealer::new(Some(derived()), Mode::Enforce), Opener::new(vec![derived()], Mode::Enforce))
}

#[test]
fn the_proof_is_the_hmac_of_rfc_4231_cut_to_128_bits() {
    // Section 4.3; 4.6 is the RFC's own truncation to 128 bits.
    let right =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"Jefe"), b"what do ya want for nothing?");
    assert_eq!(
        right.as_ref(),
        hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    );
    let right =
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0x0c; 20]), b"Test With Truncation");
    assert_eq!(right.as_ref()[..TAG], hex("a3b6167473100ee06e0c796c2955552b"));
    // What we put together: head, body, the first 16 bytes over both. The value is Python's
    // hmac.new(b"Jefe", b"\x01\x01what do ya want for nothing?", "sha256").
    let (sealer, opener) = with_keys(b"Jefe", &[]);
    let sealed = sealer.seal(b"what do ya want for nothing?");
    assert_eq!(sealed[..2], [PROVED, 1]);
    assert_eq!(sealed[30..], hex(PYTHON));
    let opened = opener.open(&sealed).unwrap();
    assert_eq!(opened.body[..], b"what do ya want for nothing?"[..]);
    assert_eq!(opened.proof, Proof::Proved);
}

const PYTHON: &str = "a048f69e81a37ab33bcafa33540fe954";

#[test]
fn the_cipher_is_that_of_rfc_8439() {
    // Section 2.8.2, by the way we call it.
    let key: Vec<u8> = (0x80..=0x9f).collect();
    let cipher = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &key).unwrap();
    let cipher = aead::LessSafeKey::new(cipher);
    let mut text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip \
        for the future, sunscreen would be it."
        .to_vec();
    let nonce = hex("070000004041424344454647").try_into().unwrap();
    let tag = cipher.seal_in_place_separate_tag(
        aead::Nonce::assume_unique_for_key(nonce),
        aead::Aad::from(hex("50515253c0c1c2c3c4c5c6c7")),
        &mut text,
    );
    assert_eq!(tag.unwrap().as_ref(), hex("1ae10b594f09e26a7e902ecbd0600691"));
    assert_eq!(text[..16], hex("d31a8d34648e60db7b86afbc53ef7ec2"));
}

#[test]
fn encrypted_messages_open_at_the_other_end_and_nowhere_else() {
    let ring = keyring(Mode::Enforce, &[1]);
    let mut sealer = ring.sealer(&context("lb1", "lb2", SESSION));
    let first = sealer.encrypt(b"a secret").unwrap();
    let second = sealer.encrypt(b"a secret").unwrap();
    assert_ne!(first, second);
    assert!(!first.windows(8).any(|w| w == b"a secret"));
    let opener = ring.opener(&context("lb1", "lb2", SESSION));
    for sealed in [&first, &second] {
        let opened = opener.open(sealed).unwrap();
        assert_eq!((&opened.body[..], opened.proof), (&b"a secret"[..], Proof::Encrypted));
    }
    for other in [
        context("lb2", "lb1", SESSION),
        context("lb1", "lb2", &[8; 16]),
        Context { purpose: Purpose::Beat, ..context("lb1", "lb2", SESSION) },
        context("lb1l", "b2", SESSION),
    ] {
        assert_eq!(ring.opener(&other).open(&first), Err(Refused::BadMac), "{other:?}");
    }
    let mut without = ring.sealer(&context("lb1", "lb2", &[]));
    assert_eq!(without.encrypt(b"x"), None, "without a session, counters would repeat");
}

#[test]
fn no_bit_can_be_changed_and_nothing_cut_off() {
    let ring = keyring(Mode::Permissive, &[1]);
    let context = context("lb1", "lb2", SESSION);
    let (mut sealer, opener) = (ring.sealer(&context), ring.opener(&context));
    for sealed in [sealer.seal(b"message"), sealer.encrypt(b"message").unwrap()] {
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Form 0 with key 1 is no message at all, so that permissive mode lets nothing through.
            assert!(opener.open(&changed).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(opener.open(&sealed[..length]).is_err(), "{length} bytes");
        }
    }
}

#[test]
fn a_key_is_exchanged_without_a_gap() {
    let context = context("lb1", "lb2", &[]);
    // Both know 1; both learn 2; the first of them sends with 2; the other; 1 is forgotten.
    let steps: [(&[u8], &[u8]); 5] = [
        (&[1], &[1, 2]),
        (&[1, 2], &[1, 2]),
        (&[2, 1], &[1, 2]),
        (&[2, 1], &[2, 1]),
        (&[2], &[2, 1]),
    ];
    for (sends, receives) in steps {
        let (a, b) = (keyring(Mode::Enforce, sends), keyring(Mode::Enforce, receives));
        assert!(b.opener(&context).open(&a.sealer(&context).seal(b"x")).is_ok(), "{sends:?}");
        assert!(a.opener(&context).open(&b.sealer(&context).seal(b"x")).is_ok(), "{sends:?}");
    }
    let (a, b) = (keyring(Mode::Enforce, &[1]), keyring(Mode::Enforce, &[2]));
    let sealed = a.sealer(&context).seal(b"x");
    assert_eq!(b.opener(&context).open(&sealed), Err(Refused::UnknownKey));
}

#[test]
fn modes_let_authentication_be_brought_in_step_by_step() {
    use Mode::{Enforce, Permissive, ReceiveOnly};
    let context = context("lb1", "lb2", &[]);
    let open = |from: Mode, at: Mode| {
        let sealed = keyring(from, &[1]).sealer(&context).seal(b"x");
        keyring(at, &[1]).opener(&context).open(&sealed).map(|o| o.proof)
    };
    for at in [ReceiveOnly, Permissive] {
        assert_eq!(open(ReceiveOnly, at), Ok(Proof::None));
        assert_eq!(open(Permissive, at), Ok(Proof::Proved));
        assert_eq!(open(Enforce, at), Ok(Proof::Proved));
    }
    assert_eq!(open(ReceiveOnly, Enforce), Err(Refused::BadMac));
    assert_eq!(open(Permissive, Enforce), Ok(Proof::Proved));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_opener_panic_or_believe(bytes: Vec<u8>) {
        let opener = keyring(Mode::Enforce, &[1, 2]).opener(&context("lb1", "lb2", SESSION));
        assert!(opener.open(&bytes).is_err());
    }
}
