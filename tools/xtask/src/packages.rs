//! Debian packages: which are missing, installing them, and unpacking those that are not to be installed.
//!
//! apt is run with sources and package lists of our own (in the cache): the machine's sources plus, on Debian 12,
//! its backports, without changing the machine's configuration.

use crate::apt_sources::backports_source;
use crate::error::{Error, Result};
use crate::process::{command, output, output_of_any_status, run_logged};
use crate::progress::step;
use crate::workspace::{Workspace, make_dir};
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A package, and the major version that it has to have at least.
type Need = (&'static str, u32);

/// What every machine of the lab needs.
pub(crate) const LAB: &[Need] = &[
    ("qemu-system-x86", 10),
    ("qemu-utils", 10),
    ("busybox-static", 0),
    ("kmod", 0),
    ("zstd", 0),
    ("xz-utils", 0),
    ("iproute2", 0),
    ("fio", 0),
    ("e2fsprogs", 0),
    ("util-linux", 0),
    ("mount", 0),
    ("cryptsetup-bin", 0),
    ("fdisk", 0),
    ("strace", 0),
];
/// What scenarios with containers need besides.
pub(crate) const CONTAINER: &[Need] = &[("crun", 0)];
/// What scenarios with systemd need besides.
pub(crate) const SYSTEMD: &[Need] = &[("systemd", 0)];
/// What the tests on the host need besides.
pub(crate) const TEST: &[Need] =
    &[("g++", 0), ("strace", 0), ("valgrind", 0), ("python3-venv", 0), ("tmux", 0)];

const QUERY_LIMIT_S: u64 = 30;
const UPDATE_LIMIT_S: u64 = 300;
const INSTALL_LIMIT_S: u64 = 900;
const UNPACK_LIMIT_S: u64 = 120;
const OLDEST_LIBCLANG: u32 = 14;
const KERNEL: &str = "linux-image-cloud-amd64";

/// apt, with the sources that the lab needs.
pub(crate) struct Packages<'a> {
    workspace: &'a Workspace,
    codename: String,
    updated: Cell<bool>,
}

