//! What the user sees and has chosen: which disk, which panel, and whether the daemon still answers.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Disk, View};
use super::sample::Sample;
use crate::Error;

/// What stands below the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panel {
    /// All the others, as far as there is room.
    Overview,
    Stages,
    Queues,
    Reactors,
    Slow,
}

impl Panel {
    pub(super) const ALL: [Self; 5] =
        [Self::Overview, Self::Stages, Self::Queues, Self::Reactors, Self::Slow];

    pub(super) fn name(self) -> &'static str {
        ["overview", "stages", "queues", "reactors", "slow"][self as usize]
    }

    fn step(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    /// The daemon's socket, for the title.
    pub(super) socket: String,
    pub(super) view: Option<View>,
    /// Why there is nothing new, since the daemon has gone away.
    pub(super) lost: Option<String>,
    pub(super) panel: Panel,
    pub(super) help: bool,
    pub(super) quit: bool,
    selected: Option<String>,
    before: Option<Sample>,
}

impl App {
    pub(super) fn new(socket: String) -> Self {
        Self {
            socket,
            view: None,
            lost: None,
            panel: Panel::Overview,
            help: false,
            quit: false,
            selected: None,
            before: None,
        }
    }

    /// Takes a new sample, or why there is none.
    pub(super) fn take(&mut self, sample: Result<Sample, Error>) {
        match sample {
            Ok(now) => {
                self.view = Some(View::new(self.before.as_ref(), &now));
                (self.before, self.lost) = (Some(now), None);
            }
            // Whoever answers next may be another daemon, with counters of its own.
            Err(e) => (self.before, self.lost) = (None, Some(e.one_line())),
        }
    }

    /// Does what a key means.
    pub(super) fn press(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => self.quit = true,
            KeyCode::Char('q') => self.quit = true,
            _ if self.help => self.help = false,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Down | KeyCode::Char('j') => self.select(self.selected().saturating_add(1)),
            KeyCode::Up | KeyCode::Char('k') => self.select(self.selected().saturating_sub(1)),
            KeyCode::Tab => self.panel = self.panel.step(1),
            KeyCode::BackTab => self.panel = self.panel.step(Panel::ALL.len() - 1),
            _ => {}
        }
    }

    pub(super) fn disks(&self) -> &[Disk] {
        self.view.as_ref().map_or(&[], |view| &view.disks)
    }

    /// The place of the selected disk; the first one's where that is no more.
    pub(super) fn selected(&self) -> usize {
        let is_selected = |disk: &Disk| self.selected.as_ref() == Some(&disk.name);
        self.disks().iter().position(is_selected).unwrap_or(0)
    }

    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disks().get(self.selected())
    }

    fn select(&mut self, index: usize) {
        if let Some(disk) = self.disks().get(index) {
            self.selected = Some(disk.name.clone());
        }
    }
}
