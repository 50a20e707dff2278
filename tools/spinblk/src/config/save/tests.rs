//! Tests that a saved configuration is the one that was saved, for configurations of every kind of key.

use proptest::prelude::*;

use super::super::{Backend, BackendKind, Config, check};
use super::*;
use crate::api::Given;

const EXAMPLE: &str = include_str!("../../../example.toml");

fn toml(text: &str) -> Config {
    Config::from_toml(text, "s.toml").unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn forget_place(backend: &mut Backend) {
    backend.place.clear();
    match &mut backend.kind {
        BackendKind::Null { .. } | BackendKind::Malloc { .. } | BackendKind::Aio { .. } => {}
        BackendKind::Raid0 { children, .. } => children.iter_mut().for_each(forget_place),
        BackendKind::Crypto { child, .. }
        | BackendKind::Delay { child, .. }
        | BackendKind::Error { child, .. } => forget_place(child),
    }
}

/// Lines of a saved file are others than those of the original.
fn without_places(mut config: Config) -> Config {
    config.disks.iter_mut().map(|disk| &mut disk.backend).chain(&mut config.unused).for_each(forget_place);
    config
}

fn check_round_trip(config: &Config) {
    let text = config.to_toml();
    let again = toml(&text);
    assert_eq!(without_places(again.clone()), without_places(config.clone()), "{text}");
    assert_eq!(again.to_toml(), text);
    // Changes go the same way without the text, and keep the places.
    assert_eq!(check::config(&write::sections(config)).unwrap(), *config);
}

/// Any disk can go and come back, and every bdev under it stays.
fn check_changes(config: &Config) {
    let Some(last) = config.disks.last() else { return };
    let mut config = config.clone();
    config.control.socket = Some("/run/c.sock".into());
    let without = config.without_disk(&last.name).unwrap();
    assert_eq!(without.disks, config.disks[..config.disks.len() - 1]);
    assert_eq!(
        without.unused.iter().filter(|top| **top == last.backend).count(),
        usize::from(last.over_bdev)
    );
    assert_eq!(without.unused.len(), config.unused.len() + usize::from(last.over_bdev));
    let text = config.to_toml();
    let (_, section) = text.rsplit_once("[[disk]]").unwrap();
    let back = without.with_disk(&Given::Toml(format!("[[disk]]{section}"))).unwrap();
    assert_eq!(without_places(back), without_places(config));
}

#[test]
fn the_example_is_saved_and_read_again() {
    let config = toml(EXAMPLE);
    check_round_trip(&config);
    check_changes(&config);
    let text = config.to_toml();
    for line in
        ["key_file = \"/etc/spinblk/c0.key\"", "chunk = \"128KiB\"", "rate = 0.001000", "latency = \"2 ms\""]
    {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}

#[test]
fn a_disk_and_its_bdev_may_have_one_name() {
    let bdev = "[reactor]\ncores = [1]\n[[bdev]]\nname = \"d0\"\ntype = \"malloc\"\nsize = \"1M\"\n";
    let over = toml(&format!("{bdev}[[disk]]\nname = \"d0\"\nbdev = \"d0\"\n"));
    let beside = toml(&format!("{bdev}[[disk]]\nname = \"d0\"\ntype = \"malloc\"\nsize = \"1M\"\n"));
    for config in [over, beside] {
        check_round_trip(&config);
        check_changes(&config);
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words)
}

fn null_or_malloc() -> impl Strategy<Value = String> {
    let null = word(&["type = \"null\"\nreads = \"zeroes\"", "type = \"null\"", "type = \"malloc\""]);
    (null, 1..1u64 << 20, prop::sample::select(vec![512, 1024, 2048, 4096]))
        .prop_map(|(kind, mib, block)| format!("{kind}\nsize = {}\nblock_size = {block}\n", mib << 20))
}

fn aio() -> impl Strategy<Value = String> {
    let path = "/\\PC{1,20}".prop_filter("no NUL", |path| !path.contains('\0'));
    let block = word(&["", "block_size = 512\n", "block_size = 4096\n"]);
    (path, word(&["auto", "on", "off"]), block).prop_map(|(path, direct, block)| {
        format!("type = \"aio\"\npath = {}\ndirect = \"{direct}\"\n{block}", quoted(&path))
    })
}

fn leaf() -> impl Strategy<Value = String> {
    let poll = word(&["auto", "on", "off"]);
    let more = prop_oneof![
        Just("read_only = true\n".to_string()),
        (1..1u64 << 50).prop_map(|blocks| format!("create_size = {}\n", blocks << 12)),
        Just(String::new()),
    ];
    let aio = (aio(), poll, more).prop_map(|(aio, poll, more)| format!("{aio}poll = \"{poll}\"\n{more}"));
    prop_oneof![null_or_malloc(), aio]
}

fn rule() -> impl Strategy<Value = String> {
    let ops = prop::sample::subsequence(vec!["read", "write", "flush", "discard", "write-zeroes"], 1..=5);
    let length = prop_oneof![Just(None), (1..=u64::MAX).prop_map(Some)];
    (ops, 0..=1_000_000u32, 0..1u64 << 20, length, 0..=i64::MAX).prop_map(
        |(ops, rate, offset, length, seed)| {
            let length = length.map_or(String::new(), |bytes| format!("length = \"{bytes}\"\n"));
            let rate = f64::from(rate) / 1e6;
            format!("ops = {ops:?}\nrate = {rate:?}\noffset = {offset}\n{length}seed = {seed}\n")
        },
    )
}

/// A layer, and how many it stands on.
fn layer() -> impl Strategy<Value = (usize, String)> {
    let key = prop_oneof![
        "/\\PC{1,9}".prop_map(|path| format!("key_file = {}", quoted(&path))),
        "[a-z.]{3,9}".prop_map(|name| format!("key_credential = \"{name}\"")),
    ];
    let crypto = (key, any::<bool>()).prop_map(|(key, discard)| {
        (1, format!("type = \"crypto\"\n{key}\nsector_size = 4096\ndiscard = {discard}\n"))
    });
    let latency = (1..60_000_000u64).prop_map(|us| format!("type = \"delay\"\nlatency = \"{us}us\"\n"));
    let error = (word(&["EIO", "ENOSPC", "EOPNOTSUPP", "ETIMEDOUT"]), word(&["nothing", "part", "all"]))
        .prop_map(|(error, moved)| format!("type = \"error\"\nerror = \"{error}\"\nmoved = \"{moved}\"\n"));
    let ruled = (prop_oneof![latency, error], rule()).prop_map(|(kind, rule)| (1, kind + &rule));
    let raid0 = (1..4usize, 12..20u32)
        .prop_map(|(count, power)| (count, format!("type = \"raid0\"\nchunk = {}\n", 1u64 << power)));
    prop_oneof![crypto, ruled, raid0]
}

/// A disk over the next stack, or with keys of its own, and its other keys.
fn disk() -> impl Strategy<Value = (Option<String>, String)> {
    let own = prop_oneof![Just(None), null_or_malloc().prop_map(Some), aio().prop_map(Some)];
    let cores = prop::sample::subsequence(vec![1, 2, 5], 1..=3);
    let via = prop_oneof![
        Just("transport = \"vhost-user\"\nsocket = \"/run/NAME.sock\"\n".to_string()),
        (word(&["virtio-vdpa", "vhost-vdpa"]), any::<bool>(), any::<bool>(), 0..=1024u64).prop_map(
            |(driver, packed, resume, mib)| {
                let bounce = if mib == 0 { String::new() } else { format!("bounce_size = \"{mib}MiB\"\n") };
                format!("driver = \"{driver}\"\npacked = {packed}\nresume = {resume}\nstate_dir = \"/run/x\"\n{bounce}")
            }
        ),
    ];
    (own, 1..=64u16, 2..=10u32, cores, "[ -~]{0,20}", any::<bool>(), via).prop_map(
        |(own, queues, power, cores, serial, read_only, via)| {
            let (size, serial) = (1 << power, quoted(&serial));
            let keys =
                format!("queues = {queues}\nqueue_size = {size}\ncores = {cores:?}\nserial = {serial}\n");
            (own, format!("{keys}read_only = {read_only}\n{via}"))
        },
    )
}

fn config() -> impl Strategy<Value = String> {
    let bdevs = (prop::collection::vec(leaf(), 0..6), prop::collection::vec(layer(), 0..6));
    let disks = prop::collection::vec(disk(), 0..4);
    let control = word(&[
        "",
        "metrics = \"[::1]:9500\"\n",
        "metrics = \"unix:/run/m\"\nhist_log = \"/h\"\nhist_interval = \"70ms\"\n",
    ]);
    let reactor = (word(&["try", "require", "off"]), any::<bool>());
    (bdevs, disks, control, reactor).prop_map(|((leaves, layers), disks, control, (hugepages, socket))| {
        let mut text =
            format!("[reactor]\ncores = [1, 2, 5]\nhugepages = \"{hugepages}\"\nlock_memory = \"{hugepages}\"\n[control]\n{control}");
        if socket || disks.is_empty() {
            text += "socket = \"/run/c \\u00e9.sock\"\n";
        }
        let mut tops = std::collections::VecDeque::new();
        for (index, keys) in leaves.into_iter().enumerate() {
            text += &format!("[[bdev]]\nname = \"leaf{index}\"\n{keys}");
            tops.push_back(format!("leaf{index}"));
        }
        for (index, (count, keys)) in layers.into_iter().enumerate() {
            let below: Vec<String> = tops.drain(..count.min(tops.len())).collect();
            let Some(first) = below.first() else { continue };
            let children = if keys.contains("raid0") {
                format!("children = {below:?}")
            } else {
                format!("child = {first:?}")
            };
            text += &format!("[[bdev]]\nname = \"layer{index}\"\n{children}\n{keys}");
            tops.push_back(format!("layer{index}"));
        }
        for (index, (own, keys)) in disks.into_iter().enumerate() {
            let bdev = || Some(format!("bdev = {:?}\n", tops.pop_front()?));
            let data = own.or_else(bdev).unwrap_or_else(|| "type = \"null\"\nsize = \"1M\"\n".into());
            let keys = keys.replace("NAME", &index.to_string());
            text += &format!("[[disk]]\nname = \"d{index}\"\n{data}{keys}");
        }
        text
    })
}

proptest! {
    #[test]
    fn what_is_saved_is_read_as_the_same(text in config()) {
        let config = toml(&text);
        check_round_trip(&config);
        check_changes(&config);
    }
}
