//! Checks of protocols made of text, against servers that hang, lie and attack, over TLS too.
//! The servers of Debian are asked in `scripts/e2e` (group `checkstext`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks_text {
    pub(crate) mod authority;
    pub(crate) mod server;
}

use std::io::Write;
use std::time::Duration;

use checks_text::authority::{Authority, Leaf, serve};
use checks_text::server::{Server, check, drip, hold, pour, read_line, reset};
use control::check::{Outcome, Passed};

/// A check of every kind, without TLS; short, so that servers that hang cost a test little time.
const KINDS: &[&str] = &[
    "type = \"tcp\"\nsend = \"PING\\r\\n\"\nexpect = '\\+PONG'\ntimeout = \"300ms\"",
    "type = \"http\"\nbody = \"ok\"\ntimeout = \"300ms\"",
    "type = \"http_proxy\"\nurl = \"http://www.example.com/\"\ntimeout = \"300ms\"",
    "type = \"http_proxy\"\ntunnel = \"www.example.com:443\"\ntimeout = \"300ms\"",
    "type = \"smtp\"\ntimeout = \"300ms\"",
    "type = \"submission\"\ntimeout = \"300ms\"",
    "type = \"pop3\"\ntimeout = \"300ms\"",
    "type = \"imap\"\ntimeout = \"300ms\"",
    "type = \"ftp\"\ntimeout = \"300ms\"",
    "type = \"nntp\"\ntimeout = \"300ms\"",
];

/// The kinds whose TLS begins with the connection.
const TLS_KINDS: &[&str] = &["https", "smtps", "pop3s", "imaps", "ftps", "nntps"];

fn up() -> Outcome {
    Outcome::up()
}

