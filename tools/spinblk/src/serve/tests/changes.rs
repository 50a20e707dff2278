//! Changes of what is served: what a bad one leaves, what a signal does, who is told of a size.

use std::io::Read;
use std::os::unix::net::UnixStream;

use spinblk_bdev::{BrokenChannel, Channel};
use spinblk_reactor::Ring;

use super::*;
use crate::api::{Given, ResizeParams};
use crate::control::{Change, Endpoints, State};
use crate::cores::Reactors;
use crate::stop::End;

const TEXT: &str = "\
[control]
socket = \"/run/c.sock\"
[[bdev]]
name = \"spare\"
type = \"null\"
size = \"1MiB\"
[[disk]]
name = \"d0\"
type = \"malloc\"
size = \"1MiB\"
";

fn reactors(core: usize) -> Reactors {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        match Cores::claim(&[core]) {
            Ok(cores) => return cores.start().unwrap(),
            // Another program on this machine has it for now.
            Err(e) => assert!(Instant::now() < give_up, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A daemon with `d0` over `bdev`, or over what `TEXT` says.
fn with_running(fake: &Fake, bdev: Option<Arc<dyn Bdev>>, test: impl FnOnce(&mut Running<'_>, &Signals)) {
    let (core, _guard) = core();
    let signals = Signals::block().unwrap();
    let config =
        Config::from_toml(&format!("[reactor]\ncores = [{core}]\nhugepages = \"off\"\n{TEXT}"), "s.toml");
    let mut running = Running::new(config.unwrap(), fake, reactors(core));
    assert_eq!(running.start(vec![bdev], &signals).unwrap(), None);
    test(&mut running, &signals);
    let report = running.stop(End::Stop, &signals);
    assert_eq!(report.reactors.len(), 1);
}

fn disk(flags: &str) -> Change {
    Change::AddDisk(Given::Flags(flags.into()))
}

fn saved(running: &mut Running<'_>, signals: &Signals) -> String {
    running.change(Change::SaveConfig(None), signals).0.unwrap()["toml"].as_str().unwrap().into()
}

#[test]
fn a_disk_that_cannot_be_exported_leaves_all_as_it_was() {
    let fake = Fake::new(1, Then::Refuse);
    with_running(&fake, None, |running, signals| {
        let before = saved(running, signals);
        for flags in [
            "name=d1,bdev=spare",
            "name=d1,type=malloc,size=1M",
            "name=d0,type=null,size=1M",
            "name=d1,type=aio,path=/no/file",
        ] {
            let (outcome, signal) = running.change(disk(flags), signals);
            assert!(outcome.is_err() && signal.is_none(), "{flags}");
            assert_eq!(saved(running, signals), before, "{flags}");
        }
        assert_eq!(fake.counts(), (1, 0));
    });
    assert_eq!(fake.counts(), (1, 1));
}

#[test]
fn a_signal_lets_the_change_end_first() {
    // Comes while the second disk starts, and is found by the next wait.
    let fake = Fake::new(1, Then::Signal);
    with_running(&fake, None, |running, signals| {
        let (outcome, signal) = running.change(disk("name=d1,bdev=spare"), signals);
        assert_eq!((outcome.unwrap()["disk"]["name"].as_str(), signal), (Some("d1"), None));
        assert!(signals.wait(Duration::ZERO).unwrap().is_some());
        assert_eq!(fake.counts(), (2, 0));
    });
    assert_eq!(fake.counts(), (2, 2));
}

#[test]
fn a_removed_disk_is_in_the_report_with_what_went_wrong() {
    let fake = Fake { problem: true, ..Fake::new(9, Then::Refuse) };
    let (core, _guard) = core();
    let signals = Signals::block().unwrap();
    let text = format!("[reactor]\ncores = [{core}]\n{TEXT}");
    let mut running = Running::new(Config::from_toml(&text, "s.toml").unwrap(), &fake, reactors(core));
    running.start(vec![None], &signals).unwrap();
    running.change(disk("name=d1,bdev=spare"), &signals).0.unwrap();
    let (outcome, signal) = running.change(Change::RemoveDisk("d0".into()), &signals);
    assert_eq!((&outcome.unwrap()["problems"][0], signal), (&"stays attached".into(), None));
    let report = running.stop(End::Stop, &signals);
    let names: Vec<&str> = report.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!((names, report.problems.len()), (vec!["d0", "d1"], 2));
}

#[test]
fn a_bdev_is_found_before_the_own_one_of_a_disk_of_that_name() {
    let fake = Fake::new(9, Then::Refuse);
    with_running(&fake, None, |running, signals| {
        let given = Given::Toml("[[bdev]]\nname = \"d0\"\ntype = \"null\"\nsize = \"1MiB\"\n".into());
        running.change(Change::AddBdevs(given), signals).0.unwrap();
        running.change(disk("name=d1,bdev=d0"), signals).0.unwrap();
        let params = ResizeParams { disk: None, bdev: Some("d0".into()), size_bytes: Some(2 << 20) };
        let grown = running.change(Change::Resize(params), signals).0.unwrap();
        assert_eq!((&grown["disk"], &grown["bdev"]), (&"d1".into(), &"d0".into()));
    });
}

#[test]
fn a_control_thread_that_dies_is_a_problem_and_no_end() {
    let fake = Fake::new(9, Then::Refuse);
    let (core, _guard) = core();
    let signals = Signals::block().unwrap();
    let text = format!("[reactor]\ncores = [{core}]\n{TEXT}");
    let mut running = Running::new(Config::from_toml(&text, "s.toml").unwrap(), &fake, reactors(core));
    running.start(vec![None], &signals).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("c.sock");
    let bound = Endpoints { socket: Some(socket.clone()), metrics: None }.bind().unwrap();
    let state =
        State::new(Vec::new(), vec![Box::new(|| panic!("a control thread that dies"))], LogFilter::default());
    let control = Control::start(bound, state, &[], Limits::default()).unwrap().unwrap();
    let mut looked_at = Some(&control);
    look(&mut running, &mut looked_at).unwrap();
    assert!(looked_at.is_some());
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"reactors\"}\n").unwrap();
    assert_eq!(client.read(&mut [0; 64]).unwrap_or(0), 0, "it answers nothing any more");
    while control.is_alive() {
        std::thread::yield_now();
    }
    (0..2).for_each(|_| look(&mut running, &mut looked_at).unwrap());
    let report = running.stop(End::Stop, &signals);
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].contains("the control thread has died"), "{:?}", report.problems);
}

/// A block device that can grow once.
struct Growing {
    infos: [Info; 2],
    has_grown: AtomicBool,
}

impl Bdev for Growing {
    fn info(&self) -> &Info {
        &self.infos[usize::from(self.has_grown.load(Ordering::SeqCst))]
    }

    fn kind(&self) -> &'static str {
        "malloc"
    }

    fn open(&self, _: &mut Ring, _: usize) -> Result<Box<dyn Channel>, spinblk_bdev::Error> {
        Ok(Box::new(BrokenChannel))
    }

    fn resize(&self, size_bytes: Option<u64>) -> Result<u64, spinblk_bdev::Error> {
        self.has_grown.store(size_bytes.is_some(), Ordering::SeqCst);
        Ok(self.info().size_bytes())
    }
}

