//! The user's terminal: taken for a while, and given back as it was by whatever ends the program but `kill -9`.
//!
//! A normal end and an error drop the [`Tty`]; stop signals are read as events, so they end normally; a panic of any
//! thread restores the terminal before its message is printed.

use ratatui::DefaultTerminal;
use ratatui::widgets::Widget;

use crate::Error;

/// The terminal, raw and on a screen of its own.
pub(super) struct Tty(DefaultTerminal);

impl Tty {
    /// Takes it.
    pub(super) fn enter() -> Result<Self, Error> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(e) => {
                // It may have gone half of the way.
                ratatui::restore();
                Err(Error::Terminal(e))
            }
        }
    }

    /// Shows a widget on all of it, whatever its size is now.
    pub(super) fn draw(&mut self, widget: impl Widget) -> Result<(), Error> {
        self.0.draw(|frame| frame.render_widget(widget, frame.area())).map(drop).map_err(Error::Terminal)
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        // Nobody is left to tell if the terminal is gone.
        let _ = ratatui::try_restore();
    }
}
