//! `spinblk top` as a user has it: in a terminal that tmux keeps, over a daemon with a vhost-user disk under load.

#![allow(clippy::unwrap_used, missing_docs)]

mod load_rig;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use assert_cmd::cargo::cargo_bin;
use load_rig::{LIMIT, PAUSE, hold_cores, load, serve};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROMPT: &str = "the-shell>";

/// A shell in a terminal of its own.
struct Tmux {
    folder: PathBuf,
}

impl Tmux {
    fn new(folder: &Path) -> Self {
        let tmux = Self { folder: folder.into() };
        let shell = ["new-session", "-d", "-x", "120", "-y", "40", "env", "-u", "ENV", "sh"];
        tmux.run(&shell);
        tmux.wait_for("a shell", |screen| screen.contains(PROMPT));
        tmux
    }

    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", "spinblk-top", "-f", "/dev/null"]).args(args);
        command.env("TMUX_TMPDIR", &self.folder).env("PS1", PROMPT).env_remove("TMUX");
        let output = command.output().expect("this test needs the package tmux");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    fn shell(&self, line: &str) {
        self.keys(&["-l", line]);
        self.keys(&["Enter"]);
    }

    /// The first screen on which `what` is there.
    fn wait_for(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let give_up = Instant::now() + LIMIT;
        loop {
            let screen = self.run(&["capture-pane", "-p"]);
            if is_there(&screen) {
                return screen;
            }
            assert!(Instant::now() < give_up, "{what} does not come:\n{screen}");
            std::thread::sleep(PAUSE);
        }
    }

    /// The shell is back, on its own screen, and reads lines as before.
    fn wait_for_shell(&self, word: &str) {
        let is_back =
            |screen: &str| screen.lines().rfind(|line| !line.is_empty()).is_some_and(|line| line == PROMPT);
        let screen = self.wait_for("the shell", is_back);
        assert!(!screen.contains("stages of"), "{screen}");
        self.shell(&format!("stty -a | grep -o ' -\\?icanon\\| -\\?echo ' | tr -d '\\n'; echo {word}"));
        self.wait_for("a line mode with echo", |screen| screen.contains(&format!(" icanon echo {word}")));
    }

    /// The process that the shell runs.
    fn child(&self) -> Pid {
        let shell = self.run(&["display-message", "-p", "#{pane_pid}"]);
        let path = format!("/proc/{0}/task/{0}/children", shell.trim());
        let children = std::fs::read_to_string(path).unwrap();
        Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap())
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        let _ = command.args(["-L", "spinblk-top", "kill-server"]).env("TMUX_TMPDIR", &self.folder).output();
    }
}

/// Whether the row of d0 tells requests.
fn is_under_load(screen: &str) -> bool {
    let row = screen.lines().find_map(|line| line.trim_start_matches("> ").trim().strip_prefix("d0 "));
    let iops = row.and_then(|row| row.split_whitespace().next());
    iops.is_some_and(|iops| iops != "0" && iops.starts_with(|c: char| c.is_ascii_digit()))
}

#[test]
fn top_shows_a_disk_under_load_and_follows_keys() {
    let _cores = hold_cores();
    let folder = tempfile::tempdir().unwrap();
    let daemon = serve(folder.path());
    let load = load(folder.path());
    let tmux = Tmux::new(folder.path());
    let control = folder.path().join("control.sock");
    let program = cargo_bin("spinblk");
    let top = format!("{} top --interval 200ms --socket {}", program.display(), control.display());
    tmux.shell(&top);
    let screen =
        tmux.wait_for("a disk under load", |screen| screen.contains(" last 0.") && is_under_load(screen));
    for want in [
        "disk",
        "IOPS",
        "MB/s",
        "p99.9",
        "errors",
        "> d0",
        "  d1",
        "stages of d0",
        "bdev",
        "queues of d0",
        "busy %",
    ] {
        assert!(screen.contains(want), "{want} is not in\n{screen}");
    }

    tmux.keys(&["j"]);
    tmux.wait_for("d1", |screen| screen.contains("> d1") && screen.contains("stages of d1"));
    tmux.keys(&["Up"]);
    tmux.wait_for("d0", |screen| screen.contains("> d0") && screen.contains("stages of d0"));
    tmux.keys(&["Tab"]);
    tmux.wait_for("one panel", |screen| screen.contains("panel stages") && !screen.contains("queues of d0"));
    tmux.keys(&["?"]);
    tmux.wait_for("the help", |screen| screen.contains("q, ctrl-c      quit"));
    tmux.keys(&["q"]);
    tmux.wait_for_shell("after-q");

    tmux.shell(&top);
    tmux.wait_for("the screen", |screen| screen.contains("stages of d0"));
    tmux.run(&["resize-window", "-x", "40", "-y", "10"]);
    tmux.wait_for("a small screen", |screen| screen.contains("> d0") && screen.lines().count() <= 10);
    tmux.run(&["resize-window", "-x", "120", "-y", "40"]);
    kill(tmux.child(), Signal::SIGTERM).unwrap();
    tmux.wait_for_shell("after-a-signal");

    tmux.shell(&top);
    tmux.wait_for("the screen", |screen| screen.contains("stages of d0"));
    drop((load, daemon));
    for socket in ["d0.sock", "d1.sock"] {
        let _ = std::fs::remove_file(folder.path().join(socket));
    }
    tmux.wait_for("the loss", |screen| screen.contains("the daemon is gone") && screen.contains("> d0"));
    let _daemon = serve(folder.path());
    tmux.wait_for("the new daemon", |screen| screen.contains(" last 0.") && !screen.contains("is gone"));
    tmux.keys(&["C-c"]);
    tmux.wait_for_shell("after-ctrl-c");
}

#[test]
fn one_frame_is_plain_text() {
    let _cores = hold_cores();
    let folder = tempfile::tempdir().unwrap();
    let _daemon = serve(folder.path());
    let _load = load(folder.path());
    let top = |args: &[&str]| {
        let mut command = Command::new(cargo_bin("spinblk"));
        command.arg("top").args(args).env_remove("SPINBLK_LOG");
        command.env("SPINBLK_CONTROL", folder.path().join("control.sock")).output().unwrap()
    };
    let give_up = Instant::now() + LIMIT;
    loop {
        let output = top(&["--once", "--interval", "200ms"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !text.contains('\x1b'), "{text}");
        assert!(text.starts_with("spinblk top  ") && text.contains("stages of d0"), "{text}");
        // The load may still be at its beginning.
        if is_under_load(&text) {
            break;
        }
        assert!(Instant::now() < give_up, "{text}");
    }
    let line = |args: &[&str]| {
        let output = top(args);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = line(&[]);
    assert!(code == Some(2) && said.contains("no terminal; --once"), "{said}");
    let (code, said) = line(&["--once", "--socket", "/nowhere/c.sock"]);
    assert!(code == Some(1) && said.contains("cannot ask the daemon at /nowhere/c.sock"), "{said}");
    let (code, said) = line(&["--once", "--interval", "1ms"]);
    assert!(code == Some(2) && said.contains("from 50ms to a day"), "{said}");
}
