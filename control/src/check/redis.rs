//! `type = "redis"`: a Redis or Valkey server answers `PING`, and has the role it should have.
//!
//! Commands are packed and answers parsed by the `redis` crate.

use redis::{ErrorKind, Value};

use super::Outcome;
use super::outcome::printable;
use super::pattern::Pattern;
use super::secret::Secret;
use super::talk::{Step, Talk};
use super::tls::Tls;

/// Longest answer, in bytes. `ROLE` of a master names its replicas.
const ANSWER_MAX: usize = 16 << 10;

/// What is asked of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Settings {
    /// Whether TLS begins with the connection.
    pub tls: Tls,
    /// User of an access list; `None`: the default one.
    pub user: Option<String>,
    /// Password; without it there is no login.
    pub password: Option<Secret>,
    /// The role the server must have.
    pub role: Option<Role>,
    /// A key whose value is read.
    pub get: Option<String>,
    /// What the value must match; `None`: it only has to be there.
    pub expect: Option<Pattern>,
}

/// Roles in replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It takes writes.
    Master,
    /// It follows a master, and is connected to it.
    Replica,
}

/// What an answer is awaited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Auth,
    Ping,
    Role,
    Get,
}

/// The conversation.
pub struct Dialog<'a> {
    settings: &'a Settings,
    password: Option<String>,
    asked: Asked,
}

impl<'a> Dialog<'a> {
    /// With the password, if one is configured.
    #[must_use]
    pub const fn new(settings: &'a Settings, password: Option<String>) -> Self {
        Self { settings, password, asked: Asked::Auth }
    }

    fn ask(&mut self, what: Asked) -> Step {
        self.asked = what;
        let mut command = redis::Cmd::new();
        match what {
            Asked::Auth => {
                let Some(password) = &self.password else { return self.ask(Asked::Ping) };
                command.arg("AUTH");
                if let Some(user) = &self.settings.user {
                    command.arg(user);
                }
                command.arg(password);
            }
            Asked::Ping => {
                command.arg("PING");
            }
            Asked::Role => {
                if self.settings.role.is_none() {
                    return self.ask(Asked::Get);
                }
                command.arg("ROLE");
            }
            Asked::Get => {
                let Some(key) = &self.settings.get else { return good() };
                command.arg("GET").arg(key);
            }
        }
        Step::Send(command.get_packed_command())
    }

    fn judge_role(&self, answer: &Value) -> Result<(), String> {
        let Value::Array(items) = answer else { return Err(unexpected("ROLE", answer)) };
        let words: Vec<_> = items.iter().map(text).collect();
        let is = |at: usize, word: &str| words.get(at).is_some_and(|w| w == word);
        let Some(role) = words.first() else { return Err(unexpected("ROLE", answer)) };
        match self.settings.role {
            Some(Role::Master) if is(0, "master") => Ok(()),
            Some(Role::Replica) if is(0, "slave") && is(3, "connected") => Ok(()),
            Some(Role::Replica) if is(0, "slave") => {
                let state = words.get(3).map_or("unknown", String::as_str);
                Err(format!("a replica whose link to its master is in state {state}"))
            }
            wanted => {
                let wanted = if wanted == Some(Role::Master) { "master" } else { "replica" };
                let role = if role == "slave" { "replica" } else { role };
                Err(format!("its role is {role}, not {wanted}"))
            }
        }
    }

    fn judge_value(&self, answer: &Value) -> Result<(), String> {
        match (answer, &self.settings.expect) {
            (Value::Nil, _) => Err("the key does not exist".to_owned()),
            (_, None) => Ok(()),
            (Value::BulkString(bytes), Some(pattern)) if pattern.matches(bytes) => Ok(()),
            (other, Some(_)) => Err(format!("the value does not match: \"{}\"", text(other))),
        }
    }
}

impl Talk for Dialog<'_> {
    fn begin(&mut self) -> Step {
        self.ask(Asked::Auth)
    }

    fn secured(&mut self) -> Step {
        self.begin()
    }

    fn frame(&self, received: &[u8]) -> Result<Option<usize>, String> {
        // Every answer ends like this, so that little is parsed in vain.
        if !received.ends_with(b"\r\n") {
            return if received.len() > ANSWER_MAX { Err(too_long()) } else { Ok(None) };
        }
        // One command is open at a time, so that there is one answer and nothing behind it.
        match redis::parse_redis_value(received) {
            Ok(_) => Ok(Some(received.len())),
            Err(error) if error.kind() == ErrorKind::Io => {
                if received.len() > ANSWER_MAX {
                    Err(too_long())
                } else {
                    Ok(None)
                }
            }
            Err(_) => {
                let start = received.get(..40).unwrap_or(received);
                Err(format!("not an answer of Redis: \"{}\"", start.escape_ascii()))
            }
        }
    }

    fn hear(&mut self, message: &[u8]) -> Step {
        let answer = match redis::parse_redis_value(message) {
            Ok(Value::ServerError(error)) => {
                let detail = error.details().unwrap_or_default();
                return Step::down(format!("{}: {} {detail}", self.command(), error.code()));
            }
            Ok(answer) => answer,
            Err(error) => return Step::down(format!("not an answer of Redis: {error}")),
        };
        let judged = match self.asked {
            Asked::Auth if answer == Value::Okay => Ok(Some(Asked::Ping)),
            Asked::Ping if is_pong(&answer) => Ok(Some(Asked::Role)),
            Asked::Role => self.judge_role(&answer).map(|()| Some(Asked::Get)),
            Asked::Get => self.judge_value(&answer).map(|()| None),
            Asked::Auth | Asked::Ping => Err(unexpected(self.command(), &answer)),
        };
        match judged {
            Ok(Some(next)) => self.ask(next),
            Ok(None) => good(),
            Err(reason) => Step::down(reason),
        }
    }

    fn waiting_for(&self) -> &'static str {
        match self.asked {
            Asked::Auth => "to the login",
            Asked::Ping => "to PING",
            Asked::Role => "to ROLE",
            Asked::Get => "to GET",
        }
    }
}

