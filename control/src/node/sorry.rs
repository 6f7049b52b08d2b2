//! When which service has its sorry page.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Node, Output};
use crate::log::{Level, Record};
use crate::sorry::{Answer, Pages};

/// The pages that are up.
#[derive(Debug, Default)]
pub(super) struct Pageant {
    pages: Arc<Pages>,
    services: BTreeSet<String>,
    /// What could not be done.
    pub(super) problems: Vec<String>,
}

impl Node {
    /// Puts pages up and takes them down: up when the plan, or the data plane, has nobody for a
    /// service; down when neither. Before the plan goes out, so that who is left to the kernel finds
    /// somebody there.
    pub(super) fn sorry_tick(&mut self) {
        let with = |e: &crate::config::Entry| e.sorry.is_some();
        if self.sorry.pages.is_empty() && !self.config.services.iter().any(with) {
            return;
        }
        let mut services = BTreeSet::new();
        let mut pages = Pages::new();
        let status = self.last_status.as_ref().map(|(_, status)| status);
        for entry in &self.config.services {
            let Some(sorry) = &entry.sorry else { continue };
            let name = &entry.service.name;
            let planned = self.planned_serving(name) == Some(0);
            let seen = status.and_then(|s| s.services.iter().find(|s| s.name == *name));
            if !planned && seen.is_none_or(|s| s.serves != "sorry") {
                continue;
            }
            services.insert(name.clone());
            let answer = Arc::new(Answer::new(sorry));
            for listen in &entry.service.listen {
                for port in listen.ports.first..=listen.ports.last {
                    pages.insert((listen.address, port).into(), Arc::clone(&answer));
                }
            }
        }
        if *self.sorry.pages == pages {
            return;
        }
        for name in services.difference(&self.sorry.services) {
            self.out.push(Output::Log(Record::new(Level::Warn, "sorry_up").with("service", name)));
        }
        for name in self.sorry.services.difference(&services) {
            let record = Record::new(Level::Info, "sorry_down").with("service", name);
            self.out.push(Output::Log(record));
        }
        self.sorry.services = services;
        self.sorry.pages = Arc::new(pages);
        self.out.push(Output::Sorry(Arc::clone(&self.sorry.pages)));
    }

    /// What the shell could not do of the last [`Output::Sorry`].
    pub(super) fn sorry_told(&mut self, problems: Vec<String>) {
        for problem in problems.iter().filter(|p| !self.sorry.problems.contains(p)) {
            let record = Record::new(Level::Error, "sorry_problem").with("reason", problem);
            self.out.push(Output::Log(record));
        }
        self.sorry.problems = problems;
    }
}
