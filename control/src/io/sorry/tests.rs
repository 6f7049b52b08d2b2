use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream as Client};

use super::*;
use crate::sorry::Sorry;

/// A server at a port of 127.0.0.1, which is on `lo` already and must stay there.
fn server() -> (Server, SocketAddr, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path().join("sorry.addresses")).unwrap();
    let probe = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = probe.local_addr().unwrap();
    drop(probe);
    let page = Some(b"sorry!".as_slice().into());
    let answer = Answer::new(&Sorry { file: None, retry_after_s: 7, page });
    let problems = server.serve(&Pages::from([(at, Arc::new(answer))]));
    assert!(problems.is_empty(), "{problems:?}");
    (server, at, dir)
}

fn connect(at: SocketAddr) -> Client {
    let client = Client::connect(at).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client
}

fn get(at: SocketAddr, request: &[u8]) -> String {
    let mut client = connect(at);
    client.write_all(request).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_page_is_served_even_to_a_large_post_and_nonsense_is_closed() {
    let (server, at, _dir) = server();
    assert!(get(at, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("\r\n\r\nsorry!"));
    let mut post = b"POST / HTTP/1.1\r\nContent-Length: 500000\r\n\r\n".to_vec();
    post.resize(500_000, b'x');
    assert!(get(at, &post).ends_with("sorry!"), "the answer is read, not a reset");
    assert_eq!(get(at, b"\x16\x03\x01\x00\x00"), "");
    server.end();
    assert!(Client::connect(at).is_err(), "nobody listens any more");
}

#[test]
fn a_changed_page_is_there_at_once_and_so_is_one_that_comes_back() {
    let (mut server, at, _dir) = server();
    for n in 0..20 {
        let page = Some(format!("page {n}").into_bytes().into());
        let answer = Answer::new(&Sorry { file: None, retry_after_s: 7, page });
        let problems = server.serve(&Pages::from([(at, Arc::new(answer))]));
        assert!(problems.is_empty(), "{problems:?}");
        assert!(get(at, b"GET / HTTP/1.1\r\n\r\n").ends_with(&format!("page {n}")));
        if n % 2 == 0 {
            assert!(server.serve(&Pages::new()).is_empty());
            assert!(Client::connect(at).is_err(), "nobody listens any more");
        }
    }
    server.end();
}

#[test]
fn slow_clients_of_one_address_leave_room_and_end() {
    let (server, at, _dir) = server();
    let slow: Vec<Client> = (0..PER_ADDRESS_MAX + 10).map(|_| connect(at)).collect();
    for client in &slow {
        let _ = (&*client).write_all(b"GET / HT");
    }
    // Beyond its share, an address is closed at once; the others after their time.
    let mut closed = 0;
    for mut client in slow {
        let read = client.read(&mut [0; 16]);
        closed += usize::from(!matches!(read, Ok(n) if n > 0));
    }
    assert_eq!(closed, PER_ADDRESS_MAX + 10);
    assert!(get(at, b"GET / HTTP/1.1\r\n\r\n").ends_with("sorry!"));
    server.end();
}