impl Dialog<'_> {
    const fn command(&self) -> &'static str {
        match self.asked {
            Asked::Auth => "AUTH",
            Asked::Ping => "PING",
            Asked::Role => "ROLE",
            Asked::Get => "GET",
        }
    }
}

fn good() -> Step {
    Step::Done(Outcome::up(), b"*1\r\n$4\r\nQUIT\r\n".to_vec())
}

fn is_pong(answer: &Value) -> bool {
    matches!(answer, Value::SimpleString(word) if word == "PONG")
}

fn too_long() -> String {
    format!("the answer is longer than {ANSWER_MAX} bytes")
}

fn unexpected(command: &str, answer: &Value) -> String {
    format!("unexpected answer to {command}: \"{}\"", text(answer))
}

/// A value for people.
fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Okay => "OK".to_owned(),
        Value::Int(number) => number.to_string(),
        other => printable(&format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::talk::{hear_all, reason};
    use super::*;

    fn settings(role: Option<Role>, expect: Option<&str>) -> Settings {
        let expect = expect.map(|e| Pattern::new(e).unwrap());
        let get = expect.is_some().then(|| "health".to_owned());
        Settings { tls: Tls::Off, user: None, password: None, role, get, expect }
    }

    fn sent(step: &Step) -> String {
        match step {
            Step::Send(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_login_comes_first_and_a_role_last() {
        let mut s = settings(Some(Role::Master), None);
        s.user = Some("probe".to_owned());
        let mut dialog = Dialog::new(&s, Some("pass word".to_owned()));
        let auth = "*3\r\n$4\r\nAUTH\r\n$5\r\nprobe\r\n$9\r\npass word\r\n";
        assert_eq!(sent(&dialog.begin()), auth);
        assert_eq!(sent(&hear_all(&mut dialog, b"+OK\r\n")), "*1\r\n$4\r\nPING\r\n");
        assert_eq!(sent(&hear_all(&mut dialog, b"+PONG\r\n")), "*1\r\n$4\r\nROLE\r\n");
        let role = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n";
        assert!(matches!(hear_all(&mut dialog, role), Step::Done(Outcome::Up(_), _)));
    }

    #[test]
    fn a_replica_is_no_master_and_must_be_connected_to_be_a_replica() {
        let replica = |state: &str| {
            let len = state.len();
            format!("*5\r\n$5\r\nslave\r\n$3\r\na.b\r\n:6379\r\n${len}\r\n{state}\r\n:9\r\n")
        };
        let ask = |role, answer: &str| {
            let s = settings(Some(role), None);
            let mut dialog = Dialog::new(&s, None);
            dialog.begin();
            hear_all(&mut dialog, b"+PONG\r\n");
            hear_all(&mut dialog, answer.as_bytes())
        };
        let step = ask(Role::Master, &replica("connected"));
        assert_eq!(reason(step), "its role is replica, not master");
        let step = ask(Role::Replica, &replica("connected"));
        assert!(matches!(step, Step::Done(Outcome::Up(_), _)));
        assert!(reason(ask(Role::Replica, &replica("sync"))).ends_with("in state sync"));
        assert!(reason(ask(Role::Replica, "*0\r\n")).contains("unexpected"));
    }

    #[test]
    fn errors_of_the_server_are_told() {
        let s = settings(None, Some("^ok$"));
        let mut dialog = Dialog::new(&s, None);
        dialog.begin();
        let step = hear_all(&mut dialog, b"-LOADING Redis is loading the dataset\r\n");
        assert_eq!(reason(step), "PING: LOADING Redis is loading the dataset");
        let step = hear_all(&mut dialog, b"-NOAUTH Authentication required.\r\n");
        assert_eq!(reason(step), "PING: NOAUTH Authentication required.");
        assert!(reason(hear_all(&mut dialog, b"+PANG\r\n")).contains("PANG"));
        assert_eq!(sent(&hear_all(&mut dialog, b"+PONG\r\n")).matches("health").count(), 1);
        assert_eq!(reason(hear_all(&mut dialog, b"$-1\r\n")), "the key does not exist");
        assert!(reason(hear_all(&mut dialog, b"$3\r\nbad\r\n")).contains("\"bad\""));
        let step = hear_all(&mut dialog, b"$2\r\nok\r\n");
        assert!(matches!(step, Step::Done(Outcome::Up(_), _)));
    }

    #[test]
    fn hostile_answers_are_bounded() {
        let s = settings(None, None);
        let mut dialog = Dialog::new(&s, None);
        dialog.begin();
        assert!(reason(hear_all(&mut dialog, b"HTTP/1.1 400 Bad\r\n")).contains("HTTP/1.1"));
        for huge in ["$9223372036854775807\r\n", "*9223372036854775807\r\n", "*4294967295\r\n"] {
            assert_eq!(hear_all(&mut dialog, huge.as_bytes()), Step::Listen, "{huge}");
        }
        let endless = [b"+".as_slice(), &[b'x'; ANSWER_MAX]].concat();
        assert!(reason(hear_all(&mut dialog, &endless)).contains("longer than"));
        let nested = "*1\r\n".repeat(4000);
        assert!(!matches!(hear_all(&mut dialog, nested.as_bytes()), Step::Done(Outcome::Up(_), _)));
    }
}
