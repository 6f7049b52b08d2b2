//! Tables whose process is gone: whole, half written, damaged, and of others.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::clock;

const NOW: Tick = Tick(1000);
const ENTRIES: u64 = 4096;

fn adopt(path: &Path) -> Result<(Table, Adopted), AdoptError> {
    Table::adopt(path, 16, NOW, |_| true)
}

fn refused(path: &Path) -> String {
    match adopt(path) {
        Ok((_, adopted)) => panic!("adopted: {adopted:?}"),
        Err(error) => error.to_string(),
    }
}

/// A file with the connections of `count` clients, the even ones half-open.
fn left_behind(dir: &tempfile::TempDir, count: u32) -> (PathBuf, Vec<Conn>) {
    let path = dir.path().join("table");
    let table = Table::create(&path, 64, 16).unwrap();
    let conns: Vec<_> =
        (0..count).map(|i| if i % 2 == 0 { conn(i, 1) } else { established(i, 1) }).collect();
    conns.iter().for_each(|conn| _ = opened(&table, conn));
    (path, conns)
}

fn word(path: &Path, offset: u64, change: impl Fn(u64) -> u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).unwrap();
    let bytes = change(u64::from_ne_bytes(bytes)).to_ne_bytes();
    file.write_all_at(&bytes, offset).unwrap();
}

#[test]
fn the_next_process_has_every_connection_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, conns) = left_behind(&dir, 20);
    let (table, adopted) = adopt(&path).unwrap();
    assert_eq!(adopted, Adopted { kept: 20, ..Adopted::default() });
    assert_eq!(settled(&table), conns);
    let id = table.table_id();
    opened(&table, &established(99, 1));
    table.remove(&find(&table, &conns[3]).unwrap().handle).unwrap();
    drop(table);
    let (table, adopted) = adopt(&path).unwrap();
    assert_eq!((adopted.kept, table.table_id()), (20, id));
    assert!(find(&table, &conns[3]).is_none() && find(&table, &established(99, 1)).is_some());
}

#[test]
fn connections_the_caller_refuses_are_dropped_and_their_places_free() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = left_behind(&dir, 20);
    let keep = |conn: &Conn| conn.state == State::Established;
    let (table, adopted) = Table::adopt(&path, 16, NOW, keep).unwrap();
    assert_eq!(adopted, Adopted { kept: 10, dropped: 10, repaired: 0 });
    assert_eq!((settled(&table).len(), table.half_open()), (10, 0));
}

#[test]
fn ties_of_clients_and_connections_of_the_peer_are_adopted_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let table = Table::create(&path, 64, 16).unwrap();
    let mut template = conn(1, 0);
    (template.state, template.identity.protocol) = (State::Template, 0);
    opened(&table, &template);
    let (conn, origin) = (established(2, 1), Origin::imported(0xdead_beef, 7));
    let hash = table.hash_of(&conn.identity);
    let reservation = table.reserve(hash, &mut |_, _| {}).unwrap();
    let _ = table.insert_from(reservation, hash, (&conn, origin), |_| false, &mut |_, _| {});
    drop(table);
    let (table, adopted) = adopt(&path).unwrap();
    assert_eq!(adopted, Adopted { kept: 2, ..Adopted::default() });
    assert_eq!((table.templates(), table.imported()), (1, 1));
    let origins: Vec<_> = (0..2).filter_map(|i| Some(table.at(i)?.1)).collect();
    assert_eq!(origins, [Origin::OWN, origin]);
    drop(table);
    for bit in 0..64 {
        word(&path, ENTRIES + 64 + 56, |word| word ^ 1 << bit);
        // Freed, and so gone for good: written again for the next bit.
        let whole = fs::read(&path).unwrap();
        let (table, adopted) = adopt(&path).unwrap();
        assert_eq!((adopted.kept, adopted.repaired, table.imported()), (1, 1, 0), "bit {bit}");
        drop(table);
        fs::write(&path, whole).unwrap();
        word(&path, ENTRIES + 64 + 56, |word| word ^ 1 << bit);
    }
}

