//! Checks of protocols made of packets and messages, against servers that hang, lie and attack.
//! The servers of Debian are asked in `scripts/e2e` (group `checkswire`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "checks_text/server.rs"]
#[allow(dead_code, reason = "another test uses the rest")]
mod server;
#[path = "checks_wire/script.rs"]
mod script;

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use control::check::{Outcome, Report};
use server::{Server, check, drip, hold, pour};

/// A check of every kind over a stream.
const STREAMS: &[&str] = &[
    "type = \"dns\"\nname = \"a.example\"\ntransport = \"tcp\"\ntimeout = \"300ms\"",
    "type = \"sip\"\ntransport = \"tcp\"\ntimeout = \"300ms\"",
    "type = \"ldap\"\nbase = \"dc=x\"\nattribute = \"cn\"\nexpect = \"y\"\ntimeout = \"300ms\"",
    "type = \"ldap\"\ntls = \"starttls\"\nverify = \"off\"\ntimeout = \"300ms\"",
    "type = \"ldaps\"\nverify = \"off\"\ntimeout = \"300ms\"",
    "type = \"mysql\"\ntimeout = \"300ms\"",
    "type = \"mysql\"\nuser = \"u\"\nquery = \"q\"\nexpect = \"y\"\ntimeout = \"300ms\"",
    "type = \"mysql\"\nuser = \"u\"\ntls = \"on\"\nverify = \"off\"\ntimeout = \"300ms\"",
    "type = \"pgsql\"\ntimeout = \"300ms\"",
    "type = \"pgsql\"\nuser = \"u\"\nquery = \"q\"\nexpect = \"y\"\ntimeout = \"300ms\"",
    "type = \"pgsql\"\nuser = \"u\"\ntls = \"on\"\nverify = \"off\"\ntimeout = \"300ms\"",
    "type = \"redis\"\nrole = \"master\"\ntimeout = \"300ms\"",
    "type = \"rediss\"\nverify = \"off\"\ntimeout = \"300ms\"",
];

/// A check of every kind in datagrams.
const DATAGRAMS: &[&str] = &[
    "type = \"dns\"\nname = \"a.example\"\ntimeout = \"300ms\"",
    "type = \"ntp\"\ntimeout = \"300ms\"",
    "type = \"sip\"\ntimeout = \"300ms\"",
    "type = \"radius\"\nsecret = \"s3cret\"\ntimeout = \"300ms\"",
    "type = \"udp\"\nsend = \"ping\"\nexpect = '^pong$'\ntimeout = \"300ms\"",
];

/// Answers each datagram with what `answer` makes of it; ends with the test's process.
fn datagrams(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((got, from)) = socket.recv_from(&mut buffer) {
            for bytes in answer(&buffer[..got]) {
                let _ = socket.send_to(&bytes, from);
            }
        }
    });
    port
}

/// A check must fail, in time, for a printable reason.
fn refused(report: &Report) -> String {
    let Outcome::Down(reason) = &report.outcome else { panic!("{report:?}") };
    assert!(report.took < Duration::from_millis(1500), "{report:?}");
    assert!(!reason.is_empty() && reason.len() <= 256, "{reason}");
    assert!(reason.bytes().all(|b| (b' '..=b'~').contains(&b)), "{reason:?}");
    reason.clone()
}

#[test]
fn closed_ports_are_told_at_once() {
    let port = Server::start(hold).port();
    for keys in STREAMS {
        assert_eq!(refused(&check(port, keys)), "connect: connection refused", "{keys}");
    }
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for keys in DATAGRAMS {
        let report = check(port, keys);
        assert!(refused(&report).contains("port unreachable"), "{keys}: {report:?}");
        assert!(report.took < Duration::from_millis(250), "{keys}: {report:?}");
    }
}

#[test]
fn servers_that_hang_are_down_when_the_time_is_over() {
    let server = Server::start(hold);
    for keys in STREAMS {
        let reason = server.refused(keys);
        assert!(reason.starts_with("no answer within 300ms"), "{keys}: {reason}");
    }
    let port = datagrams(|_| vec![]);
    for keys in DATAGRAMS {
        let reason = refused(&check(port, keys));
        assert!(reason.starts_with("no answer within 300ms"), "{keys}: {reason}");
    }
    let silent = "type = \"udp\"\nsilence = \"up\"\ntimeout = \"200ms\"";
    assert_eq!(check(port, silent).outcome, Outcome::up());
}

