use proptest::prelude::*;

use super::super::secret::Secret;
use super::super::talk::{hear_all, reason};
use super::*;

fn settings(expect: Option<&str>) -> Settings {
    let password = Secret::Inline("pw".to_owned());
    Settings {
        tls: Tls::Off,
        bind: Some(Login { user: "cn=probe".to_owned(), password }),
        base: Some("o=x".to_owned()),
        attribute: Some("cn".to_owned()),
        expect: expect.map(|e| Pattern::new(e).unwrap()),
    }
}

/// A BER element, written without the codec under test.
fn ber(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    assert!(content.len() < 128);
    [&[tag, content.len() as u8], content.as_slice()].concat()
}

/// A response with a result code.
fn response(id: u8, tag: u8, code: u8, text: &[u8]) -> Vec<u8> {
    let result = ber(tag, &[&ber(10, &[&[code]]), &ber(4, &[]), &ber(4, &[text])]);
    ber(0x30, &[&ber(2, &[&[id]]), &result])
}

fn entry(name: &[u8], values: &[&[u8]]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|v| ber(4, &[v])).collect();
    let values: Vec<_> = values.iter().map(Vec::as_slice).collect();
    let attribute = ber(0x30, &[&ber(4, &[name]), &ber(0x31, &values)]);
    let entry = ber(0x64, &[&ber(4, &[b"o=x"]), &ber(0x30, &[&attribute])]);
    ber(0x30, &[&ber(2, &[&[3]]), &entry])
}

fn up(step: &Step) -> bool {
    matches!(step, Step::Done(Outcome::Up(_), farewell) if farewell == b"\x30\x05\x02\x01\x04\x42\0")
}

#[test]
fn a_bind_and_a_search_are_what_the_rfc_says() {
    let s = settings(Some("^web"));
    let mut dialog = Dialog::new(&s, "pw".to_owned());
    let bind = b"\x30\x16\x02\x01\x02\x60\x11\x02\x01\x03\x04\x08cn=probe\x80\x02pw".to_vec();
    assert_eq!(dialog.begin(), Step::Send(bind));
    let search = b"\x30\x2c\x02\x01\x03\x63\x27\x04\x03o=x\x0a\x01\0\x0a\x01\0\x02\x01\x01\x02\x01\x3c\x01\x01\0\x87\x0bobjectClass\x30\x04\x04\x02cn";
    let step = hear_all(&mut dialog, &response(2, 0x61, 0, b""));
    let Step::Send(sent) = step else { panic!("{step:?}") };
    assert_eq!(sent, search);
    assert_eq!(hear_all(&mut dialog, &entry(b"CN", &[b"db1", b"web1"])), Step::Listen);
    assert!(up(&hear_all(&mut dialog, &response(3, 0x65, 0, b""))));
}

#[test]
fn what_is_not_as_expected_is_told() {
    let s = settings(Some("^web"));
    let after_bind = || {
        let mut dialog = Dialog::new(&s, "pw".to_owned());
        dialog.begin();
        hear_all(&mut dialog, &response(2, 0x61, 0, b""));
        dialog
    };
    let mut dialog = Dialog::new(&s, "pw".to_owned());
    dialog.begin();
    let step = hear_all(&mut dialog, &response(2, 0x61, 49, b"no\0"));
    assert_eq!(reason(step), r"bind refused: code 49 (invalidCredentials): no\x00");
    let step = hear_all(&mut dialog, &response(0, 0x78, 52, b""));
    assert_eq!(reason(step), "the server says good-bye: code 52 (unavailable)");
    let done = response(3, 0x65, 0, b"");
    assert_eq!(reason(hear_all(&mut after_bind(), &done)), "the entry is not there");
    let step = hear_all(&mut after_bind(), &response(3, 0x65, 32, b""));
    assert_eq!(reason(step), "search refused: code 32 (noSuchObject)");
    let step = hear_all(&mut after_bind(), &[entry(b"cn", &[b"db1"]), done.clone()].concat());
    assert_eq!(reason(step), "cn is \"db1\", which does not match");
    let step = hear_all(&mut after_bind(), &[entry(b"sn", &[b"web"]), done].concat());
    assert_eq!(reason(step), "the entry has no cn");
    let step = hear_all(&mut after_bind(), &response(9, 0x65, 0, b""));
    assert!(reason(step).contains("id 9"));
    let step = hear_all(&mut after_bind(), &response(3, 0x61, 0, b""));
    assert!(reason(step).contains("wrong kind"));
}

#[test]
fn starttls_comes_before_the_password() {
    let s = Settings { tls: Tls::Start(Default::default()), ..settings(None) };
    let mut dialog = Dialog::new(&s, "pw".to_owned());
    let Step::Send(sent) = dialog.begin() else { panic!("nothing sent") };
    assert!(sent.ends_with(b"\x77\x18\x80\x161.3.6.1.4.1.1466.20037"));
    let refused = hear_all(&mut dialog, &response(1, 0x78, 2, b"unsupported"));
    assert_eq!(reason(refused), "STARTTLS refused: code 2 (protocolError): unsupported");
    assert_eq!(hear_all(&mut dialog, &response(1, 0x78, 0, b"")), Step::StartTls);
    let Step::Send(sent) = dialog.secured() else { panic!("nothing sent") };
    assert!(sent.ends_with(b"\x80\x02pw"));
}

#[test]
fn lengths_and_depths_of_a_bomb_are_refused_before_they_are_followed() {
    let s = settings(None);
    let mut dialog = Dialog::new(&s, String::new());
    dialog.begin();
    let mut refused = |bytes: &[u8]| reason(hear_all(&mut dialog, bytes));
    assert!(refused(b"\x30\x84\xff\xff\xff\xff").contains("4294967295 bytes"));
    assert!(refused(b"\x30\x88\xff\xff\xff\xff\xff\xff\xff\xff").contains("more than"));
    assert!(refused(b"\x30\x80\x02").contains("no allowed form"));
    assert!(refused(b"\x30\xff").contains("no allowed form"));
    assert!(refused(b"HTTP/1.1 400").contains("not an LDAP message"));
    // 20000 sequences, each in the one before.
    let mut bomb = Vec::new();
    for _ in 0..10_000 {
        let mut outer = vec![0x30, 0x83];
        outer.extend(&u32::try_from(bomb.len()).unwrap().to_be_bytes()[1..]);
        outer.append(&mut bomb);
        bomb = outer;
    }
    assert_eq!(refused(&bomb), "a malformed LDAP message");
    // An element longer than what it is in.
    assert_eq!(refused(b"\x30\x05\x02\x01\x02\x61\x7f"), "a malformed LDAP message");
}

proptest! {
    #[test]
    fn no_bytes_make_the_dialog_panic(
        start in prop::sample::select(vec![b"\x30\x0c\x02\x01\x02\x61\x07".to_vec(), vec![0x30], vec![]]),
        bytes in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let s = settings(Some("x"));
        let mut dialog = Dialog::new(&s, String::new());
        dialog.begin();
        hear_all(&mut dialog, &[start, bytes].concat());
    }
}
