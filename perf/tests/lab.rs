//! A lab goes when its run is ended, and if the run is killed, with the next run. Needs root:
//! skipped loudly without, failed under `REQUIRE_NETNS=1`.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A running `xvip-perf lab`, ready.
struct Run(Child);

impl Run {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xvip-perf"))
            .args(["lab", "--without-balancer"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said: Vec<_> = lines.map_while(Result::ok).take_while(|line| line != "ready").collect();
        assert!(said.iter().any(|line| line.contains("nsenter")), "{said:?}");
        Self(child)
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        self.0.wait().unwrap().code()
    }

    /// What is on the machine of it.
    fn traces(&self) -> Vec<String> {
        let prefix = format!("xvperf-{}", self.0.id());
        let directories = ["/run/netns", "/run", "/tmp", "/dev/shm"];
        let entries =
            directories.into_iter().flat_map(|d| std::fs::read_dir(d).into_iter().flatten());
        let paths = entries.flatten().map(|e| e.path().display().to_string());
        paths
            .filter(|p| p.split('/').any(|n| n == prefix || n.starts_with(&format!("{prefix}-"))))
            .collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn signals_end_a_run_without_traces_and_those_of_a_killed_one_go_with_the_next() {
    if !rustix::process::geteuid().is_root() {
        assert_ne!(std::env::var("REQUIRE_NETNS").as_deref(), Ok("1"), "this test needs root");
        eprintln!("SKIPPED: needs root");
        return;
    }
    for signal in [Signal::INT, Signal::TERM] {
        let mut run = Run::start();
        assert!(run.traces().len() >= 3, "{:?}", run.traces());
        assert_eq!(run.end(signal), Some(128 + signal.as_raw()));
        assert_eq!(run.traces(), Vec::<String>::new());
    }
    let mut killed = Run::start();
    // Something that runs inside holds the namespace.
    let path = format!("--net=/run/netns/xvperf-{}-gen", killed.0.id());
    let mut inside = Command::new("nsenter").args([&path, "sleep", "600"]).spawn().unwrap();
    let _ = killed.end(Signal::KILL);
    assert!(killed.traces().len() >= 3, "nobody could remove them yet: {:?}", killed.traces());
    let beside = Run::start();
    assert_eq!(killed.traces(), Vec::<String>::new());
    assert!(beside.traces().len() >= 3);
    let ended = (0..500).any(|_| {
        std::thread::park_timeout(Duration::from_millis(10));
        inside.try_wait().unwrap().is_some()
    });
    assert!(ended, "what ran in it is gone too");
    std::mem::forget(killed);
}
