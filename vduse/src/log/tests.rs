//! Logs that are made, found again and refused; and the lives of drivers, with the process killed at every step.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use nix::sys::stat::Mode;

use spinblk_reactor::Ring;

use super::folder::Folder;
use super::*;

fn identity() -> Identity {
    Identity {
        name: "d0".into(),
        device: 77,
        queues: 2,
        queue_size: 8,
        features: 1 << 32 | 1 << 34 | 7,
        size_bytes: 1 << 30,
        serial: *b"SERIAL\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    }
}

/// A folder as `make` makes it.
fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn create(folder: &Path) -> Result<DeviceLog, Error> {
    DeviceLog::create(&Claim::make(folder, "d0")?, identity())
}

fn open(folder: &Path) -> Result<Option<DeviceLog>, Error> {
    open_as(folder, identity())
}

fn open_as(folder: &Path, identity: Identity) -> Result<Option<DeviceLog>, Error> {
    let Some(claim) = Claim::find(folder, &identity.name)? else { return Ok(None) };
    DeviceLog::open(&claim, identity)
}

fn remove(folder: &Path) -> Result<(), Error> {
    Claim::find(folder, "d0")?.map_or(Ok(()), Claim::remove)
}

fn refusal(folder: &Path, identity: Identity) -> String {
    open_as(folder, identity).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn a_log_is_made_found_and_removed() {
    let folder = folder();
    let place = folder.path().join("state/inflight");
    assert!(open(&place).unwrap().is_none());
    remove(&place).unwrap();
    create(&place).unwrap().driver_ok(RingKind::Packed).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place), mode(&place.join("d0.log"))), (0o700, 0o600));
    let log = open(&place).unwrap().unwrap();
    assert_eq!(log.driver().unwrap(), Some(RingKind::Packed));
    assert!(log.of_queue(1, RingKind::Packed).is_ok() && log.of_queue(2, RingKind::Packed).is_err());
    drop(log);
    let again = create(&place).unwrap();
    assert_eq!(again.driver().unwrap(), None, "one of an earlier device is replaced");
    drop(again);
    remove(&place).unwrap();
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    assert!(open(&place).unwrap().is_none());
}

#[test]
fn one_process_at_a_time_has_a_log() {
    let folder = folder();
    let claim = |limit_ms| {
        let folder = Folder::make(folder.path()).unwrap();
        Claim::lock(folder, "d0", Duration::from_millis(limit_ms))
            .map_err(|(action, e)| format!("{action}: {e}"))
    };
    let first = claim(0).unwrap();
    let log = DeviceLog::create(&first, identity()).unwrap();
    let refusal = claim(0).err().unwrap();
    assert!(refusal.contains("another process serves this disk"), "{refusal}");
    drop(first);
    assert!(claim(20).is_err(), "the log itself keeps it");
    drop(log);
    // The second one waits for the file that the first one removes, and gets another.
    let first = claim(10_000).unwrap();
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| claim(10_000));
        first.remove().unwrap();
        second.join().unwrap().unwrap()
    });
    assert!(folder.path().join("d0.lock").exists() && claim(0).is_err());
    drop(second);
}

#[test]
fn a_ring_keeps_a_log_of_a_process_that_is_gone() {
    let folder = folder();
    let log = create(folder.path()).unwrap();
    let mut ring = Ring::new(8).unwrap();
    let mut hold = log.hold();
    hold.open(&mut ring);
    // Descriptors go with a process, its rings when they have nothing in flight.
    drop((log, hold));
    let claim = |limit_ms| {
        Claim::lock(Folder::make(folder.path()).unwrap(), "d0", Duration::from_millis(limit_ms)).is_ok()
    };
    assert!(!claim(20));
    drop(ring);
    assert!(claim(20_000));
}

#[test]
fn a_name_too_long_for_its_files_is_refused() {
    let folder = folder();
    let (longest, longer) = ("x".repeat(250), "x".repeat(251));
    let claim = Claim::make(folder.path(), &longest).unwrap();
    DeviceLog::create(&claim, Identity { name: longest, ..identity() }).unwrap();
    claim.remove().unwrap();
    let text = Claim::make(folder.path(), &longer).err().unwrap().to_string();
    assert!(text.contains("at most 250 bytes"), "{text}");
    assert!(Claim::find(folder.path(), &longer).unwrap().is_none(), "without a log it is no matter");
}

