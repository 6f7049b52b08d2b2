//! What the operator sees and does: keys in, state out. Pure.

use control::verbs::StatusResult;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Group, Rates, Sample, Sort, arrange, groups};

/// The screen's state.
#[derive(Debug, Default)]
pub(crate) struct App {
    before: Option<Sample>,
    now: Option<Sample>,
    pub(crate) groups: Vec<Group>,
    pub(crate) sort: Sort,
    pub(crate) reversed: bool,
    pub(crate) filter: String,
    /// Whether keys go into the filter.
    pub(crate) typing: bool,
    pub(crate) paused: bool,
    /// Lines scrolled away.
    pub(crate) scroll: usize,
    /// Why there is nothing new.
    pub(crate) problem: Option<String>,
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    On,
    Quit,
}

impl App {
    /// A screen that shows only what has `filter` in it.
    pub(crate) fn new(filter: &str) -> Self {
        Self { filter: filter.to_owned(), ..Self::default() }
    }

    /// A new look, or why there is none.
    pub(crate) fn update(&mut self, look: Result<Sample, String>) {
        if self.paused {
            return;
        }
        match look {
            Ok(sample) => {
                self.problem = None;
                // A data plane that started anew has counters that started anew.
                let boot = |s: &Sample| s.status.data_plane.as_ref().map(|d| d.boot_id.clone());
                let before = self.now.take().filter(|now| boot(now) == boot(&sample));
                self.groups = groups(before.as_ref(), &sample);
                (self.before, self.now) = (before, Some(sample));
            }
            Err(problem) => self.problem = Some(problem),
        }
    }

    /// A look that found control, but no data plane: the rows are the last ones, and stand still.
    pub(crate) fn data_plane_lost(&mut self, status: StatusResult, why: String) {
        if self.paused {
            return;
        }
        self.before = None;
        self.problem = match &mut self.now {
            Some(now) => {
                now.status = status;
                None
            }
            None => Some(why),
        };
        for group in &mut self.groups {
            group.service.rates = Rates::default();
            group.reals.iter_mut().for_each(|real| real.rates = Rates::default());
        }
    }

    /// The last look.
    pub(crate) const fn sample(&self) -> Option<&Sample> {
        self.now.as_ref()
    }

    /// Share of busy polls between the last two looks, in percent.
    pub(crate) fn busy(&self) -> Option<u64> {
        super::model::busy(self.before.as_ref(), self.now.as_ref()?)
    }

    /// What is shown, in order.
    pub(crate) fn shown(&self) -> Vec<Group> {
        arrange(&self.groups, &self.filter, self.sort, self.reversed)
    }

    /// A key; `page` is the number of lines that fit.
    pub(crate) fn key(&mut self, key: KeyEvent, page: usize) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Next::Quit,
                _ => Next::On,
            };
        }
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.filter.clear();
                }
                KeyCode::Backspace => {
                    self.filter.pop();
                }
                KeyCode::Char(c) if !c.is_control() && self.filter.len() < 64 => {
                    self.filter.push(c);
                }
                _ => {}
            }
            self.scroll = 0;
            return Next::On;
        }
        let lines: usize = self.shown().iter().map(|g| g.reals.len() + 1).sum();
        let last = lines.saturating_sub(page);
        match key.code {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Down => self.scroll += 1,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(page.max(1)),
            KeyCode::PageDown => self.scroll += page.max(1),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = last,
            KeyCode::Char(c) => {
                if let Some((_, _, sort)) = Sort::ALL.iter().find(|(key, ..)| *key == c) {
                    self.sort = *sort;
                }
            }
            _ => {}
        }
        self.scroll = self.scroll.min(last);
        Next::On
    }
}