#[test]
fn a_size_reaches_bdev_guest_and_configuration() {
    let fake = Fake::new(9, Then::Refuse);
    let infos = [1 << 20, 3 << 20].map(|size_bytes| Info::new("d0", size_bytes, 512).unwrap());
    let bdev = Arc::new(Growing { infos, has_grown: AtomicBool::new(false) });
    with_running(&fake, Some(bdev), |running, signals| {
        let resize = |disk: Option<&str>, bdev: Option<&str>, size_bytes| {
            Change::Resize(ResizeParams {
                disk: disk.map(String::from),
                bdev: bdev.map(String::from),
                size_bytes,
            })
        };
        let grown = running.change(resize(Some("d0"), None, Some(3 << 20)), signals).0.unwrap();
        assert_eq!((&grown["disk_size_bytes"], &grown["bdev"]), (&(3 << 20).into(), &"d0".into()));
        assert_eq!(fake.told.load(Ordering::SeqCst), 1);
        assert!(saved(running, signals).contains("size = \"3MiB\""));
        // By the bdev's name, and as its target says.
        running.change(resize(None, Some("d0"), None), signals).0.unwrap();
        assert_eq!(fake.told.load(Ordering::SeqCst), 2);
        for bad in [resize(Some("d9"), None, None), resize(None, Some("spare"), None)] {
            assert!(running.change(bad, signals).0.is_err());
        }
        running.change(disk("name=d1,bdev=spare"), signals).0.unwrap();
        let error = running.change(resize(Some("d1"), None, Some(5)), signals).0.unwrap_err().one_line();
        assert_eq!(error, "bdev spare: cannot be resized: 5 bytes are no whole blocks of 512");
        assert_eq!(fake.told.load(Ordering::SeqCst), 2);
    });
}
