//! What the data plane is told to do, from what the operator wants. Pure.
//!
//! The only writer of weights: whatever keeps a real from new connections (an operator's drain, a
//! failed check) is decided here and nowhere else.

use dataplane_api::service::Snapshot;

use crate::config::Config;

/// The whole desired state of the data plane.
#[must_use]
pub fn plan(config: &Config) -> Snapshot {
    Snapshot {
        engine: config.engine.clone(),
        interfaces: config.interfaces.clone(),
        timeouts: config.timeouts,
        local: config.local.clone(),
        reply: config.reply,
        services: config.services.iter().map(|entry| entry.service.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_snapshot_says_what_the_file_says_and_survives_the_wire() {
        let text = r#"
            [[interface]]
            name = "eth0"
            [timeouts]
            established = "1h"
            [[service]]
            name = "web"
            listen = ["192.0.2.10:80", "192.0.2.10:443"]
            timeouts = { close = 5 }
            real = [{ address = "10.0.1.1:8080", weight = 4 }, { name = "b", address = "10.0.1.2" }]
        "#;
        let snapshot = plan(&config::parse(text, "x").unwrap());
        let service = &snapshot.services[0];
        let weights: Vec<_> = service.reals.iter().map(|r| r.weight.get()).collect();
        assert_eq!(weights, [4, 1]);
        assert_eq!(service.reals[0].name, "10.0.1.1:8080");
        assert_eq!(service.reals[1].port, None);
        let timeouts = service.timeouts.unwrap();
        assert_eq!((timeouts.close, timeouts.established), (5, 3600), "unset ones are the file's");
        let json = serde_json::to_string(&snapshot).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
    }
}