#[test]
fn a_table_in_use_is_neither_adopted_nor_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    let table = Table::create(&path, 64, 16).unwrap();
    opened(&table, &conn(1, 1));
    assert!(refused(&path).contains("in use by another process"));
    let again = Table::create(&path, 64, 16).map(drop);
    assert!(matches!(again, Err(CreateError::File(FileError::InUse(_)))));
    assert_eq!(settled(&table).len(), 1);
    drop(table);
    assert!(Table::create(&path, 64, 16).is_ok_and(|table| table.used() == 0));
}

#[test]
fn no_bit_of_the_header_can_flip_unnoticed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = left_behind(&dir, 4);
    for bit in 0..9 * 64 {
        word(&path, bit / 64 * 8, |word| word ^ 1 << (bit % 64));
        refused(&path);
        word(&path, bit / 64 * 8, |word| word ^ 1 << (bit % 64));
    }
    assert_eq!(adopt(&path).unwrap().1.kept, 4);
}

#[test]
fn each_refusal_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    assert!(matches!(adopt(&path), Err(AdoptError::Missing)));
    fs::write(&path, [0; 100]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(adopt(&path), Err(AdoptError::Magic)));
    fs::write(&path, []).unwrap();
    assert!(matches!(adopt(&path), Err(AdoptError::Damaged(_))));
    let (path, _) = left_behind(&dir, 4);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let len = file.metadata().unwrap().len();
    for wrong in [len - 4096, len + 4096, len - 1, 72] {
        file.set_len(wrong).unwrap();
        assert!(refused(&path).contains("another size"), "{wrong}");
        file.set_len(len).unwrap();
    }
    word(&path, 8, |word| word + (1 << 32));
    assert!(matches!(adopt(&path), Err(AdoptError::Version { found: 2 })));
    let path = dir.path().join("other boot");
    super::super::file::create_of_boot(&path, [1, 2]);
    assert!(matches!(adopt(&path), Err(AdoptError::Boot)));
}

#[test]
fn a_file_that_others_could_have_made_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = left_behind(&dir, 4);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let untrusted = "not a regular file that belongs to this user alone";
    assert!(refused(&link).contains(untrusted));
    assert!(Table::create(&link, 64, 16).is_err());
    assert!(refused(dir.path()).contains(untrusted));
    fs::remove_file(&link).unwrap();
    fs::hard_link(&path, &link).unwrap();
    assert!(refused(&path).contains(untrusted));
    fs::remove_file(&link).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(refused(&path).contains(untrusted));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(adopt(&path).unwrap().1.kept, 4);
}

#[test]
fn entries_left_half_written_are_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let (path, conns) = left_behind(&dir, 8);
    let state = |entry: u64, byte: u64| {
        word(&path, ENTRIES + entry * 64, |hot| hot << 8 >> 8 | byte << 56);
    };
    state(0, 1); // writing
    state(1, 2); // pending
    state(2, 200); // no state at all
    word(&path, ENTRIES + 3 * 64 + 32, |place| place ^ 1 << 33); // another real
    word(&path, ENTRIES + 4 * 64, |hot| hot | 1 << 31); // seen in the far future
    let (table, adopted) = adopt(&path).unwrap();
    assert_eq!(adopted, Adopted { kept: 3, repaired: 5, dropped: 0 });
    assert_eq!(settled(&table), conns[5..]);
    for i in 100..161 {
        opened(&table, &established(i, 1));
    }
    assert_eq!(settled(&table).len(), 64, "every repaired entry is used again");
}

#[test]
fn one_of_two_entries_of_one_connection_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (path, conns) = left_behind(&dir, 2);
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut entry = [0; 64];
    file.read_exact_at(&mut entry, ENTRIES).unwrap();
    file.write_all_at(&entry, ENTRIES + 5 * 64).unwrap();
    let (table, adopted) = adopt(&path).unwrap();
    assert_eq!((adopted.kept, adopted.repaired), (2, 1));
    assert_eq!(settled(&table), conns);
}

