//! A directory, a configuration and the processes in it; all gone when dropped.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A small valid configuration; tests rely on its lines.
pub(crate) const GOOD: &str = r#"[node]
name = "lb1"
[control]
lease = "600ms"
[[interface]]
name = "eth0"
[[service]]
name = "web"
listen = "192.0.2.10:80"
scheduler = "wrr"
[[service.real]]
address = "10.0.1.1:80"
"#;

/// Waits until `condition` holds; fails after ten seconds.
#[expect(clippy::disallowed_methods, reason = "a test waits for a condition, with a deadline")]
pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a command printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) struct World {
    dir: TempDir,
}

impl World {
    pub(crate) fn new(config: &str) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        world.write(config);
        world
    }

    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir.path().join("xvip.toml")
    }

    pub(crate) fn agent_path(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn control_path(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, config: &str) {
        std::fs::write(self.config_path(), config).unwrap();
    }

    pub(crate) fn control_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xvip-control"));
        command.arg("--config").arg(self.config_path()).arg("--run-dir").arg(self.dir.path());
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.stderr(Stdio::piped()).stdin(Stdio::null());
        command
    }

    /// Starts control and waits until it listens.
    pub(crate) fn control(&self) -> Control {
        let child = self.control_command().spawn().unwrap();
        let control = Control { child: Some(child) };
        wait("control listens", || UnixStream::connect(self.control_path()).is_ok());
        control
    }

    pub(crate) fn xvip_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xvip"));
        if !args.contains(&"--socket") {
            command.arg("--socket").arg(self.control_path());
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn xvip(&self, args: &[&str]) -> Output {
        let output = self.xvip_command(args).output().unwrap();
        Output {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// `xvip ARGS --json`, which must succeed.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.xvip(&[args, &["--json"]].concat());
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    }

    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.control_path()).unwrap()
    }

    /// Sends one line over a connection of its own; the reply.
    pub(crate) fn send(&self, line: &str) -> Value {
        let mut stream = self.connect();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        serde_json::from_str(&reply).unwrap()
    }

    pub(crate) fn request(&self, request: &Value) -> Value {
        self.send(&request.to_string())
    }
}

/// A running xvip-control; killed when dropped.
pub(crate) struct Control {
    child: Option<Child>,
}

impl Control {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    }

    /// SIGTERM; its log, once it has ended well.
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let output = self.child.take().unwrap().wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {}
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