#[test]
fn a_closed_port_and_a_reset_are_told_apart_from_silence() {
    let port = Server::start(hold).port();
    for keys in KINDS {
        let report = check(port, keys);
        assert_eq!(report.outcome, Outcome::down("connect: connection refused"), "{keys}");
    }
    let server = Server::start(reset);
    for keys in KINDS {
        let reason = server.refused(keys);
        assert!(reason.contains("reset") || reason.contains("closed"), "{keys}: {reason}");
    }
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_down_when_the_time_is_over() {
    let server = Server::start(hold);
    for keys in KINDS {
        let report = server.check(keys);
        let reason = report.outcome.reason().unwrap_or_default().to_owned();
        assert!(matches!(report.outcome, Outcome::Down(_)), "{keys}: {report:?}");
        assert!(reason.starts_with("no answer within 300ms"), "{keys}: {reason}");
        assert!(report.took < Duration::from_millis(900), "{keys}: {report:?}");
    }
    assert!(server.refused(KINDS[4]).ends_with("(waiting for the greeting)"));
}

#[test]
fn a_byte_now_and_then_does_not_stretch_the_time() {
    for text in ["220 welcome to our slow server\r\n", "HTTP/1.1 200 OK\r\nX-Slow: yes\r\n", "\0"] {
        let server = Server::start(move |stream| drip(stream, text.as_bytes()));
        for keys in KINDS {
            let report = server.check(keys);
            assert!(matches!(report.outcome, Outcome::Down(_)), "{keys}: {report:?}");
            assert!(report.took < Duration::from_millis(900), "{keys}: {report:?}");
        }
    }
}

#[test]
fn floods_and_nonsense_end_in_bounded_time_with_a_printable_reason() {
    let pours: &[(&[u8], &[u8])] = &[
        (b"", b"aaaaaaaaaaaaaaaa"),
        (b"", b"\0\0\0\0\0\0\0\0"),
        (b"", b"220-more\r\n"),
        (b"", b"\x1b[2J\xff\xfe\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"aaaaaaaaaaaaaaaa"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"* OK ready\r\n", b"* more\r\n"),
        (b"+OK ready\r\n", b"\r\n"),
        (b"99999999999999999999999999", b"9"),
    ];
    for (begin, bytes) in pours {
        let bytes = bytes.repeat(512);
        let server = Server::start(move |stream| pour(stream, begin, &bytes));
        for keys in KINDS {
            // A greeting of POP3 or IMAP is a good one, whatever follows.
            if *begin == b"+OK ready\r\n" && keys.contains("pop3") {
                continue;
            }
            let _ = server.refused(keys);
        }
    }
}

#[test]
fn numbers_and_bytes_that_no_web_server_sends_are_refused() {
    for answer in [
        "HTTP/1.1 99999999999999999999 OK\r\n\r\nok",
        "HTTP/1.1 -20 OK\r\n\r\nok",
        "HTTP/1.1 2 OK\r\n\r\nok",
        "HTTP/9.9 200 OK\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX\0: y\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: \0\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "ok",
        "",
    ] {
        let server = Server::start(move |mut stream| {
            while read_line(&mut stream).is_some_and(|line| !line.is_empty()) {}
            let _ = stream.write_all(answer.as_bytes());
        });
        let reason = server.refused("type = \"http\"\nbody = \"ok\"");
        assert!(!reason.starts_with("no answer"), "{answer:?}: {reason}");
    }
}

#[test]
fn only_the_beginning_of_an_endless_body_is_looked_at() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551613\r\n\r\nfirst";
    let server = Server::start(|stream| pour(stream, head, &[b'x'; 4096]));
    let reason = server.refused("type = \"http\"\nbody = \"never\"");
    assert!(reason.contains(r#""never" is not in the first 64 KiB"#), "{reason}");
    for keys in ["body = \"^first\"", "", "status = [200, \"300-302\"]"] {
        assert_eq!(server.check(&format!("type = \"http\"\n{keys}")).outcome, up(), "{keys}");
    }
}

#[test]
fn a_web_servers_wrong_answers_are_told_as_they_are() {
    let server = Server::start(|mut stream| {
        let request = read_line(&mut stream).unwrap_or_default();
        let mut secret = false;
        while let Some(line) = read_line(&mut stream).filter(|line| !line.is_empty()) {
            secret |= line == "authorization: Basic cHJvYmU6aHVudGVyMg==";
        }
        let answer = match request.split(' ').nth(1) {
            Some("/moved") => "301 Moved\r\nLocation: /ok",
            Some("/secret") if secret => "200 OK\r\nServer: test",
            Some("/secret") => "401 Unauthorized\r\nServer: test",
            _ => "503 Busy\r\nServer: test",
        };
        let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
    });
    let http = |keys: &str| server.check(&format!("type = \"http\"\n{keys}")).outcome;
    assert_eq!(http(""), Outcome::down("status 503, expected 200-399"));
    // Redirects are answers: they are not followed.
    assert_eq!(http("path = \"/moved\""), up());
    assert_eq!(http("path = \"/moved\"\nstatus = 200"), Outcome::down("status 301, expected 200"));
    assert_eq!(http("path = \"/secret\""), Outcome::down("status 401, expected 200-399"));
    let login = "user = \"probe\"\npassword = \"hunter2\"\nexpect_headers = { Server = 'test' }";
    assert_eq!(http(&format!("path = \"/secret\"\n{login}")), up());
}

#[test]
fn a_redirect_is_no_tunnel() {
    let server = Server::start(|mut stream| {
        while read_line(&mut stream).is_some_and(|line| !line.is_empty()) {}
        let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://login/\r\n\r\n");
    });
    let reason = server.refused("type = \"http_proxy\"\ntunnel = \"www.example.com:443\"");
    assert_eq!(reason, "status 302, expected 200-299");
}

#[test]
fn what_is_expected_of_a_tcp_server_may_come_in_pieces_and_else_is_quoted() {
    let server = Server::start(|mut stream| {
        let _ = read_line(&mut stream);
        for piece in ["+P", "ON", "G\r\n"] {
            let _ = stream.write_all(piece.as_bytes());
            let _ = stream.flush();
        }
        hold(stream);
    });
    let keys = |expect: &str| {
        format!("type = \"tcp\"\nsend = \"PING\\r\\n\"\nexpect = '{expect}'\ntimeout = \"300ms\"")
    };
    assert_eq!(server.check(&keys("^\\+PONG\\r\\n")).outcome, up());
    let reason = server.refused(&keys("\\+PUNG"));
    assert!(reason.ends_with(r#"got "+PONG\r\n")"#), "{reason}");
}

#[test]
fn a_slow_farewell_delays_nothing() {
    let server = Server::scripted("+OK ready\r\n", &[]);
    let report = server.check("type = \"pop3\"");
    assert_eq!(report.outcome, up());
    assert!(report.took < Duration::from_millis(500), "{report:?}");
}

#[test]
fn starttls_that_is_refused_stripped_or_injected_is_down() {
    let keys = "type = \"smtp\"\ntls = \"starttls\"\nverify = \"off\"\ntimeout = \"500ms\"";
    for (answers, part) in [
        (&["250 mail\r\n"] as &[&str], "does not offer STARTTLS"),
        (&["250 STARTTLS\r\n", "454 not now\r\n"], "expected 220, got \"454 not now\""),
        (&["250 STARTTLS\r\n", "220 go\r\n250 injected\r\n"], "in clear where TLS must begin"),
        (&["250 STARTTLS\r\n", "220 go\r\n", "rubbish\r\n"], "answer"),
    ] {
        let server = Server::scripted("220 ready\r\n", answers);
        let reason = server.refused(keys);
        assert!(reason.contains(part), "{reason}");
    }
}

#[test]
fn what_is_no_tls_is_named_and_costs_no_more_than_the_time() {
    let pours: &[(&[u8], &[u8])] = &[
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b""),
        (b"220 plain greeting\r\n", b""),
        (b"\x16\x03\x03\xff\xff", b"\0\0\0\0"),
        (b"\x16\x03\x03\x40\x00\x02\xff\xff\xff", b"\0\0\0\0"),
        (b"\x15\x03\x03\x00\x02\x02\x28", b""),
        (b"", b"\xff\xff\xff\xff"),
    ];
    for (begin, bytes) in pours {
        let bytes = bytes.repeat(1024);
        let server = Server::start(move |stream| match bytes.is_empty() {
            true => {
                let mut stream = stream;
                let _ = stream.write_all(begin);
                hold(stream);
            }
            false => pour(stream, begin, &bytes),
        });
        for kind in TLS_KINDS {
            let reason = server.refused(&format!("type = \"{kind}\"\nverify = \"off\""));
            assert!(!reason.starts_with("no answer"), "{kind} {begin:?}: {reason}");
        }
    }
    let silent = Server::start(hold);
    for kind in TLS_KINDS {
        let reason = silent.refused(&format!("type = \"{kind}\"\ntimeout = \"200ms\""));
        assert_eq!(reason, "no answer within 200ms to the start of TLS");
    }
}

const WEB: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_certificate_must_be_signed_valid_and_for_the_name() {
    let authority = Authority::new();
    let ca = authority.file();
    let https =
        |server: &Server, keys: &str| server.check(&format!("type = \"https\"\n{keys}")).outcome;
    let own = format!("verify = \"{}\"", ca.display());
    let named = format!("{own}\nserver_name = \"web.example\"");

    let good = serve(authority.leaf(&Leaf::default()), WEB);
    assert_eq!(https(&good, &named), up());
    // The host of the request serves as the name, without its port.
    assert_eq!(https(&good, &format!("{own}\nhost = \"web.example:8443\"")), up());
    let reason = "the certificate is not for 127.0.0.1 (see `server_name`)";
    assert_eq!(https(&good, &own), Outcome::down(reason));
    let reason = "the certificate is not for other.example (see `server_name`)";
    let other = format!("{own}\nserver_name = \"other.example\"");
    assert_eq!(https(&good, &other), Outcome::down(reason));
    let other = Authority::new();
    let reason =
        format!("the certificate is not signed by an authority in {}", other.file().display());
    let theirs = format!("verify = \"{}\"\nserver_name = \"web.example\"", other.file().display());
    assert_eq!(https(&good, &theirs), Outcome::down(reason));
    assert_eq!(https(&good, "verify = \"off\""), up());

    let expired = serve(authority.leaf(&Leaf { days: -3, ..Leaf::default() }), WEB);
    assert_eq!(https(&expired, &named), Outcome::down("the certificate has expired"));
    let note = |outcome| match outcome {
        Outcome::Up(Passed { note, .. }) => note.unwrap_or_default(),
        other => panic!("{other:?}"),
    };
    let warned = note(https(&expired, "verify = \"off\"\nexpires = \"14d\""));
    assert_eq!(warned, "the certificate ended 3 days ago");
    let ending = serve(authority.leaf(&Leaf { days: 9, ..Leaf::default() }), WEB);
    let warned = note(https(&ending, &format!("{named}\nexpires = \"14d\"")));
    assert_eq!(warned, "the certificate ends in 9 days");
    assert_eq!(https(&ending, &format!("{named}\nexpires = \"5d\"")), up());
}

#[test]
fn a_self_signed_certificate_is_trusted_if_it_stands_in_the_file() {
    let authority = Authority::new();
    let alone = authority.itself();
    let server = serve(alone, WEB);
    let keys =
        format!("type = \"https\"\nverify = \"{}\"\nserver_name = ", authority.file().display());
    assert_eq!(server.check(&format!("{keys}\"ca.example\"")).outcome, up());
    let reason = server.refused(&format!("{keys}\"web.example\""));
    assert!(reason.contains("not for web.example"), "{reason}");
}

#[test]
fn files_of_certificates_are_read_again_when_they_change_and_named_when_they_are_no_good() {
    let (first, second) = (Authority::new(), Authority::new());
    let server = serve(first.leaf(&Leaf::default()), WEB);
    let file = first.directory().join("changing.pem");
    let keys =
        format!("type = \"https\"\nserver_name = \"web.example\"\nverify = \"{}\"", file.display());
    // One process and one thread, as the prober has: what is kept in between matters.
    let run = || server.check(&keys).outcome;
    let cannot = |part: &str| match run() {
        Outcome::CannotRun(reason) => assert!(reason.contains(part), "{reason}"),
        other => panic!("{other:?}"),
    };
    cannot("No such file");
    std::fs::write(&file, "no PEM at all").unwrap();
    cannot("holds no certificate in PEM form");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").unwrap();
    cannot("is damaged");
    std::fs::copy(first.file(), &file).unwrap();
    assert_eq!(run(), up());
    std::fs::copy(second.file(), &file).unwrap();
    assert!(matches!(run(), Outcome::Down(_)), "the old authority is still trusted");
    std::fs::copy(first.file(), &file).unwrap();
    assert_eq!(run(), up());
}

#[test]
fn our_own_certificate_is_shown_to_a_server_that_asks_for_it() {
    use std::os::unix::fs::PermissionsExt;
    let authority = Authority::new();
    let server = authority.serve_with_clients(WEB);
    let ca = authority.file().display().to_string();
    let keys = format!("type = \"https\"\nserver_name = \"web.example\"\nverify = \"{ca}\"");
    let reason = server.refused(&keys);
    assert!(reason.contains("CertificateRequired") || reason.contains("closed"), "{reason}");
    let (certificate, key) = authority.client_files();
    let keys =
        format!("{keys}\ncertificate = \"{}\"\nkey = \"{}\"", certificate.display(), key.display());
    assert_eq!(server.check(&keys).outcome, up());
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let Outcome::CannotRun(reason) = server.check(&keys).outcome else { panic!("key accepted") };
    assert!(reason.contains("everybody can read") && reason.contains("chmod 640"), "{reason}");
}

#[test]
fn a_password_comes_from_its_file_each_time() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start(|mut stream| {
        let _ = stream.write_all(b"+OK ready\r\n");
        let _ = read_line(&mut stream);
        let _ = stream.write_all(b"+OK\r\n");
        let good = read_line(&mut stream).is_some_and(|line| line == "PASS hunter2");
        let _ = stream.write_all(if good { b"+OK in\r\n" } else { b"-ERR who?\r\n" });
        hold(stream);
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    let keys = format!("type = \"pop3\"\nuser = \"probe\"\npassword_file = \"{}\"", file.display());
    let write = |text: &str, mode| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    };
    assert!(matches!(server.check(&keys).outcome, Outcome::CannotRun(_)));
    write("wrong\n", 0o600);
    assert!(server.refused(&keys).contains("-ERR who?"));
    write("hunter2\n", 0o600);
    assert_eq!(server.check(&keys).outcome, up());
    write("hunter2\n", 0o604);
    let Outcome::CannotRun(reason) = server.check(&keys).outcome else { panic!("accepted") };
    assert!(reason.contains("chmod 640") && !reason.contains("hunter2"), "{reason}");
}
