use hickory_proto::rr::rdata::{A, CNAME, MX, TXT};

use super::*;

fn settings(name: &str, record: Type, answer: &[&str]) -> Settings {
    Settings {
        name: canonical(name, record).unwrap(),
        record,
        transport: Transport::Udp,
        rcode: Rcode::NoError,
        answer: answer.iter().map(|a| (*a).to_owned()).collect(),
        recursion: true,
    }
}

/// A reply to the question, with these records.
fn reply(s: &Settings, id: u16, records: Vec<RData>) -> Message {
    let mut message = Message::response(id, OpCode::Query);
    message.add_query(s.query().unwrap());
    for data in records {
        message.add_answer(Record::from_rdata(Name::from_ascii(&s.name).unwrap(), 60, data));
    }
    message
}

fn judge(s: &Settings, message: &Message) -> Read {
    s.judge(7, &message.to_vec().unwrap())
}

fn reason(read: Read) -> String {
    match read {
        Read::Judged(Outcome::Down(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_is_what_the_rfc_says() {
    let bytes = settings("WWW.Example.com", Type::Mx, &[]).question(0x1234).unwrap();
    let expected = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x0f\0\x01";
    assert_eq!(bytes, expected);
}

#[test]
fn an_address_is_asked_for_under_its_reverse_name() {
    assert_eq!(canonical("10.0.1.2", Type::Ptr).unwrap(), "2.1.0.10.in-addr.arpa.");
    assert!(canonical("2001:db8::1", Type::Ptr).unwrap().ends_with("8.b.d.0.1.0.0.2.ip6.arpa."));
    assert_eq!(canonical("a.b", Type::Ptr).unwrap(), "a.b.");
    assert!(canonical(&"x".repeat(64), Type::A).is_err());
}

#[test]
fn an_answer_with_the_expected_records_passes() {
    let address = || RData::A(A::new(10, 0, 0, 1));
    let s = settings("www.example.com", Type::A, &["10.0.0.1"]);
    let cname = RData::CNAME(CNAME(Name::from_ascii("w.example.").unwrap()));
    assert_eq!(judge(&s, &reply(&s, 7, vec![cname, address()])), Read::Judged(Outcome::up()));
    let s = settings("www.example.com", Type::A, &["10.0.0.1", "10.0.0.2"]);
    assert!(reason(judge(&s, &reply(&s, 7, vec![address()]))).contains("10.0.0.2 is not"));
    let s = settings("example.com", Type::Mx, &["10 MAIL.example.com"]);
    let mx = RData::MX(MX::new(10, Name::from_ascii("mail.example.com.").unwrap()));
    assert_eq!(judge(&s, &reply(&s, 7, vec![mx])), Read::Judged(Outcome::up()));
    let s = settings("example.com", Type::Txt, &["v=spf1 -all"]);
    let txt = RData::TXT(TXT::new(vec!["v=spf1 ".to_owned(), "-all".to_owned()]));
    assert_eq!(judge(&s, &reply(&s, 7, vec![txt])), Read::Judged(Outcome::up()));
}

#[test]
fn an_answer_without_a_record_passes_only_if_another_code_is_expected() {
    let mut s = settings("example.com", Type::A, &[]);
    assert_eq!(reason(judge(&s, &reply(&s, 7, vec![]))), "no A record in the answer");
    let mut message = reply(&s, 7, vec![]);
    message.metadata.response_code = ResponseCode::NXDomain;
    assert!(reason(judge(&s, &message)).contains("expected"));
    s.rcode = Rcode::NxDomain;
    assert_eq!(judge(&s, &message), Read::Judged(Outcome::up()));
}

#[test]
fn what_answers_another_question_is_not_an_answer() {
    let s = settings("example.com", Type::A, &[]);
    let a = || vec![RData::A(A::new(10, 0, 0, 1))];
    assert_eq!(judge(&s, &reply(&s, 8, a())), Read::NotOurs);
    let other = settings("example.org", Type::A, &[]);
    assert_eq!(judge(&s, &reply(&other, 7, a())), Read::NotOurs);
    let other = settings("example.com", Type::Aaaa, &[]);
    assert_eq!(judge(&s, &reply(&other, 7, a())), Read::NotOurs);
    let mut bare = reply(&s, 7, a());
    bare.queries.clear();
    assert_eq!(judge(&s, &bare), Read::NotOurs);
    assert_eq!(s.judge(7, &s.question(7).unwrap()), Read::NotOurs);
    let mut cut = reply(&s, 7, a());
    cut.metadata.truncation = true;
    assert_eq!(judge(&s, &cut), Read::Truncated);
}

#[test]
fn loops_of_compression_and_cut_messages_are_malformed() {
    let s = settings("example.com", Type::A, &[]);
    let whole = reply(&s, 7, vec![RData::A(A::new(10, 0, 0, 1))]).to_vec().unwrap();
    for end in 2..whole.len() {
        assert!(matches!(s.judge(7, &whole[..end]), Read::Judged(Outcome::Down(_))), "{end}");
    }
    // A name that points at itself, and two that point at each other.
    for names in [&b"\xc0\x0c"[..], b"\xc0\x0e\xc0\x0c"] {
        let head = b"\0\x07\x81\x80\0\x01\0\x01\0\0\0\0";
        let bytes = [head, names, b"\0\x01\0\x01"].concat();
        assert!(reason(s.judge(7, &bytes)).contains("malformed"));
    }
}