#[test]
fn no_bit_of_an_entry_can_flip_and_do_worse_than_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, conns) = left_behind(&dir, 2);
    let whole = fs::read(&path).unwrap();
    for bit in 0..512_u64 {
        fs::write(&path, &whole).unwrap();
        word(&path, ENTRIES + bit / 64 * 8, |word| word ^ 1 << (bit % 64));
        let (table, adopted) = adopt(&path).unwrap();
        let left = settled(&table);
        assert!(left.contains(&conns[1]), "the neighbour, after bit {bit}");
        assert_eq!(adopted.kept as usize, left.len());
        // What the check sum does not cover changes while the entry lives: state, time, last hop.
        let covered = matches!(bit / 64, 1..=4 | 6 | 7);
        assert!(left.len() == 1 || !covered, "bit {bit} went unnoticed");
    }
}

/// Not a test: what the child processes below run.
#[test]
fn child() {
    match (std::env::var("XVIP_CHILD_FILLS"), std::env::var("XVIP_CHILD_CREATES")) {
        (Ok(path), _) => {
            let table = Table::create(Path::new(&path), 4096, 4096).unwrap();
            opened(&table, &established(0xffff_ffff, 1));
            fs::write(ready(Path::new(&path)), "").unwrap();
            std::thread::scope(|scope| {
                for worker in 0..3 {
                    let table = &table;
                    scope.spawn(move || churn(table, worker));
                }
            });
        }
        (_, Ok(path)) => {
            let error = Table::create(Path::new(&path), 1 << 20, 16).map(drop).unwrap_err();
            assert!(error.to_string().contains("No space left"), "{error}");
            assert!(!Path::new(&path).exists());
        }
        _ => {}
    }
}

/// Opens and ends connections without end, in competition with the others.
fn churn(table: &Table, worker: u32) {
    for i in (0_u32..).map(|i| i.wrapping_mul(2_654_435_761 + worker * 2) >> 18) {
        let conn = established(i, 1);
        if let Some(found) = find(table, &conn) {
            table.remove(&found.handle);
        } else {
            open_with(table, &conn, &mut |_, _| {});
        }
    }
}

fn child_command(program: &str, before: &[&str]) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut command =
        Command::new(if program.is_empty() { exe.to_str().unwrap() } else { program });
    command.args(before);
    if !program.is_empty() {
        command.arg(&exe);
    }
    command.args(["--exact", "conn::tests::adoption::child", "--test-threads", "1"]);
    command.stdout(Stdio::null());
    command
}

#[test]
fn a_process_killed_while_it_writes_leaves_a_table_that_is_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("table");
    for round in 0..5 {
        let mut child = child_command("", &[]).env("XVIP_CHILD_FILLS", &path).spawn().unwrap();
        let deadline = clock::now().after(Duration::from_secs(20));
        // It says when its table is made; then let it work a while.
        while !ready(&path).exists() {
            assert!(clock::now() < deadline, "the child does not start");
            std::thread::yield_now();
        }
        assert!(matches!(adopt(&path), Err(AdoptError::File(FileError::InUse(_)))));
        let until = clock::now().after(Duration::from_millis(150 + 30 * round));
        while clock::now() < until {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (table, adopted) = Table::adopt(&path, 4096, NOW, |_| true).unwrap();
        assert_eq!(adopted.kept as usize, settled(&table).len());
        assert!(adopted.kept > 1 && adopted.dropped == 0, "{adopted:?}");
        assert!(find(&table, &established(0xffff_ffff, 1)).is_some(), "it was never touched");
        assert!(adopted.repaired <= 3 * 2, "three threads, at most one entry each in hand");
        drop(table);
        fs::remove_file(&path).unwrap();
        fs::remove_file(ready(&path)).unwrap();
    }
}

/// Made by the child when its table is in use.
fn ready(table: &Path) -> PathBuf {
    table.with_extension("ready")
}

#[test]
fn a_file_system_without_room_is_an_error_and_no_signal() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size=8m none {0} && exec \"$@\"", dir.path().display());
    let probe = ["-m", "sh", "-c", "mount -t tmpfs none /mnt"];
    let may = Command::new("unshare").args(probe).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        eprintln!("not root: a small file system cannot be mounted; not tested");
        return;
    }
    let mut child = child_command("unshare", &["-m", "sh", "-c", &script, "sh"]);
    let status = child.env("XVIP_CHILD_CREATES", dir.path().join("table")).status().unwrap();
    assert!(status.success(), "{status}");
}
