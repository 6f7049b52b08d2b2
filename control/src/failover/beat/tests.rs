use proptest::prelude::*;

use super::*;

fn example() -> (Header, Beat) {
    let header = Header {
        version: 1,
        path: 1,
        oldest: 1,
        newest: 3,
        from: 0x0102_0304,
        to: 0x0506_0708,
        sender: Echo { nonce: 9, seq: 10 },
        echoes: std::array::from_fn(|i| Echo { nonce: 11 + i as u64, seq: 12 }),
    };
    let row = Row {
        tag: 21,
        role: Role::Yielding,
        able: true,
        wants: false,
        force: true,
        epoch: 1_767_225_600_000,
        last: 22,
        rate: 23,
        ask: 24,
        answer: 25,
        testimony: Testimony { macs: vec![[2, 0, 0, 0, 0, 1]; 2], silent: 3, asked: 5 },
    };
    let beat = Beat {
        leaving: true,
        data_plane: false,
        synced: true,
        peer_synced: false,
        maintenance: true,
        maintenance_version: 31,
        heard_us: u32::MAX,
        keepalive_us: 50_000,
        deadtime_us: 200_000,
        ttl_us: 100_000,
        config_hash: u64::MAX,
        evidence: Evidence { interfaces: 1, interfaces_wanted: 2, pings: 3, pings_wanted: 4 },
        worth: 100_000,
        would_live: 99_987,
        lag: 13,
        position: 41,
        rows: vec![row; ROWS_MAX],
    };
    (header, beat)
}

#[test]
fn a_beat_comes_back_as_it_was_within_its_bounds() {
    let (head, mut beat) = example();
    for rows in [ROWS_MAX, 1, 0] {
        beat.rows.truncate(rows);
        let bytes = encode(&head, &beat);
        assert_eq!(bytes.len(), HEAD + FIXED + 2 + rows * ROW);
        assert!(bytes.len() + crate::seal::OVERHEAD <= BEAT_MAX);
        assert_eq!(header(&bytes), Ok(head.clone()));
        assert_eq!(decode(&bytes), Ok(beat.clone()));
    }
}

#[test]
fn the_bytes_stand_where_the_documentation_says() {
    let (head, beat) = example();
    let bytes = encode(&head, &beat);
    assert_eq!(bytes[..16], *b"xvHB\x01\x01\x03\x01\x01\x02\x03\x04\x05\x06\x07\x08");
    assert_eq!(bytes[16..32], [[0; 7].as_slice(), &[9], &[0; 7], &[10]].concat());
    assert_eq!(bytes[96..100], [0, 54, 0, 0b10101]);
    assert_eq!(bytes[104..108], 50_000_u32.to_be_bytes());
    assert_eq!(bytes[124..128], [1, 2, 3, 4]);
    assert_eq!(bytes[152..160], [16, 62, 0, 0, 0, 21, 3, 0b101]);
    assert_eq!(bytes[188..192], [5, 3, 2, 0]);
    assert_eq!(bytes[192..198], [2, 0, 0, 0, 0, 1]);
}

#[test]
fn fields_of_a_newer_release_are_skipped() {
    let (head, mut beat) = example();
    beat.rows.truncate(2);
    let old = encode(&head, &beat);
    let mut new = old[..HEAD - 2].to_vec();
    new.extend((FIXED as u16 + 5).to_be_bytes());
    new.extend(&old[HEAD..HEAD + FIXED]);
    new.extend([0xaa; 5]);
    new.extend([2, ROW as u8 + 3]);
    for row in old[HEAD + FIXED + 2..].chunks(ROW) {
        new.extend(row);
        new.extend([0xbb; 3]);
    }
    new.extend([0xcc; 9]);
    assert_eq!(decode(&new), Ok(beat));
}

#[test]
fn versions_that_have_nothing_in_common_are_named_and_others_are_not() {
    let (head, beat) = example();
    for (at, oldest, newest, right) in
        [(1, 1, 1, true), (1, 1, 9, true), (2, 2, 9, false), (1, 2, 9, false), (0, 0, 0, false)]
    {
        let mut bytes = encode(&Header { oldest, newest, ..head.clone() }, &beat);
        bytes[4] = at;
        let read = header(&bytes).map(|_| ());
        assert_eq!(
            read,
            if right { Ok(()) } else { Err(Refused::Version) },
            "{at} {oldest} {newest}"
        );
    }
}

#[test]
fn whatever_is_cut_off_is_malformed() {
    let (head, mut beat) = example();
    beat.rows.truncate(3);
    let bytes = encode(&head, &beat);
    for length in 0..bytes.len() {
        let short = &bytes[..length];
        assert!(header(short).is_err() || decode(short).is_err(), "{length} bytes");
    }
    let mut many = bytes.clone();
    many[HEAD + FIXED] = ROWS_MAX as u8 + 1;
    assert_eq!(decode(&many), Err(Refused::Malformed));
    for (at, value) in [(HEAD + FIXED + 2 + 4, 5), (HEAD + FIXED + 2 + 36, 5)] {
        let mut bad = bytes.clone();
        bad[at] = value;
        assert_eq!(decode(&bad), Err(Refused::Malformed), "a role, or a count, that there is not");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_codec_panic(bytes: Vec<u8>) {
        let _ = (header(&bytes), decode(&bytes));
    }

    #[test]
    fn no_change_makes_the_codec_panic_and_what_is_read_can_be_written(
        changes: Vec<(prop::sample::Index, u8)>, length: prop::sample::Index
    ) {
        let (head, beat) = example();
        let mut bytes = encode(&head, &beat);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(length.index(bytes.len() + 1));
        if let (Ok(head), Ok(beat)) = (header(&bytes), decode(&bytes)) {
            let again = encode(&head, &beat);
            prop_assert!(again.len() <= BEAT_MAX);
            prop_assert_eq!((header(&again), decode(&again)), (Ok(head), Ok(beat)));
        }
    }
}
