//! `type = "script"`: what a program is given, what it may do, and that nothing of it stays.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use control::check::{Outcome, Passed};
use tempfile::TempDir;

use super::server::check;

/// A directory that nobody else can write to, with a script in it.
fn script(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("check");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    set_mode(&path, 0o700);
    (directory, path)
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Runs it with more keys.
fn run(text: &str, keys: &str) -> Outcome {
    let (_directory, path) = script(text);
    check(80, &format!("type = \"script\"\ncommand = {path:?}\n{keys}")).outcome
}

#[test]
fn exit_codes_and_output_are_the_answer() {
    assert_eq!(run("exit 0", ""), Outcome::up());
    assert_eq!(run("echo bad disk >&2; exit 1", ""), Outcome::down("exit code 1: bad disk"));
    assert_eq!(run("exit 4", "up = [0, 4]"), Outcome::up());
    let unknown = Outcome::cannot_run("exit code 3: who knows");
    assert_eq!(run("echo who knows; exit 3", "unknown = 3"), unknown);
    assert_eq!(run("kill -9 $$", ""), Outcome::down("killed by signal 9"));
    let half = Passed { weight_percent: Some(50), note: None };
    assert_eq!(run("exit 52", "weight = true"), Outcome::Up(half));
}

#[test]
fn a_script_is_told_what_is_asked_and_nothing_else() {
    let text = r#"
        [ "$1" = "127.0.0.1:80" ] || { echo "argument $1"; exit 1; }
        [ "$XVIP_ADDRESS $XVIP_PORT $XVIP_SERVICE" = "127.0.0.1 80 s" ] || { env; exit 1; }
        [ "$XVIP_VIP $XVIP_VIP_PORT $XVIP_REAL $MORE" = "192.0.2.1 80 10.0.0.1:80 yes" ] ||
            { echo "$XVIP_VIP $XVIP_VIP_PORT $XVIP_REAL $MORE"; exit 1; }
        [ -z "$HOME$CARGO$USER" ] || { echo "environment"; exit 1; }
        [ "$(cat)" = "" ] || { echo "input"; exit 1; }
        ! ls -l /proc/self/fd | grep -F "$OPEN" || { echo "a file of ours"; exit 1; }
    "#;
    let ours = tempfile::NamedTempFile::new().unwrap();
    let keys = format!(
        "arguments = [\"{{address}}:{{port}}\"]\nenvironment = {{ MORE = \"yes\", OPEN = {:?} }}",
        ours.path()
    );
    assert_eq!(run(text, &keys), Outcome::up());
}

#[test]
fn a_flood_of_output_is_read_and_thrown_away() {
    let Outcome::Down(reason) = run("yes 'no\x1b[2J' | head -c 3000000; exit 1", "") else {
        panic!("not down")
    };
    assert_eq!(reason, r"exit code 1: no\x1b[2J");
}

/// Whether a process is there; a zombie counts.
fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[expect(clippy::disallowed_methods, reason = "a deadline of a test, in real time")]
fn gone(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(3);
    while exists(pid) {
        assert!(Instant::now() < deadline, "process {pid} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn a_script_that_hangs_is_killed_with_its_children() {
    let (directory, path) = script("sleep 1000 & echo $! $$ >\"$1\"; trap '' TERM; wait");
    let note = directory.path().join("pids");
    let keys = format!(
        "type = \"script\"\ncommand = {path:?}\narguments = [{note:?}]\ntimeout = \"300ms\""
    );
    let report = check(80, &keys);
    assert!(matches!(&report.outcome, Outcome::Down(r) if r.starts_with("no answer within 300ms")));
    let pids = std::fs::read_to_string(note).unwrap();
    let mut pids = pids.split_whitespace();
    gone(pids.next().unwrap());
    // The script itself is reaped by the loop of the next run, if not before.
    let (_other, path) = script("exit 0");
    check(80, &format!("type = \"script\"\ncommand = {path:?}"));
    gone(pids.next().unwrap());
}

#[test]
fn what_a_script_leaves_running_is_killed_and_holds_up_nothing() {
    let (directory, path) = script("sleep 1000 & echo $! >\"$1\"; exit 0");
    let note = directory.path().join("pid");
    let keys = format!("type = \"script\"\ncommand = {path:?}\narguments = [{note:?}]");
    let report = check(80, &keys);
    assert_eq!(report.outcome, Outcome::up());
    assert!(report.took < Duration::from_millis(900), "{report:?}");
    gone(std::fs::read_to_string(note).unwrap().trim());
}

#[test]
fn scripts_that_others_can_change_are_not_started() {
    let (directory, path) = script("exit 0");
    let keys = format!("type = \"script\"\ncommand = {path:?}");
    let reason = || match check(80, &keys).outcome {
        Outcome::CannotRun(reason) => reason,
        other => panic!("{other:?}"),
    };
    for (mode, part) in [(0o722, "chmod go-w"), (0o770, "chmod go-w"), (0o600, "chmod +x")] {
        set_mode(&path, mode);
        assert!(reason().contains(part), "{mode:o}: {}", reason());
    }
    set_mode(&path, 0o700);
    set_mode(directory.path(), 0o777);
    assert!(reason().contains("another program in its place"), "{}", reason());
    set_mode(directory.path(), 0o700);
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let linked = check(80, &format!("type = \"script\"\ncommand = {link:?}"));
    assert_eq!(linked.outcome, Outcome::up());
    std::fs::write(&path, "#!/no/such/interpreter\n").unwrap();
    assert!(reason().contains("cannot start"), "{}", reason());
    std::fs::remove_file(&path).unwrap();
    assert!(reason().contains("No such file"), "{}", reason());
}
