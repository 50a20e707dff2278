//! `spinblk top`: what a running daemon does, live, on a terminal.
//!
//! ```text
//!   control socket ──► poller: a thread ──Sample──► App ──► View (pure) ──► Screen ──► terminal, or one frame as text
//!                                        keys ──────┘
//! ```
//! The poller may wait for a daemon that does not answer; the screen and its keys never do. Whatever ends the program,
//! the terminal is as it was: `tty` sees to that.

mod app;
mod draw;
mod model;
mod rows;
mod sample;
mod tty;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event};
use ratatui::layout::Rect;
use ratatui::widgets::Widget;

use crate::Error;
use crate::api::{Client, DEFAULT_SOCKET};
use crate::config::parse_interval;
use crate::signals::Signals;
use app::App;
use draw::Screen;
use sample::Sample;

pub(crate) const TOP_HELP: &str = "\
Shows what a `spinblk serve --control PATH` does: disks with IOPS, throughput, latencies and errors; queues, stages and \
slow requests of the selected disk; reactors. It only reads, and disturbs nothing.

Keys: j, k, arrows: select a disk; tab: the next panel; ?: help; q: quit.";

pub(crate) const TOP_EXAMPLES: &str = "\
Examples:
  spinblk top --socket /run/spinblk.sock
  spinblk top --interval 250ms
  spinblk top --once | head -5";

/// How often keys and signals are looked for.
const TICK: Duration = Duration::from_millis(50);
/// The width of a frame that goes to no terminal.
const PLAIN_WIDTH: u16 = 140;

/// Flags of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", env = "SPINBLK_CONTROL", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// How often to ask, such as 1s or 250ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    pub interval: Duration,
    /// Print one frame, of one interval, as plain text and end
    #[arg(long)]
    pub once: bool,
}

/// Shows a daemon until the user has seen enough.
///
/// # Errors
/// [`Error::Daemon`] where there is none at first; [`Error::Terminal`].
pub fn top(args: &TopArgs) -> Result<(), Error> {
    let mut app = App::new(args.socket.display().to_string());
    if args.once {
        return once(args, &mut app);
    }
    if !std::io::stdout().is_terminal() {
        return Err(Error::Usage(
            "top: standard output is no terminal; --once prints one frame anywhere".into(),
        ));
    }
    // Before there is another thread.
    let signals = Signals::block()?;
    let samples = start_poller(Client::connect(&args.socket)?, args.socket.clone(), args.interval)?;
    let mut tty = tty::Tty::enter()?;
    let shown = show(&mut app, &mut tty, &samples, &signals);
    // What went wrong is told on the user's own screen.
    drop(tty);
    shown
}

fn show(
    app: &mut App,
    tty: &mut tty::Tty,
    samples: &Receiver<Result<Sample, Error>>,
    signals: &Signals,
) -> Result<(), Error> {
    while !app.quit {
        tty.draw(Screen(app))?;
        let mut changed = false;
        while !changed && !app.quit {
            if event::poll(TICK).map_err(Error::Terminal)? {
                if let Event::Key(key) = event::read().map_err(Error::Terminal)? {
                    app.press(key);
                }
                changed = true;
            }
            match samples.try_recv() {
                Ok(sample) => {
                    app.take(sample);
                    changed = true;
                }
                Err(TryRecvError::Empty) => {}
                // It ends only by a panic, whose message stands on the screen that comes back.
                Err(TryRecvError::Disconnected) => app.quit = true,
            }
            app.quit |= signals.wait(Duration::ZERO)?.is_some();
        }
    }
    Ok(())
}

/// Reads the daemon again and again, and connects anew whenever it has gone away.
fn start_poller(
    client: Client,
    socket: PathBuf,
    interval: Duration,
) -> Result<Receiver<Result<Sample, Error>>, Error> {
    let (send, samples) = sync_channel(1);
    let poll = move || poll(client, &socket, interval, &send);
    std::thread::Builder::new().name("poller".into()).spawn(poll).map_err(Error::Terminal)?;
    Ok(samples)
}

fn poll(client: Client, socket: &Path, interval: Duration, send: &SyncSender<Result<Sample, Error>>) {
    let mut connected = Some(client);
    loop {
        let began = Instant::now();
        let read = |mut client: Client| Sample::read(&mut client).map(|sample| (client, sample));
        let sample = match connected.take().map_or_else(|| Client::connect(socket), Ok).and_then(read) {
            Ok((client, sample)) => {
                connected = Some(client);
                Ok(sample)
            }
            Err(e) => Err(e),
        };
        if send.send(sample).is_err() {
            return;
        }
        std::thread::sleep(interval.saturating_sub(began.elapsed()));
    }
}

/// One frame as text, of the time between two samples.
fn once(args: &TopArgs, app: &mut App) -> Result<(), Error> {
    let mut client = Client::connect(&args.socket)?;
    app.take(Ok(Sample::read(&mut client)?));
    std::thread::sleep(args.interval);
    app.take(Ok(Sample::read(&mut client)?));
    // A reader that has gone away (`| head`) is no failure.
    let _ = std::io::stdout().write_all(plain(app, PLAIN_WIDTH).as_bytes());
    Ok(())
}

/// The whole frame without colours, as high as it needs to be.
fn plain(app: &App, width: u16) -> String {
    let area = Rect::new(0, 0, width, draw::height(app));
    let mut buffer = Buffer::empty(area);
    Screen(app).render(area, &mut buffer);
    let row = |cells: &[ratatui::buffer::Cell]| {
        let text: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.trim_end().to_string() + "\n"
    };
    let text: String = buffer.content.chunks(usize::from(width)).map(row).collect();
    text.trim_end().to_string() + "\n"
}

#[cfg(test)]
mod tests;