#[test]
fn servers_that_close_at_once_are_down() {
    let server = Server::start(drop);
    for keys in STREAMS {
        let reason = server.refused(keys);
        assert!(reason.contains("closed") || reason.contains("reset"), "{keys}: {reason}");
    }
}

#[test]
fn a_byte_now_and_then_does_not_stretch_the_time() {
    for text in [&b"\x30\x84\0\0\x10\0\x02\x01\x02\x61"[..], b"\x4a\0\0\0\x0a5.5.5", b"N", b"+PO"] {
        let server = Server::start(move |stream| drip(stream, text));
        for keys in STREAMS {
            // One byte is a whole answer here.
            if text == b"N" && keys.contains("pgsql") {
                continue;
            }
            let report = server.check(keys);
            refused(&report);
            assert!(report.took < Duration::from_millis(900), "{keys}: {report:?}");
        }
    }
}

#[test]
fn floods_and_giant_lengths_end_in_bounded_time_and_memory() {
    let pours: &[(&[u8], &[u8])] = &[
        (b"", b"\0\0\0\0\0\0\0\0"),
        (b"", b"\xff\xff\xff\xff\xff\xff"),
        (b"", b"aaaaaaaaaaaaaaa\r\n"),
        // A length of 4 GiB in LDAP, PostgreSQL and Redis, of 16 MiB in MySQL, of 64 KiB in DNS.
        (b"\x30\x84\xff\xff\xff\xff", b"\x30"),
        (b"R\x7f\xff\xff\xff", b"R"),
        (b"$4294967295\r\n", b"$"),
        (b"*4294967295\r\n", b"*1\r\n"),
        (b"\xff\xff\xff\0", b"\x0a"),
        (b"\xff\xff", b"\xc0\x0c"),
        // Nothing but small whole messages.
        (b"", b"S\0\0\0\x04"),
        (b"", b"SIP/2.0 100 Trying\r\n\r\n"),
        (b"R\0\0\0\x08\0\0\0\0", b"N\0\0\0\x05\0"),
        (b"\x30\x0c\x02\x01\x02\x61\x07\x0a\x01\0\x04\0\x04\0", b"\x30\x05\x02\x01\x03\x73\0"),
    ];
    for (begin, bytes) in pours {
        let bytes = bytes.repeat(1024);
        let server = Server::start(move |stream| pour(stream, begin, &bytes));
        for keys in STREAMS {
            // The first byte answers the request for TLS.
            if *begin == b"" && bytes_of_tls(keys) {
                continue;
            }
            let _ = server.refused(keys);
        }
    }
}

/// Whether the check is over after `S` or `N`.
fn bytes_of_tls(keys: &str) -> bool {
    keys.contains("pgsql") && !keys.contains("user")
}

#[test]
fn clear_text_behind_the_agreement_on_tls_is_refused() {
    let server = Server::start(|mut stream| {
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"SR\0\0\0\x08\0\0\0\0");
        hold(stream);
    });
    let keys = "type = \"pgsql\"\nuser = \"u\"\ntls = \"on\"\nverify = \"off\"";
    assert!(server.refused(keys).contains("before TLS"));
}

#[test]
fn datagrams_that_answer_something_else_are_not_taken_for_answers() {
    // What we sent ourselves, what is cut, what is empty, what has another id.
    let other = |request: &[u8]| {
        let mut wrong = request.to_vec();
        wrong[..2].iter_mut().for_each(|b| *b ^= 0xff);
        vec![request.to_vec(), wrong, vec![], request[..request.len() / 2].to_vec()]
    };
    let port = datagrams(other);
    for keys in DATAGRAMS {
        let _ = refused(&check(port, keys));
    }
    let noise = datagrams(|request| vec![vec![0xff; request.len()]; 70]);
    for keys in DATAGRAMS {
        let _ = refused(&check(noise, keys));
    }
}

