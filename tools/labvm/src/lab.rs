//! What a scenario is handed: its place for results, its settings, and the modules it may load.

use crate::command::Cmd;
use crate::fail::{Fail, ensure};
use crate::protocol::{PLAN_PATH, Plan};
use crate::results::OUT_DIR;
use crate::scenarios;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

/// The surroundings of one running scenario.
pub struct Lab {
    out_dir: PathBuf,
    settings: BTreeMap<String, String>,
    started: Instant,
}

impl Lab {
    /// The folder whose files are brought back to the host.
    pub(crate) fn out_dir(&self) -> &Path {
        &self.out_dir
    }

    /// A value that the host passed along, or the default.
    pub(crate) fn setting<T: FromStr>(&self, key: &str, default: T) -> Result<T, Fail> {
        let Some(text) = self.settings.get(key) else { return Ok(default) };
        text.parse().map_err(|_| Fail::Check(format!("setting {key}={text} cannot be understood")))
    }

    /// Says what goes on, with the time since the scenario started.
    pub(crate) fn say(&self, what: &str) {
        println!("  {:6.1}s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// Loads kernel modules with what they need.
    pub(crate) fn modprobe(&self, modules: &[&str]) -> Result<(), Fail> {
        for module in modules {
            Cmd::new("modprobe").arg(*module).run()?;
        }
        Ok(())
    }

    /// The modules for VDUSE disks under virtio-blk.
    pub(crate) fn load_vduse(&self) -> Result<(), Fail> {
        self.modprobe(&["vduse", "virtio_vdpa", "virtio_blk"])
    }

    /// Writes a result file.
    pub(crate) fn save(&self, name: &str, content: &str) -> Result<(), Fail> {
        let path = self.out_dir.join(name);
        std::fs::write(&path, content).map_err(Fail::file("write", &path))
    }
}

/// Runs one scenario in this process, as a child of init.
pub fn run_scenario(name: &str) -> Result<(), Fail> {
    let scenario = scenarios::find(name);
    ensure!(scenario.is_some(), "no scenario is named {name}; `labvm --list` shows them");
    let Some(scenario) = scenario else { return Ok(()) };
    let out_dir = Path::new(OUT_DIR).join(name);
    std::fs::create_dir_all(&out_dir).map_err(Fail::file("create", &out_dir))?;
    let settings = read_plan()?.settings;
    (scenario.run)(&mut Lab { out_dir, settings, started: Instant::now() })
}

/// The plan that the host put into the initramfs.
pub(crate) fn read_plan() -> Result<Plan, Fail> {
    let path = Path::new(PLAN_PATH);
    let text = std::fs::read_to_string(path).map_err(Fail::file("read", path))?;
    serde_json::from_str(&text).map_err(|source| Fail::Json { what: PLAN_PATH.to_owned(), source })
}
