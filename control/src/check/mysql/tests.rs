use proptest::prelude::*;

use super::super::talk::{hear_all, reason};
use super::*;

fn settings(user: Option<&str>, query: Option<&str>, expect: Option<&str>) -> Settings {
    Settings {
        tls: Tls::Off,
        user: user.map(str::to_owned),
        password: None,
        database: None,
        query: query.map(str::to_owned),
        expect: expect.map(|e| Pattern::new(e).unwrap()),
    }
}

fn packet(sequence: u8, body: &[u8]) -> Vec<u8> {
    [&[body.len() as u8, (body.len() >> 8) as u8, 0, sequence], body].concat()
}

/// The greeting of MariaDB 10.11, with plugin data of zeros and more capabilities.
fn greeting(plugin: &str, capabilities: u32) -> Vec<u8> {
    let mut body = b"\x0a5.5.5-10.11.6\0\x01\0\0\0aaaaaaaa\0".to_vec();
    body.extend((capabilities as u16).to_le_bytes());
    body.extend(b"\x2d\x02\0");
    body.extend(((capabilities >> 16) as u16).to_le_bytes());
    body.extend(b"\x15\0\0\0\0\0\0\0\0\0\0bbbbbbbbbbbb\0");
    body.extend(plugin.as_bytes());
    body.push(0);
    packet(0, &body)
}

const PLAIN: u32 = 0x0008_8200;
const WITH_TLS: u32 = PLAIN | 0x800;

