//! What the checks say, for people.

use std::io::{self, Write};

use control::verbs::{CheckHealth, HealthSummary, RealHealth, ServiceHealth};

use crate::table::{clean, ms, plural};

/// Lines of `xvip status`.
pub(crate) fn summary(out: &mut impl Write, health: &HealthSummary) -> io::Result<()> {
    let counts: Vec<_> = health.reals.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let counts = if counts.is_empty() { "no real servers".to_owned() } else { counts.join(", ") };
    let checks = plural(health.probes, "check");
    writeln!(out, "health      {}, {checks} running", clean(&counts))?;
    for (names, what) in [
        (&health.down, "no real server takes new connections"),
        (&health.panic, "below the panic floor: real servers found down stay in service"),
    ] {
        for name in names {
            writeln!(out, "  warning   service {}: {what}", clean(name))?;
        }
    }
    for t in &health.troubles {
        let (service, real) = (clean(&t.service), clean(&t.real));
        let (since, reason) = (ms(t.since_ms), why(&t.reason));
        writeln!(out, "  {:<8}  {service}: {real} for {since}{reason}", clean(&t.state))?;
    }
    Ok(())
}

/// The cells of a real in the table of `xvip services`: state, since when, last check's time.
pub(crate) fn cells(health: Option<&RealHealth>) -> [String; 3] {
    let Some(real) = health else { return ["-".to_owned(), String::new(), String::new()] };
    let mut state = real.state.clone();
    if !matches!(real.percent, 0 | 100) {
        state.push_str(&format!(" {} %", real.percent));
    }
    let slowest = real.checks.iter().filter_map(|c| c.took_us).max();
    let since = if real.checks.is_empty() { "unchecked".to_owned() } else { ms(real.since_ms) };
    [state, since, slowest.map_or_else(|| "-".to_owned(), took)]
}

/// What there is to say of a service's reals beyond the table.
pub(crate) fn details(out: &mut impl Write, health: &ServiceHealth) -> io::Result<()> {
    if health.panic {
        writeln!(out, "  PANIC FLOOR: real servers found down stay in service")?;
    }
    if health.serving == 0 && !health.reals.is_empty() {
        writeln!(out, "  NO REAL SERVER TAKES NEW CONNECTIONS")?;
    }
    for real in &health.reals {
        let name = clean(&real.name);
        if matches!(real.state.as_str(), "down" | "cannot-check") {
            let (state, since) = (clean(&real.state), ms(real.since_ms));
            writeln!(out, "  {name}: {state} for {since}{}", why(&real.reason))?;
        }
        for check in real.checks.iter().filter(|c| is_notable(real, c)) {
            let said = clean(check.reason.as_deref().unwrap_or_default());
            writeln!(out, "  {name}: {}: {said}", clean(&check.check))?;
        }
        if real.flaps > 2 {
            writeln!(out, "  {name}: went up or down {} times in ten minutes", real.flaps)?;
        }
    }
    Ok(())
}

/// Whether the last run says something that the state of the real does not.
fn is_notable(real: &RealHealth, check: &CheckHealth) -> bool {
    let reason = check.reason.as_deref().unwrap_or_default();
    !reason.is_empty() && !real.reason.ends_with(reason)
}

fn why(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {}", clean(reason)) }
}

/// A time of microseconds.
pub(crate) fn took(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        _ => ms(us / 1000),
    }
}
