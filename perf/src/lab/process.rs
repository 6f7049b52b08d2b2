//! A process of the lab. Its output goes to a file, so that no pipe can stall it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{during, wait_until};

/// What every process of a lab is started by. A session of its own keeps a Ctrl-C at the terminal
/// from it (we end our processes in order), and gives it an automatic scheduling group of its own,
/// whose share of the cores can then be raised above whatever else the machine does (sched(7),
/// autogroup; where there is none, so be it): what is measured is the run, not how many compilers
/// run beside it.
const FIRST: &str = "{ echo -20 > /proc/self/autogroup; } 2>/dev/null; exec \"$@\"";

/// Lines of a log in an error message.
const TAIL: usize = 15;

/// A running program; killed when dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a session of its own, ahead of what else runs on the machine. What it
    /// writes goes to `DIRECTORY/NAME.log`; standard output goes elsewhere if `output` says so.
    ///
    /// # Errors
    /// If the log cannot be written or the program not be started.
    pub(crate) fn start(
        name: &str,
        command: Command,
        directory: &Path,
        output: Option<File>,
    ) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        // Each process has a log of its own, also the second of a name.
        let _ = fs::remove_file(&log);
        let sink = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("{}", log.display()))?;
        let output = match output {
            Some(file) => file,
            None => sink.try_clone().context("log file")?,
        };
        let mut first = Command::new("setsid");
        first.args(["sh", "-c", FIRST, "sh"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            first.env(key, value.unwrap_or_default());
        }
        first.stdin(Stdio::null()).stdout(output).stderr(sink);
        let child =
            during(|| first.spawn()).with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// That it still runs.
    ///
    /// # Errors
    /// With the last lines of its log, if it has ended.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("waiting for a process")? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.tail()),
        }
    }

    /// Its exit status once it has ended by itself, waiting at most `limit`.
    ///
    /// # Errors
    /// If it has not ended by then; it goes on running.
    pub(crate) fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        wait_until(&what, limit, || self.child.try_wait().context("waiting for a process"))
    }

    /// Asks it to stop, and kills it if it has not within `limit`. Returns whether it went by
    /// itself.
    pub(crate) fn end(&mut self, limit: Duration) -> bool {
        if !self.alive() {
            return true;
        }
        self.signal(Signal::TERM);
        if self.wait(limit).is_ok() {
            return true;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        false
    }

    /// Sends a signal, if it still runs.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.alive()
            && let Some(pid) = Pid::from_raw(self.pid().cast_signed())
        {
            // It may just have ended: then there is nobody left to tell.
            let _ = kill_process(pid, signal);
        }
    }

    /// All that it wrote.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines it wrote.
    pub(crate) fn tail(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Time that all of its threads have had a core.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        cpu_time(&stat, false)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.alive() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// User and system time in `/proc/PID/stat`, fields 14 and 15, in ticks of 10 ms; with those of its
/// ended children, 16 and 17 (proc(5); the name, field 2, may hold blanks and brackets).
pub(crate) fn cpu_time(stat: &str, with_children: bool) -> Duration {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = rest.split_whitespace().skip(11).take(if with_children { 4 } else { 2 });
    let ticks: u64 = fields.filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_said_last_is_told_when_it_ends() {
        let directory = std::env::temp_dir().join(format!("xvperf-test-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo out of cheese >&2; exit 3"]);
        let mut process = Process::start("shell", shell, &directory, None).unwrap();
        assert_eq!(process.wait(Duration::from_secs(10)).unwrap().code(), Some(3));
        let error = process.must_run().unwrap_err().to_string();
        assert!(error.contains("out of cheese") && error.contains("shell ended"), "{error}");
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let mut process = Process::start("sleep", sleep, &directory, None).unwrap();
        process.must_run().unwrap();
        assert!(process.end(Duration::from_secs(10)) && !process.alive());
        let mut none = Process::start("none", Command::new("/nonesuch"), &directory, None).unwrap();
        assert_eq!(none.wait(Duration::from_secs(10)).unwrap().code(), Some(127));
        assert!(none.tail().contains("/nonesuch"));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b) R 1 7 7 0 -1 4194304 107 0 0 0 150 50 60 40 20 0 1 0 100 0 0";
        assert_eq!(cpu_time(stat, false), Duration::from_secs(2));
        assert_eq!(cpu_time(stat, true), Duration::from_secs(3));
        assert_eq!(cpu_time("", true), Duration::ZERO);
    }
}