fn sent(step: Step) -> Vec<u8> {
    match step {
        Step::Send(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_user_the_greeting_is_enough() {
    let s = settings(None, None, None);
    let mut dialog = Dialog::new(&s, String::new());
    let step = hear_all(&mut dialog, &greeting("mysql_native_password", PLAIN));
    assert_eq!(step, Step::Done(Outcome::up(), vec![]));
    let step = hear_all(&mut dialog, &packet(0, b"\xff\x10\x04Too many connections"));
    assert_eq!(reason(step), "refused: error 1040: Too many connections");
    assert!(reason(hear_all(&mut dialog, &packet(0, b"SSH-2.0"))).contains("not a greeting"));
    assert_eq!(reason(hear_all(&mut dialog, &packet(0, b"\x0a5.5"))), "a malformed greeting");
}

#[test]
fn a_native_login_is_the_scramble_that_mysql_documents() {
    let s = settings(Some("probe"), None, None);
    let mut dialog = Dialog::new(&s, "secret".to_owned());
    let login = sent(hear_all(&mut dialog, &greeting("mysql_native_password", PLAIN)));
    assert_eq!(login[3], 1);
    // SHA1(password) XOR SHA1("20 bytes of nonce" SHA1(SHA1(password))), made with openssl.
    let scramble = mysql_common::auth::plugins::mysql_native_password::scramble_native(
        b"aaaaaaaabbbbbbbbbbbb",
        b"secret",
    );
    let expected = [b"probe\0\x14".as_slice(), &scramble.unwrap()].concat();
    assert!(login.windows(expected.len()).any(|w| w == expected));
    assert!(!login.windows(6).any(|w| w == b"secret"));
    assert_eq!(sent(hear_all(&mut dialog, &packet(2, b"\0\0\0\x02\0\0\0"))), packet(0, &[14]));
    let step = hear_all(&mut dialog, &packet(1, b"\0\0\0\x02\0\0\0"));
    assert_eq!(step, Step::Done(Outcome::up(), packet(0, &[1])));
}

#[test]
fn a_password_never_goes_out_in_clear_text() {
    let s = settings(Some("probe"), None, None);
    for switch in ["mysql_clear_password", "sha256_password", "mysql_old_password", "dialog"] {
        let mut dialog = Dialog::new(&s, "secret".to_owned());
        hear_all(&mut dialog, &greeting("mysql_native_password", PLAIN));
        let body = [b"\xfe", switch.as_bytes(), b"\0aaaaaaaabbbbbbbbbbbb\0"].concat();
        assert!(reason(hear_all(&mut dialog, &packet(2, &body))).contains("not supported"));
    }
    let mut dialog = Dialog::new(&s, "secret".to_owned());
    hear_all(&mut dialog, &greeting("caching_sha2_password", PLAIN));
    let step = hear_all(&mut dialog, &packet(2, b"\x01\x04"));
    assert!(reason(step).contains("only over TLS"));
}

#[test]
fn caching_sha2_goes_on_when_the_server_knows_the_password() {
    let s = settings(Some("probe"), None, None);
    let mut dialog = Dialog::new(&s, "secret".to_owned());
    hear_all(&mut dialog, &greeting("mysql_native_password", PLAIN));
    let switch = b"\xfecaching_sha2_password\0aaaaaaaabbbbbbbbbbbb\0";
    let answer = sent(hear_all(&mut dialog, &packet(2, switch)));
    assert_eq!((answer.len(), answer[3]), (4 + 32, 3));
    assert_eq!(hear_all(&mut dialog, &packet(4, b"\x01\x03")), Step::Listen);
    assert_eq!(sent(hear_all(&mut dialog, &packet(5, b"\0\0\0\x02\0\0\0"))), packet(0, &[14]));
}

#[test]
fn over_tls_the_login_follows_the_request_for_it() {
    let s = Settings { tls: Tls::Start(Default::default()), ..settings(Some("probe"), None, None) };
    let mut dialog = Dialog::new(&s, "secret".to_owned());
    let step = hear_all(&mut dialog, &greeting("caching_sha2_password", PLAIN));
    assert_eq!(reason(step), "the server does not speak TLS");
    let step = hear_all(&mut dialog, &greeting("caching_sha2_password", WITH_TLS));
    let Step::SendStartTls(request) = step else { panic!("{step:?}") };
    assert_eq!((request.len(), request[3], request[5] & 8), (36, 1, 8));
    assert_eq!(sent(dialog.secured())[3], 2);
    let password = sent(hear_all(&mut dialog, &packet(3, b"\x01\x04")));
    assert_eq!(password, packet(4, b"secret\0"));
}

#[test]
fn a_query_is_judged_by_its_first_row() {
    let ask = |expect, rows: &[&[u8]]| {
        let s = settings(Some("probe"), Some("SHOW STATUS LIKE 'wsrep_ready'"), expect);
        let mut dialog = Dialog::new(&s, String::new());
        hear_all(&mut dialog, &greeting("mysql_native_password", PLAIN));
        let query = sent(hear_all(&mut dialog, &packet(2, b"\0\0\0\x02\0\0\0")));
        assert_eq!(query[4..], *b"\x03SHOW STATUS LIKE 'wsrep_ready'");
        let mut stream = [&b"\x02"[..], b"def1", b"def2", b"\xfe\0\0\x02\0"].to_vec();
        stream.extend(rows);
        stream.push(b"\xfe\0\0\x02\0");
        let numbered = stream.iter().zip(1..).map(|(body, n)| packet(n, body));
        hear_all(&mut dialog, &numbered.collect::<Vec<_>>().concat())
    };
    let ready: &[u8] = b"\x0bwsrep_ready\x02ON";
    assert!(matches!(ask(Some("^wsrep_ready\tON$"), &[ready]), Step::Done(Outcome::Up(_), _)));
    assert!(matches!(ask(None, &[]), Step::Done(Outcome::Up(_), _)));
    assert_eq!(reason(ask(Some("x"), &[])), "the query gave no row");
    let off = ask(Some("\tON$"), &[b"\x0bwsrep_ready\xfb", ready]);
    assert!(reason(off).contains(r#""wsrep_ready\tNULL", which does not"#));
    assert_eq!(reason(ask(None, &[b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff"])), "a malformed row");
    assert!(reason(ask(None, &[b"\xff\x2b\x05#HY000read-only"])).contains("error 1323: read-only"));
}

#[test]
fn hostile_packets_are_refused() {
    let s = settings(Some("probe"), Some("SELECT 1"), None);
    let mut dialog = Dialog::new(&s, String::new());
    assert!(reason(hear_all(&mut dialog, b"\xff\xff\xff\0")).contains("16777215 bytes"));
    hear_all(&mut dialog, &greeting("mysql_native_password", PLAIN));
    assert!(reason(hear_all(&mut dialog, &packet(7, b"\0"))).contains("number 7 instead of 2"));
    assert!(reason(hear_all(&mut dialog, &packet(2, b""))).contains("unexpected"));
    hear_all(&mut dialog, &packet(1, b"\0\0\0\x02\0\0\0"));
    for (body, part) in
        [(&b"\xfb/etc/shadow"[..], "a file of ours"), (b"\xfd\xff\xff\xff", "malformed")]
    {
        dialog.stage = Stage::Columns;
        dialog.sequence = 1;
        assert!(reason(hear_all(&mut dialog, &packet(1, body))).contains(part));
    }
}

proptest! {
    #[test]
    fn no_packets_make_the_dialog_panic(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..6),
        first in any::<bool>(),
    ) {
        let s = settings(Some("probe"), Some("SELECT 1"), Some("1"));
        let mut dialog = Dialog::new(&s, "secret".to_owned());
        if first {
            hear_all(&mut dialog, &greeting("caching_sha2_password", PLAIN));
        }
        for body in bodies {
            let sequence = dialog.sequence;
            hear_all(&mut dialog, &packet(sequence, &body));
        }
    }
}