#[test]
fn a_process_killed_while_it_makes_a_log_leaves_none() {
    let whole = identity().to_bytes();
    let len_bytes = len_bytes(&identity()) as u64;
    // Made; given its room; the header written up to some byte. The name comes with the next step.
    let cuts = [None].into_iter().chain((0..=whole.len()).map(Some));
    for cut in cuts {
        let folder = folder();
        let unfinished = folder.path().join("d0.new");
        let file = File::create_new(&unfinished).unwrap();
        if let Some(written) = cut {
            file.set_len(len_bytes).unwrap();
            file.write_all_at(&whole[..written], 0).unwrap();
        }
        assert!(open(folder.path()).unwrap().is_none(), "{cut:?}");
        create(folder.path()).unwrap();
        assert!(open(folder.path()).unwrap().is_some() && !unfinished.exists(), "{cut:?}");
    }
}

#[test]
fn a_log_of_another_disk_is_refused_with_the_reason() {
    let folder = folder();
    create(folder.path()).unwrap();
    std::fs::copy(folder.path().join("d0.log"), folder.path().join("d1.log")).unwrap();
    let cases = [
        (Identity { name: "d1".into(), ..identity() }, "its name is \"d0\", here d1"),
        (Identity { device: 78, ..identity() }, "an earlier device of this name"),
        (Identity { queues: 1, ..identity() }, "2 queues of 8 entries, here 1 queues"),
        (Identity { queue_size: 16, ..identity() }, "of 8 entries, here 2 queues of 16"),
        (Identity { features: 1 << 32 | 3, ..identity() }, "its features are 0x500000007"),
        (Identity { size_bytes: (1 << 30) - 1, ..identity() }, "its bytes are 1073741824"),
        (Identity { serial: [b'x'; 20], ..identity() }, "its serial number is \"SERIAL\", here \"xxxx"),
    ];
    for (identity, reason) in cases {
        let text = refusal(folder.path(), identity);
        assert!(text.contains(reason) && text.contains("left as it is"), "{text}");
    }
    let grown = Identity { size_bytes: 2 << 30, features: identity().features | 1 << 40, ..identity() };
    assert_eq!(refusal(folder.path(), grown), "");
}

#[test]
fn a_damaged_log_is_refused_wherever_the_damage_is() {
    let folder = folder();
    let path = folder.path().join("d0.log");
    create(folder.path()).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let whole = identity().to_bytes();
    for at in 0..whole.len() {
        file.write_all_at(&[whole[at] ^ 0x40], at as u64).unwrap();
        assert!(refusal(folder.path(), identity()).contains("d0.log"), "byte {at}");
        file.write_all_at(&whole, 0).unwrap();
    }
    file.write_all_at(&2u32.to_ne_bytes(), 8).unwrap();
    assert!(refusal(folder.path(), identity()).contains("has version 2"));
    file.write_all_at(&whole, 0).unwrap();
    file.write_all_at(&[3], DRIVER_AT as u64).unwrap();
    assert!(refusal(folder.path(), identity()).contains("driver 3"));
    file.write_all_at(&[0], DRIVER_AT as u64).unwrap();
    assert_eq!(refusal(folder.path(), identity()), "");
    // Shorter and shorter.
    for len_bytes in [len_bytes(&identity()) as u64 - 1, HEADER_BYTES as u64, HEADER_BYTES as u64 - 1, 1, 0] {
        file.set_len(len_bytes).unwrap();
        let text = refusal(folder.path(), identity());
        assert!(text.contains(&format!("it has {len_bytes} bytes")), "{text}");
    }
}

#[test]
fn what_is_not_a_file_of_ours_alone_is_not_opened() {
    let folder = folder();
    let path = folder.path().join("d0.log");
    let refused = |why: &str| {
        let text = refusal(folder.path(), identity());
        assert!(text.contains(why), "{text}");
        std::fs::remove_file(&path).unwrap();
    };
    let target = folder.path().join("target");
    std::fs::write(&target, "").unwrap();
    symlink(&target, &path).unwrap();
    refused("cannot open");
    std::fs::hard_link(&target, &path).unwrap();
    refused("cannot trust");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    refused("cannot trust");
    create(folder.path()).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    refused("only this user");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o770)).unwrap();
    let text = create(folder.path()).err().unwrap().to_string();
    assert!(text.contains("chmod 700"), "{text}");
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(folder.path(), elsewhere.path().join("link")).unwrap();
    assert!(create(&elsewhere.path().join("link")).is_err());
}

#[test]
fn rings_of_the_other_format_are_refused() {
    let folder = folder();
    let log = create(folder.path()).unwrap();
    log.driver_ok(RingKind::Split).unwrap();
    let text = log.goes_on(true, RingKind::Packed).unwrap_err().to_string();
    assert!(text.contains("other format"), "{text}");
    assert!(log.goes_on(true, RingKind::Split).unwrap());
    assert!(!log.goes_on(false, RingKind::Packed).unwrap(), "the driver was reset unseen");
    assert!(!log.goes_on(true, RingKind::Split).unwrap(), "and its successor is not ready yet");
}

