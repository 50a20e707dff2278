//! Drawing: from the state to the cells of a screen of any size.
//!
//! ```text
//!   title: socket, what time the figures are of, or that the daemon is gone
//!   disks, the selected one marked
//!   panels of the selected disk and of the reactors, as many as there is room for
//! ```

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{
    Block, Borders, HighlightSpacing, Paragraph, Row, StatefulWidget, Table, TableState, Widget, Wrap,
};

use super::app::{App, Panel};
use super::rows::{self, Grid};

/// A panel's title, its header and one row.
const LEAST_PANEL: u16 = 3;
const MARK: &str = "> ";

const HELP: &str = "\
 j, k, arrows   select a disk
 tab            the next panel: overview, stages, queues, reactors, slow
 q, ctrl-c      quit
 ?, any key     this help, and back

 Figures are those of the interval that the title names; errors in brackets and the longest \
iteration are since the daemon counts. Stages are those of all requests of the selected disk: pick-up \
is the longest that a request may have waited in the ring. Slow requests: the latest first.";

/// The whole screen.
pub(super) struct Screen<'a>(pub(super) &'a App);

impl Widget for Screen<'_> {
    fn render(self, area: Rect, buf: &mut Buffer) {
        let app = self.0;
        let mut rest = area;
        let title = take(&mut rest, if app.lost.is_some() { 2 } else { 1 });
        write_title(app, title, buf);
        if app.help {
            return Paragraph::new(HELP).wrap(Wrap { trim: false }).render(rest, buf);
        }
        let disks = rows::disks(app.disks());
        // Whatever the number of disks, the panels keep two thirds.
        let height = disks.height().min((rest.height / 3).max(LEAST_PANEL));
        draw_grid(&disks, Some(app.selected()), take(&mut rest, height), buf);
        for panel in panels(app) {
            if rest.height < LEAST_PANEL {
                return;
            }
            let (title, grid) = contents(app, panel);
            let area = take(&mut rest, (grid.height() + 1).max(LEAST_PANEL));
            let block = Block::new().borders(Borders::TOP).title(title + " ");
            let inside = block.inner(area);
            block.render(area, buf);
            draw_grid(&grid, None, inside, buf);
        }
    }
}

/// Lines that all of it takes.
pub(super) fn height(app: &App) -> u16 {
    let panels = panels(app).into_iter().map(|panel| (contents(app, panel).1.height() + 1).max(LEAST_PANEL));
    // As the disks get a third at most.
    panels.sum::<u16>().max(2 * rows::disks(app.disks()).height()) * 3 / 2 + 3
}

/// Cuts so many lines off the top.
fn take(rest: &mut Rect, height: u16) -> Rect {
    let height = height.min(rest.height);
    let top = Rect { height, ..*rest };
    (rest.y, rest.height) = (rest.y + height, rest.height - height);
    top
}

/// Those to be drawn, one below the other.
fn panels(app: &App) -> Vec<Panel> {
    match app.panel {
        Panel::Overview => Panel::ALL[1..].to_vec(),
        one => vec![one],
    }
}

fn contents(app: &App, panel: Panel) -> (String, Grid) {
    let disk = app.disk();
    let of_disk =
        |what: &str| disk.map_or_else(|| what.to_string(), |disk| format!("{what} of {}", disk.name));
    match panel {
        Panel::Stages | Panel::Overview => {
            (of_disk("stages"), rows::stages(disk.map_or(&[], |disk| &disk.stages)))
        }
        Panel::Queues => (of_disk("queues"), rows::queues(disk.map_or(&[], |disk| &disk.queues))),
        Panel::Reactors => {
            ("reactors".into(), rows::reactors(app.view.as_ref().map_or(&[], |view| &view.reactors)))
        }
        Panel::Slow => (of_disk("slow requests"), rows::slow(disk.map_or(&[], |disk| &disk.slow))),
    }
}

fn write_title(app: &App, area: Rect, buf: &mut Buffer) {
    let time = match &app.view {
        None => "waiting for figures".into(),
        Some(view) if view.is_since_start => {
            format!("since it counts, {:.1} s", view.span.as_secs_f64())
        }
        Some(view) => format!("last {:.1} s", view.span.as_secs_f64()),
    };
    let hint = format!("panel {} (tab)  ? help  q quit", app.panel.name());
    let title = Line::from(format!("spinblk top  {}  {time}  {hint}", app.socket)).bold();
    let mut lines = vec![title];
    if let Some(why) = &app.lost {
        let lost = format!("the daemon is gone, trying again; the figures are old: {why}");
        lines.push(Line::styled(lost, Style::new().fg(Color::Red).bold()));
    }
    Paragraph::new(lines).render(area, buf);
}

fn draw_grid(grid: &Grid, selected: Option<usize>, area: Rect, buf: &mut Buffer) {
    let cells = |texts: &[String]| {
        let cell = |(column, text): (usize, &String)| match Line::from(text.clone()) {
            line if column < grid.left => line,
            line => line.right_aligned(),
        };
        Row::new(texts.iter().enumerate().map(cell).collect::<Vec<_>>())
    };
    let widths = grid.widths().into_iter().map(Constraint::Length);
    let mut table = Table::new(grid.rows.iter().map(|row| cells(row)), widths)
        .header(cells(&grid.header).style(Style::new().dim()))
        .column_spacing(2);
    if selected.is_some() {
        table = table
            .highlight_symbol(MARK)
            .highlight_spacing(HighlightSpacing::Always)
            .row_highlight_style(Style::new().reversed());
    }
    let mut state = TableState::new().with_selected(selected);
    StatefulWidget::render(table, area, buf, &mut state);
}
