use control::verbs::{ServicesResult, StatusResult};
use dataplane_api::message::{RealStatus, ServiceStatus};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::app::{App, Next};
use super::model::{Sample, Sort, groups};
use super::view;

fn real(name: &str, opened: u64, bytes_out: u64, active: u64) -> RealStatus {
    RealStatus {
        name: name.to_owned(),
        address: format!("10.0.1.{}:80", name.len()),
        weight: 1,
        opened,
        bytes_out,
        packets_in: opened * 10,
        active,
        ..RealStatus::default()
    }
}

fn status() -> StatusResult {
    let data_plane = serde_json::to_value(dataplane_api::message::Status {
        uptime_ms: 64_000,
        lease_ms: 2500,
        ..Default::default()
    });
    serde_json::from_value(serde_json::json!({
        "node": "lb1", "instance": "xvip",
        "control": {"program": "1", "pid": 1, "uptime_ms": 1, "lease_ms": 3000},
        "config": {"file": "f", "age_ms": 1, "services": 2, "reals": 3, "needs_restart": [],
                   "last_reload": null},
        "agent": {"state": "connected", "since_ms": 1, "reason": null, "applied": true,
                  "refused": null},
        "health": control::verbs::HealthSummary::default(),
        "alerts": [], "spare": [], "metrics": null, "overrides": [], "confirm": null,
        "data_plane": data_plane.unwrap(),
    }))
    .unwrap()
}

fn sample(at_ms: u64, web1: u64, web22: u64) -> Sample {
    let web = ServiceStatus {
        name: "web".to_owned(),
        serves: "reals".to_owned(),
        reals: vec![real("web1", web1, web1 * 1000, 3), real("web22", web22, 0, 500)],
        ..ServiceStatus::default()
    };
    let dns = ServiceStatus {
        name: "dns".to_owned(),
        serves: "nobody".to_owned(),
        reals: vec![real("ns1", 5, 5, 1)],
        ..ServiceStatus::default()
    };
    let services = ServicesResult { services: vec![web, dns], health: Vec::new() };
    Sample { at_ms, status: status(), services }
}

fn app() -> App {
    let mut app = App::default();
    app.update(Ok(sample(1000, 100, 700)));
    app.update(Ok(sample(3000, 300, 710)));
    app
}

fn screen(app: &App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, app)).unwrap();
    // The backend itself cannot print a screen without columns.
    if width == 0 { String::new() } else { terminal.backend().to_string() }
}

fn press(app: &mut App, keys: &str) {
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            c => KeyCode::Char(c),
        };
        assert_eq!(app.key(KeyEvent::new(code, KeyModifiers::NONE), 10), Next::On);
    }
}

fn names(app: &App) -> Vec<String> {
    let groups = app.shown().into_iter();
    groups.flat_map(|g| [vec![g.service], g.reals].concat()).map(|r| r.name).collect()
}

#[test]
fn rates_are_differences_over_the_time_between_two_looks() {
    let groups = groups(Some(&sample(1000, 100, 700)), &sample(3000, 300, 710));
    let web1 = &groups[0].reals[0];
    assert!((web1.rates.conns - 100.0).abs() < 0.001);
    assert!((web1.rates.packets - 1000.0).abs() < 0.001);
    assert!((web1.rates.bits_out - 800_000.0).abs() < 0.001);
    assert!((groups[0].service.rates.conns - 105.0).abs() < 0.001, "a service is the sum");
}

#[test]
fn a_counter_that_began_anew_and_a_first_look_give_no_rate() {
    assert_eq!(groups(None, &sample(1000, 100, 0))[0].service.rates, Default::default());
    let anew = groups(Some(&sample(1000, 100, 5)), &sample(2000, 3, 5));
    assert_eq!(anew[0].reals[0].rates.conns, 0.0);
    let same_moment = groups(Some(&sample(1000, 1, 5)), &sample(1000, 3, 5));
    assert_eq!(same_moment[0].reals[0].rates.conns, 0.0);
}

#[test]
fn the_screen_shows_services_real_servers_and_sums() {
    let text = screen(&app(), 120, 12);
    for part in ["lb1 (xvip)", "105 conn/s", "web22", "10.0.1.4:80", "BIT/S OUT", "800k", "nobody"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_narrow_screen_keeps_what_matters_and_a_tiny_one_does_no_harm() {
    let text = screen(&app(), 42, 12);
    assert!(text.contains("web22") && text.contains("ACTIVE"), "{text}");
    assert!(!text.contains("BIT/S"), "{text}");
    for width in 0..30 {
        for height in 0..8 {
            screen(&app(), width, height);
        }
    }
}

#[test]
fn keys_sort_filter_pause_and_scroll() {
    let mut app = app();
    assert_eq!(names(&app), ["web", "web1", "web22", "dns", "ns1"]);
    press(&mut app, "a");
    assert_eq!(names(&app), ["web", "web22", "web1", "dns", "ns1"], "active first");
    press(&mut app, "cr");
    assert_eq!(names(&app), ["dns", "ns1", "web", "web22", "web1"], "conn/s, least first");
    press(&mut app, "rf/web2\n");
    assert_eq!((names(&app), app.sort), (vec!["web".to_owned(), "web22".to_owned()], Sort::File));
    assert!(screen(&app, 80, 10).contains("only web2"));
    press(&mut app, "\u{1b} ");
    app.update(Ok(sample(4000, 5000, 5000)));
    assert_eq!(app.sample().unwrap().at_ms, 3000, "paused");
    assert!(screen(&app, 80, 10).contains("PAUSED"));
    assert_eq!(app.key(KeyEvent::new(KeyCode::End, KeyModifiers::NONE), 2), Next::On);
    assert_eq!(app.scroll, 3, "the last two rows are on the screen");
    assert!(screen(&app, 80, 6).contains("ns1"));
    let quit = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(app.key(quit, 10), Next::Quit);
}

#[test]
fn a_lost_control_is_said_and_the_last_rows_stay() {
    let mut app = app();
    app.update(Err("xvip: lost xvip-control\u{1b}[2J".to_owned()));
    let text = screen(&app, 80, 10);
    assert!(text.contains("lost xvip-control?[2J") && text.contains("web1"), "{text}");
}

#[test]
fn a_lost_data_plane_is_said_and_the_last_rows_stand_still() {
    let mut app = app();
    let mut status = app.sample().unwrap().status.clone();
    status.agent.state = "connecting".to_owned();
    app.data_plane_lost(status.clone(), "xvip: no data plane".to_owned());
    let text = screen(&app, 120, 10);
    assert!(text.contains("DATA PLANE LOST") && text.contains("web1"), "{text}");
    assert!(text.contains("0 conn/s") && !text.contains("105 conn/s"), "{text}");
    let mut first = App::default();
    first.data_plane_lost(status, "xvip: no data plane".to_owned());
    assert!(screen(&first, 120, 10).contains("no data plane"));
}
