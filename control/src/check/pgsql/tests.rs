use proptest::prelude::*;

use super::super::talk::{hear_all, reason};
use super::*;

fn settings(user: Option<&str>, expect: Option<&str>) -> Settings {
    Settings {
        tls: Tls::Off,
        user: user.map(str::to_owned),
        password: None,
        database: None,
        query: expect.map(|_| "SELECT pg_is_in_recovery()".to_owned()),
        expect: expect.map(|e| Pattern::new(e).unwrap()),
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[tag], &length[..], body].concat()
}

fn sent(step: Step) -> Vec<u8> {
    match step {
        Step::Send(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
const READY: &[u8] = b"Z\0\0\0\x05I";

#[test]
fn without_a_user_the_server_is_asked_for_tls_only() {
    let s = settings(None, None);
    let mut dialog = Dialog::new(&s, String::new());
    assert_eq!(sent(dialog.begin()), b"\0\0\0\x08\x04\xd2\x16\x2f");
    for answer in [b"S", b"N"] {
        assert_eq!(hear_all(&mut dialog, answer), Step::Done(Outcome::up(), vec![]));
    }
    assert!(reason(hear_all(&mut dialog, b"H")).contains("not PostgreSQL"));
    let s = Settings { tls: Tls::Start(Default::default()), ..settings(Some("probe"), None) };
    let mut dialog = Dialog::new(&s, String::new());
    dialog.begin();
    assert_eq!(reason(hear_all(&mut dialog, b"N")), "the server does not speak TLS");
    assert_eq!(hear_all(&mut dialog, b"S"), Step::StartTls);
    assert!(sent(dialog.secured()).windows(11).any(|w| w == b"user\0probe\0"));
}

#[test]
fn a_query_is_judged_by_its_first_row() {
    let ask = |expect, row: &[u8]| {
        let s = settings(Some("probe"), Some(expect));
        let mut dialog = Dialog::new(&s, String::new());
        let start = sent(dialog.begin());
        assert!(start.windows(15).any(|w| w == b"database\0probe\0"));
        let parameter = message(b'S', b"server_version\x0015.1\0");
        let query = hear_all(&mut dialog, &[OK, &parameter, READY].concat());
        assert_eq!(sent(query), message(b'Q', b"SELECT pg_is_in_recovery()\0"));
        let rows = [message(b'T', b"\0\0"), message(b'D', row), message(b'D', b"\0\0")].concat();
        hear_all(&mut dialog, &[&rows, &message(b'C', b"SELECT 1\0")[..], READY].concat())
    };
    let row = b"\0\x02\0\0\0\x01f\xff\xff\xff\xff";
    assert!(matches!(ask("^f\tNULL$", row), Step::Done(Outcome::Up(_), f) if f[0] == b'X'));
    assert_eq!(reason(ask("^t", row)), r#"the query gave "f\tNULL", which does not match"#);
    assert_eq!(reason(ask("^t", b"\0\x01\x7f\xff\xff\xfff")), "a malformed row");
}

#[test]
fn errors_of_the_server_are_told() {
    let s = settings(Some("probe"), None);
    let mut dialog = Dialog::new(&s, String::new());
    dialog.begin();
    let error = message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0");
    let step = hear_all(&mut dialog, &error);
    assert_eq!(reason(step), "refused: error 57P03: the database system is starting up");
}

#[test]
fn a_password_goes_out_hashed_or_over_tls() {
    let s = settings(Some("probe"), None);
    let mut dialog = Dialog::new(&s, "secret".to_owned());
    dialog.begin();
    let clear = message(b'R', b"\0\0\0\x03");
    assert!(reason(hear_all(&mut dialog, &clear)).contains("clear text"));
    let md5 = sent(hear_all(&mut dialog, &message(b'R', b"\0\0\0\x05salt")));
    // echo -n salt after md5(secret probe), made with md5sum.
    assert_eq!((md5[0], md5.len()), (b'p', 1 + 4 + 35 + 1));
    let scram = sent(hear_all(&mut dialog, &message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")));
    assert!(scram.windows(8).any(|w| w == b"n,,n=,r="), "{}", scram.escape_ascii());
    let other = message(b'R', b"\0\0\0\x0aSCRAM-SHA-512\0\0");
    assert!(reason(hear_all(&mut dialog, &other)).contains("does not offer"));
    assert!(reason(hear_all(&mut dialog, &message(b'R', b"\0\0\0\x07"))).contains("not supported"));
}

#[test]
fn a_server_cannot_make_us_hash_for_hours() {
    let s = settings(Some("probe"), None);
    for rounds in ["4294967295", "32769", "99999999999999999999999", "x"] {
        let mut dialog = Dialog::new(&s, "secret".to_owned());
        dialog.begin();
        hear_all(&mut dialog, &message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"));
        let challenge = format!("\0\0\0\x0br=abc,s=QSXCR+Q6sek8bf92,i={rounds}");
        let step = hear_all(&mut dialog, &message(b'R', challenge.as_bytes()));
        assert!(reason(step).contains("rounds of hashing"), "{rounds}");
    }
}

#[test]
fn hostile_messages_are_refused() {
    let s = settings(Some("probe"), None);
    let mut dialog = Dialog::new(&s, String::new());
    dialog.begin();
    assert!(reason(hear_all(&mut dialog, b"R\x7f\xff\xff\xff")).contains("2147483647 bytes"));
    for bad in [&b"R\xff\xff\xff\xff"[..], b"HTTP/1.1 400 Bad", b"R\0\0\0\x03"] {
        let reason = reason(hear_all(&mut dialog, bad));
        assert!(reason.contains("not a message") || reason.contains("more than"), "{reason}");
    }
    assert_eq!(reason(hear_all(&mut dialog, b"R\0\0\0\x04")), "a malformed message");
    assert!(reason(hear_all(&mut dialog, READY)).contains("without a login"));
}

proptest! {
    #[test]
    fn no_messages_make_the_dialog_panic(
        messages in prop::collection::vec(
            (prop::sample::select(b"RZSDTECKNAI".to_vec()),
             prop::collection::vec(any::<u8>(), 0..40)), 0..6),
        stage in 0..3,
    ) {
        let s = settings(Some("probe"), Some("1"));
        let mut dialog = Dialog::new(&s, "secret".to_owned());
        dialog.begin();
        if stage == 1 {
            hear_all(&mut dialog, &message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"));
        } else if stage == 2 {
            hear_all(&mut dialog, &[OK, READY].concat());
        }
        for (tag, body) in messages {
            hear_all(&mut dialog, &message(tag, &body));
        }
    }
}