#[test]
fn a_name_server_that_lies_is_found_out() {
    let ask = |code: u8, tail: &'static [u8]| {
        let port = datagrams(move |question| {
            let mut answer = question.to_vec();
            answer[2] |= 0x80;
            answer[3] = code;
            answer[7] = u8::from(!tail.is_empty());
            answer.extend(tail);
            vec![answer]
        });
        check(port, "type = \"dns\"\nname = \"a.example\"\nanswer = \"10.0.0.1\"")
    };
    let right = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
    assert_eq!(ask(0, right).outcome, Outcome::up());
    assert!(refused(&ask(2, right)).contains("expected"));
    assert!(refused(&ask(0, b"")).contains("10.0.0.1 is not in the answer"));
    let wrong = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x02";
    assert!(refused(&ask(0, wrong)).contains("10.0.0.2"));
    let endless = b"\xc0\x1b\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
    assert!(refused(&ask(0, endless)).contains("malformed"));
    let long = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\xff\xff\x0a\0\0\x01";
    assert!(refused(&ask(0, long)).contains("malformed"));
}

#[test]
fn an_answer_that_does_not_fit_is_fetched_over_tcp() {
    let server = Server::start(|mut stream| {
        let mut question = [0; 64];
        let got = stream.read(&mut question).unwrap();
        let mut answer = question[2..got].to_vec();
        answer[2] |= 0x80;
        answer[7] = 1;
        answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01");
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        let _ = stream.write_all(&[&length, answer.as_slice()].concat());
    });
    let address: SocketAddr = ([127, 0, 0, 1], server.port()).into();
    let socket = UdpSocket::bind(address).unwrap();
    let thread = std::thread::spawn(move || {
        let mut question = [0; 64];
        let (got, from) = socket.recv_from(&mut question).unwrap();
        question[2] |= 0x82;
        socket.send_to(&question[..got], from).unwrap();
    });
    let report = server.check("type = \"dns\"\nname = \"a.example\"\nanswer = \"10.0.0.1\"");
    thread.join().unwrap();
    assert_eq!(report.outcome, Outcome::up());
}

#[test]
fn a_time_server_without_time_is_down() {
    let ask = |first: u8, stratum: u8| {
        let port = datagrams(move |request| {
            let mut answer = request.to_vec();
            answer[0] = first;
            answer[1] = stratum;
            answer[24..32].copy_from_slice(&request[40..48]);
            answer[32..40].copy_from_slice(&request[40..48]);
            vec![answer]
        });
        check(port, "type = \"ntp\"\nstratum = 4\noffset = \"1s\"\ntimeout = \"300ms\"")
    };
    assert!(refused(&ask(0x24, 16)).contains("stratum 16"));
    assert!(refused(&ask(0xe4, 2)).contains("not synchronised"));
    assert!(refused(&ask(0x24, 5)).contains("at most 4"));
    // Its times are our cookie: some other century.
    assert!(refused(&ask(0x24, 2)).contains("differs from ours"));
    assert!(refused(&ask(0x23, 2)).starts_with("no answer"));
}

#[test]
fn a_radius_server_with_another_secret_is_down() {
    let port = datagrams(|request| {
        let mut answer = request[..20].to_vec();
        (answer[0], answer[2], answer[3]) = (2, 0, 20);
        vec![answer]
    });
    let keys = "type = \"radius\"\nsecret = \"s3cret\"\ntimeout = \"300ms\"";
    assert!(refused(&check(port, keys)).contains("another secret"));
}

#[test]
fn a_password_file_that_everybody_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    std::fs::write(&path, "hunter2\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let server = Server::start(hold);
    let keys = format!("type = \"redis\"\npassword_file = {path:?}\ntimeout = \"300ms\"");
    let report = server.check(&keys);
    let Outcome::CannotRun(reason) = &report.outcome else { panic!("{report:?}") };
    assert!(reason.contains("chmod 640") && !reason.contains("hunter2"), "{reason}");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    assert!(server.refused(&keys).ends_with("to the login"));
}

#[test]
fn the_loopback_answers_a_ping_in_both_families() {
    for address in ["127.0.0.1", "::1"] {
        let text = "type = \"icmp\"\nsize = 1000\ntimeout = \"500ms\"";
        let report = server::check_at(address, 1, text);
        // Without the right to, it says so; that is no failure of the server.
        match &report.outcome {
            Outcome::CannotRun(reason) if reason.contains("CAP_NET_RAW") => {
                println!("SKIPPED: {reason}");
                assert!(std::env::var_os("REQUIRE_NETNS").is_none(), "{reason}");
            }
            outcome => assert_eq!(*outcome, Outcome::up()),
        }
    }
}