impl<'a> Packages<'a> {
    /// Looks at the machine; only Debian 12 or newer on amd64 will do.
    pub(crate) fn new(workspace: &'a Workspace) -> Result<Packages<'a>> {
        if std::env::consts::ARCH != "x86_64" {
            let arch = std::env::consts::ARCH;
            return Err(Error::Lab(format!(
                "the lab boots an amd64 kernel and this machine is {arch}; use an amd64 machine"
            )));
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let value = |key: &str| {
            let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_owned()
        };
        if value("ID") != "debian" {
            return Err(Error::Lab("the lab takes its kernel and QEMU from Debian's packages; run it on Debian 12 or newer, a container will do".to_owned()));
        }
        Ok(Packages { workspace, codename: value("VERSION_CODENAME"), updated: Cell::new(false) })
    }

    /// The machine's release of Debian, such as `bookworm`.
    pub(crate) fn codename(&self) -> &str {
        &self.codename
    }

    /// Installs what is missing; quick when nothing is.
    pub(crate) fn ensure(&self, needs: &[Need]) -> Result<()> {
        let missing = missing(needs)?;
        if missing.is_empty() {
            return Ok(());
        }
        let (new, plain): (Vec<Need>, Vec<Need>) = missing.iter().partition(|(_, major)| *major > 0);
        step(&format!("install {}", names(&missing).join(" ")), || {
            self.install(&names(&plain), None)?;
            self.install(&names(&new), self.backports_suite().as_deref())
        })
    }

    /// Installs the libclang that bindgen loads; its name carries a version.
    pub(crate) fn ensure_libclang(&self) -> Result<()> {
        if output(command("ldconfig", ["-p"]), QUERY_LIMIT_S)?.lines().any(is_libclang) {
            return Ok(());
        }
        self.update()?;
        let search = self.apt("apt-cache", ["search", "--names-only", "^libclang1-[0-9]+$"])?;
        let Some(version) = oldest_fitting_libclang(&output(search, QUERY_LIMIT_S)?) else {
            let what = format!("libclang1-N with N >= {OLDEST_LIBCLANG}, which building rublk needs");
            return Err(Error::Lab(format!("apt knows no package {what}")));
        };
        let packages = [format!("libclang1-{version}"), format!("libclang-common-{version}-dev")];
        step(&format!("install {}", packages.join(" ")), || self.install(&packages, None))
    }

    /// The name of the newest kernel package.
    pub(crate) fn newest_kernel(&self) -> Result<String> {
        self.update()?;
        let mut arguments = vec!["depends".to_owned(), KERNEL.to_owned()];
        if let Some(suite) = self.backports_suite() {
            arguments.extend(["-t".to_owned(), suite]);
        }
        let text = output(self.apt("apt-cache", arguments)?, QUERY_LIMIT_S)?;
        let depends = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        depends
            .map(str::to_owned)
            .ok_or_else(|| Error::Lab(format!("the package {KERNEL} depends on no kernel:\n{text}")))
    }

    /// Downloads a package and unpacks it in an empty folder, without installing it; gives the root of its files.
    pub(crate) fn unpack(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        self.update()?;
        let deb = self.download(package, folder)?;
        let tree = folder.join("tree");
        output(command("dpkg-deb", [Path::new("-x"), &deb, &tree]), UNPACK_LIMIT_S)?;
        Ok(tree)
    }

    fn download(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        let mut download = self.apt("apt-get", ["-q", "download", package])?;
        download.current_dir(folder);
        output(download, INSTALL_LIMIT_S)?;
        let files = fs::read_dir(folder).map_err(Error::file("read", folder))?;
        let deb = files
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        deb.ok_or_else(|| {
            Error::Lab(format!("`apt-get download {package}` left no .deb in {}", folder.display()))
        })
    }

    fn install(&self, packages: &[String], suite: Option<&str>) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        let mut words = vec!["-y", "-q", "--no-install-recommends"];
        words.extend(suite.into_iter().flat_map(|suite| ["-t", suite]));
        words.push("install");
        words.extend(packages.iter().map(String::as_str));
        let Some(prefix) = root_prefix() else {
            let command = format!("apt-get {}", words.join(" "));
            return Err(Error::NeedsRoot { missing: packages.join(" "), command });
        };
        self.update()?;
        let log = self.workspace.cache.join("apt.log");
        let plain = self.apt("apt-get", words)?;
        let mut install = command("env", ["DEBIAN_FRONTEND=noninteractive"]);
        if let Some((sudo, options)) = prefix.split_first() {
            install = command(sudo, options);
            install.args(["env", "DEBIAN_FRONTEND=noninteractive"]);
        }
        install.arg(plain.get_program()).args(plain.get_args());
        run_logged(install, INSTALL_LIMIT_S, &log)
    }

    /// Fetches the package lists, once per run.
    fn update(&self) -> Result<()> {
        if self.updated.replace(true) {
            return Ok(());
        }
        let update = self.apt("apt-get", ["-q", "update"])?;
        step("fetch Debian's package lists", || output(update, UPDATE_LIMIT_S).map(drop))
    }

    fn backports_suite(&self) -> Option<String> {
        (self.codename == "bookworm").then(|| format!("{}-backports", self.codename))
    }

    /// A program of apt's, with our own sources and lists.
    fn apt<S: AsRef<str>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Result<Command> {
        let state = self.workspace.cache.join("apt");
        let (parts, lists) = (state.join("sources"), state.join("lists"));
        // Made afresh, so that a source that the machine has dropped is dropped here too.
        let _ = fs::remove_dir_all(&parts);
        make_dir(&parts)?;
        make_dir(&lists.join("partial"))?;
        self.write_sources(&parts)?;
        let mut command = command(
            program,
            [
                "-oDir::Etc::SourceList=/dev/null".to_owned(),
                format!("-oDir::Etc::SourceParts={}", parts.display()),
                format!("-oDir::State::Lists={}", lists.display()),
                "-oDir::Cache::pkgcache=".to_owned(),
                "-oDir::Cache::srcpkgcache=".to_owned(),
                // The cache may lie where apt's own user cannot go.
                "-oAPT::Sandbox::User=root".to_owned(),
            ],
        );
        command.args(arguments.into_iter().map(|word| word.as_ref().to_owned()));
        Ok(command)
    }

    /// Copies the machine's sources and adds backports where they are needed and not there yet.
    fn write_sources(&self, folder: &Path) -> Result<()> {
        let mut texts = Vec::new();
        for (at, path) in machine_sources().into_iter().enumerate() {
            let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            write(&folder.join(format!("{at}.{extension}")), &text)?;
            texts.push(text);
        }
        let Some(suite) = self.backports_suite() else { return Ok(()) };
        if texts.iter().any(|text| text.contains(&suite)) {
            return Ok(());
        }
        let source = backports_source(&self.codename, texts.iter().map(String::as_str));
        let source = source.ok_or_else(|| {
            Error::Lab(format!("no apt source of this machine is for {}, so {suite} cannot be derived; add it to /etc/apt/sources.list.d", self.codename))
        })?;
        write(&folder.join("backports.sources"), &source)
    }
}

fn names(needs: &[Need]) -> Vec<String> {
    needs.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// Those that are not installed, or too old.
fn missing(needs: &[Need]) -> Result<Vec<Need>> {
    let mut query = command("dpkg-query", ["-W", "-f", "${Package} ${db:Status-Status} ${Version}\\n"]);
    query.args(needs.iter().map(|(name, _)| name));
    // Its status says no more than that one of them is unknown.
    let installed = output_of_any_status(query, QUERY_LIMIT_S)?;
    Ok(needs.iter().filter(|need| !has(&installed, need)).copied().collect())
}

fn has(installed: &str, (name, major): &Need) -> bool {
    installed.lines().any(|line| {
        let mut words = line.split(' ');
        words.next() == Some(name)
            && words.next() == Some("installed")
            && words.next().is_some_and(|version| major_of(version) >= *major)
    })
}

/// A line of `ldconfig -p` with the C interface of clang (`libclang-cpp` is something else).
fn is_libclang(line: &str) -> bool {
    let name = line.trim_start();
    let rest = name.strip_prefix("libclang").unwrap_or_default();
    rest.starts_with(".so")
        || rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The oldest is the one that bindgen has known for longest.
fn oldest_fitting_libclang(found: &str) -> Option<u32> {
    let names = found.lines().filter_map(|line| line.split(' ').next());
    let versions = names.filter_map(|name| name.strip_prefix("libclang1-")?.parse().ok());
    versions.filter(|version| *version >= OLDEST_LIBCLANG).min()
}

/// The first number after the epoch of a Debian version.
fn major_of(version: &str) -> u32 {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    let digits: String = upstream.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// What has to stand before a command that needs root: nothing for root, sudo where there is one.
fn root_prefix() -> Option<Vec<&'static str>> {
    if nix::unistd::geteuid().is_root() {
        return Some(Vec::new());
    }
    Path::new("/usr/bin/sudo").exists().then(|| vec!["sudo", "-n"])
}

fn machine_sources() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.push(PathBuf::from("/etc/apt/sources.list"));
    paths.retain(|path| path.is_file() && path.extension().is_some_and(|e| e == "list" || e == "sources"));
    paths.sort();
    paths
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_missing_or_too_old() {
        let installed = "fio installed 3.33-3\nqemu-utils installed 1:7.2+dfsg-7\nkmod not-installed \n";
        assert!(has(installed, &("fio", 0)));
        assert!(!has(installed, &("qemu-utils", 10)));
        assert!(!has(installed, &("kmod", 0)) && !has(installed, &("zstd", 0)));
        assert!(is_libclang("\tlibclang-14.so.14 (libc6,x86-64) => /usr/lib/x.so"));
        assert!(!is_libclang("\tlibclang-cpp.so.14 (libc6,x86-64) => /usr/lib/x.so"));
        assert_eq!(
            oldest_fitting_libclang("libclang1-13 - C\nlibclang1-22 - C\nlibclang1-16 - C\n"),
            Some(16)
        );
        assert_eq!(major_of("1:10.0.2+ds-2+deb13u1~bpo12+1"), 10);
    }
}