/// Where the notes of the first queue's log begin.
const NOTES: usize = QUEUES_AT + 64;

/// A kernel with one driver, as far as it concerns the log.
#[derive(Default)]
struct Kernel {
    /// Counts the resets.
    life: u8,
    /// The driver has set up its queues.
    ready: bool,
    /// The message that is not answered yet: whether it is DRIVER_OK; else it is a reset.
    unanswered: Option<bool>,
}

/// One step of a process that serves it: at each one it can be killed.
#[derive(Clone, Copy, Debug)]
enum Step {
    Message(bool),
    /// The queues take a request of this life.
    Take,
    Kill,
    /// The one who sent the message is killed, and the kernel resets without an answer.
    Withdraw,
}

fn steps() -> impl Strategy<Value = Vec<(Step, u8)>> {
    let step = prop_oneof![
        3 => any::<bool>().prop_map(Step::Message),
        2 => Just(Step::Take),
        2 => Just(Step::Kill),
        1 => Just(Step::Withdraw),
    ];
    prop::collection::vec((step, 0..4u8), 1..60)
}

struct World {
    _folder: tempfile::TempDir,
    claim: Claim,
    log: DeviceLog,
    kernel: Kernel,
    /// Queues run, and began in this life.
    running: bool,
}

impl World {
    fn new() -> Self {
        let folder = folder();
        let claim = Claim::make(folder.path(), "d0").unwrap();
        let log = DeviceLog::create(&claim, identity()).unwrap();
        Self { _folder: folder, claim, log, kernel: Kernel::default(), running: false }
    }

    fn notes(&self) -> *mut u8 {
        self.log.mapping.0.as_mut_ptr().wrapping_add(NOTES)
    }

    /// The notes say in which life they were made; 0 is none.
    fn noted(&self) -> u8 {
        // SAFETY: inside the mapping.
        unsafe { self.notes().read_volatile() }
    }

    /// Queues start, with what their logs say.
    fn start(&mut self) {
        let (noted, life) = (self.noted(), self.kernel.life + 1);
        assert!(noted == 0 || noted == life, "notes of life {noted} are done again in life {life}");
        self.running = true;
    }

    /// The process gets to do `steps` of what the message asks for; `false`: it was killed before the answer.
    fn handle(&mut self, driver_ok: bool, steps: u8) -> bool {
        self.kernel.unanswered = Some(driver_ok);
        if driver_ok {
            self.kernel.ready = true;
            if steps == 0 {
                return false;
            }
            if steps == 1 && self.log.driver().unwrap().is_none() {
                // Killed among the zeroes.
                // SAFETY: inside the mapping.
                unsafe { self.notes().write_volatile(0) };
                return false;
            }
            self.log.driver_ok(RingKind::Split).unwrap();
            if steps == 2 {
                return false;
            }
            if !self.running {
                self.start();
            }
        } else {
            self.running = false;
            if steps == 0 {
                return false;
            }
            self.log.driver_left();
            if steps < 3 {
                return false;
            }
            self.reset();
        }
        self.kernel.unanswered = None;
        true
    }

    fn reset(&mut self) {
        (self.kernel.ready, self.kernel.unanswered) = (false, None);
        self.kernel.life += 1;
    }

    fn die(&mut self) {
        self.running = false;
        self.log = DeviceLog::open(&self.claim, identity()).unwrap().unwrap();
        if self.log.goes_on(self.kernel.ready, RingKind::Split).unwrap() {
            self.start();
        }
        // What was not answered comes again.
        if let Some(driver_ok) = self.kernel.unanswered {
            assert!(self.handle(driver_ok, 3));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn notes_of_an_earlier_driver_are_never_used_and_those_of_this_one_are_kept(steps in steps()) {
        let mut world = World::new();
        for (step, cut) in steps {
            match step {
                // A driver that has said DRIVER_OK resets before it says it again.
                Step::Message(true) if world.kernel.ready => {}
                Step::Message(driver_ok) => {
                    if !world.handle(driver_ok, cut) {
                        world.die();
                    }
                }
                Step::Take if world.running => {
                    // SAFETY: inside the mapping.
                    unsafe { world.notes().write_volatile(world.kernel.life + 1) };
                }
                Step::Take => {}
                Step::Kill => {
                    let (before, ready) = (world.noted(), world.running);
                    world.die();
                    prop_assert_eq!(world.running, ready, "a driver that was served is served on");
                    prop_assert!(!ready || world.noted() == before, "notes are lost");
                }
                Step::Withdraw => {
                    // The sender of a reset dies while nobody serves.
                    world.running = false;
                    world.reset();
                    world.die();
                }
            }
        }
    }
}
