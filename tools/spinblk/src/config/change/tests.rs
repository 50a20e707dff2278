//! Tests of changes: each in the words of the file, and a bad one leaves all as it was.

use serde_json::{Map, json};

use super::*;

const TEXT: &str = "\
[reactor]
cores = [1, 2]
[control]
socket = \"/run/c.sock\"
[[bdev]]
name = \"c\"
type = \"delay\"
latency = \"1ms\"
child = \"m\"
[[bdev]]
name = \"m\"
type = \"malloc\"
size = \"1MiB\"
[[bdev]]
name = \"spare\"
type = \"null\"
size = \"1MiB\"
[[disk]]
name = \"d0\"
bdev = \"c\"
[[disk]]
name = \"d1\"
type = \"null\"
size = \"1MiB\"
";

fn config() -> Config {
    Config::from_toml(TEXT, "s.toml").unwrap()
}

fn keys(value: &serde_json::Value) -> Given {
    Given::Keys(value.as_object().cloned().unwrap_or_else(Map::new))
}

fn flags(text: &str) -> Given {
    Given::Flags(text.into())
}

fn toml(text: &str) -> Given {
    Given::Toml(text.into())
}

#[test]
fn a_disk_is_the_same_in_every_form() {
    let forms = [
        keys(&json!({ "name": "d2", "bdev": "spare", "queues": 2, "cores": [2], "read_only": true })),
        flags("name=d2,bdev=spare,queues=2,cores=2,read-only=true"),
        toml("[[disk]]\nname = \"d2\"\nbdev = \"spare\"\nqueues = 2\ncores = [2]\nread_only = true\n"),
    ];
    for given in forms {
        let new = config().with_disk(&given).unwrap();
        let disk = new.disks.last().unwrap();
        assert_eq!(
            (disk.name.as_str(), disk.queues, &disk.cores[..], disk.read_only),
            ("d2", 2, &[2][..], true)
        );
        assert_eq!((disk.backend.place.as_str(), new.unused.len()), ("s.toml:14", 0));
        assert_eq!(new.disks[..2], config().disks);
    }
}

#[test]
fn a_disk_comes_with_the_bdevs_that_it_needs() {
    let text = "[[bdev]]\nname = \"a\"\ntype = \"null\"\nsize = \"1M\"\n[[bdev]]\nname = \"r\"\ntype = \"raid0\"\n\
                children = [\"a\", \"spare\"]\n[[disk]]\nname = \"d2\"\nbdev = \"r\"\n";
    let new = config().with_disk(&toml(text)).unwrap();
    assert_eq!(new.disks[2].backend.children()[1].name, "spare");
    let error =
        config().with_bdevs(&flags("name=r,type=raid0,children=spare+spare2")).unwrap_err().one_line();
    assert!(error.contains("there is no bdev spare2; did you mean spare?"), "{error}");
    let (new, names) = config().with_bdevs(&flags("name=r,type=raid0,children=spare")).unwrap();
    assert_eq!((names, new.unused[0].name.as_str(), new.unused.len()), (vec!["r".to_string()], "r", 1));
    let gone = new.without_bdev("r").unwrap();
    assert_eq!(gone, config());
}

#[test]
fn bad_disks_are_refused_as_in_a_file() {
    let null = |more: serde_json::Value| {
        let mut all = json!({ "name": "d2", "type": "null", "size": "1M" });
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        keys(&all)
    };
    let cases = [
        (
            null(json!({ "name": "d1" })),
            "request:1: disk d1: name = \"d1\": another disk has this name; give each its own",
        ),
        (null(json!({ "queue": 2 })), "request:1: disk d2: queue = 2: unknown key; did you mean queues?"),
        (
            null(json!({ "cores": [2, 3] })),
            "request:1: disk d2: cores = [2, 3]: core 3 has no reactor; allowed: 1, 2",
        ),
        (null(json!({ "queues": 2.5 })), "request:1: disk d2: queues = 2.5: allowed: 1 to 64"),
        (
            null(json!({ "size": u64::MAX })),
            "request:1: disk d2: size = 18446744073709551615: allowed: bytes",
        ),
        (null(json!({ "size": null })), "request:1: disk d2: size = null: allowed: bytes"),
        (null(json!({ "serial": { "a": [] } })), "request:1: disk d2: serial = {...}: allowed: at most 20"),
        (keys(&json!({})), "request:1: disk number 1: name: is missing"),
        (
            keys(&json!({ "name": "d2", "bdev": "c" })),
            "request:1: disk d2: bdev = \"c\": c is used by disk d0 already; allowed: once",
        ),
        (
            keys(&json!({ "name": "d2", "bdev": "m" })),
            "m is used by bdev c (s.toml:5) already; allowed: once",
        ),
        (keys(&json!({ "name": "d2", "bdev": "x" })), "there is no bdev x; add a [[bdev]] of this name"),
        (
            flags("name=d2,type=null,size=1M,cores=3"),
            "disk d2: cores=3: core 3 has no reactor; allowed: 1, 2",
        ),
        (flags("name=d2,type=null,size=1M,size=2M"), "disk d2: size=2M: this key was given before"),
        (flags(""), "disk number 1: =: KEY=VALUE is wanted, with commas between"),
        (
            toml("[[disk]]\nname = \"d2\"\ntype = \"nul\"\n"),
            "request:3: disk d2: type = \"nul\": allowed: null, malloc, aio",
        ),
        (toml("[[disk"), "request:1: "),
        (toml("[[bdev]]\nname = \"b\"\ntype = \"null\"\nsize = 512\n"), "one [[disk]] is wanted, not 0"),
        (toml("[reactor]\ncores = [1]\n"), "[reactor] and [control] are fixed at the start; leave them out"),
    ];
    for (given, want) in cases {
        let error = config().with_disk(&given).unwrap_err().one_line();
        assert!(error.contains(want), "{error}\n{want}");
    }
}

#[test]
fn bad_bdevs_are_refused_as_in_a_file() {
    let cases = [
        (
            flags("name=spare,type=null,size=1M"),
            "bdev spare: name=spare: another bdev has this name; give each its own",
        ),
        (
            flags("name=x,type=delay,latency=1ms,child=m"),
            "bdev x: child=m: m is used by bdev c (s.toml:5) already; allowed: once",
        ),
        (flags("name=x,type=delay,latency=1ms,child=x"), "it stands on itself: x -> x"),
        (
            keys(&json!({ "name": "x", "type": "crypto", "child": "spare", "key": "0123secret" })),
            "bdev x: key: a key is never written here",
        ),
        (
            toml("[[disk]]\nname = \"d\"\ntype = \"null\"\nsize = \"1M\"\n"),
            "[[bdev]] is wanted, and no [[disk]]",
        ),
        (toml(""), "[[bdev]] is wanted, and no [[disk]]"),
    ];
    for (given, want) in cases {
        let error = config().with_bdevs(&given).unwrap_err().one_line();
        assert!(error.contains(want) && !error.contains("secret"), "{error}\n{want}");
    }
}

#[test]
fn only_what_nobody_uses_is_removed() {
    let refused = |name: &str| config().without_bdev(name).unwrap_err().one_line();
    assert_eq!(refused("c"), "bdev c is used by disk d0; remove that first");
    assert_eq!(refused("m"), "bdev m is used by bdev c; remove that first");
    assert_eq!(refused("d1"), "there is no unused bdev d1; there are: spare");
    assert_eq!(refused("spar"), "there is no unused bdev spar; did you mean spare?");
    let error = config().without_disk("spare").unwrap_err().one_line();
    assert_eq!(error, "there is no disk spare; there are: d0, d1");
    let new = config().without_bdev("spare").unwrap();
    assert!(new.unused.is_empty());
    // The disk's stack stays, and can then be taken apart.
    let new = new.without_disk("d0").unwrap();
    assert_eq!((new.disks.len(), new.unused[0].name.as_str()), (1, "c"));
    let new = new.without_bdev("c").unwrap().without_bdev("m").unwrap();
    assert!(new.unused.is_empty());
    // With a control socket the last disk may go, too.
    let none = new.without_disk("d1").unwrap();
    assert!(none.disks.is_empty());
    assert_eq!(Config::from_toml(&none.to_toml(), "s.toml").unwrap(), none);
}

#[test]
fn there_is_a_bound_on_what_may_be_added() {
    let bdevs = |count: usize| {
        let one = |index| format!("[[bdev]]\nname = \"x{index}\"\ntype = \"null\"\nsize = 512\n");
        toml(&(0..count).map(one).collect::<String>())
    };
    let (new, names) = config().with_bdevs(&bdevs(MAX_SECTIONS - 3)).unwrap();
    assert_eq!(names.len(), MAX_SECTIONS - 3);
    let error = new.with_bdevs(&flags("name=y,type=null,size=512")).unwrap_err().one_line();
    assert_eq!(error, "more than 4096 bdevs or disks; remove some first");
}

#[test]
fn what_is_saved_can_be_loaded_again_however_long_its_paths_are() {
    let long = |from: usize| {
        let path = "/x".repeat(2000);
        let one = |index| format!("[[bdev]]\nname = \"l{index}\"\ntype = \"aio\"\npath = \"{path}\"\n");
        toml(&(from..from + 100).map(one).collect::<String>())
    };
    let (config, _) = config().with_bdevs(&long(0)).unwrap().0.with_bdevs(&long(100)).unwrap();
    let error = config.with_bdevs(&long(200)).unwrap_err().one_line();
    assert!(error.contains("at most 1048576 can be loaded again"), "{error}");
    let text = config.to_loadable_toml().unwrap();
    assert!(Config::from_toml(&text, "s.toml").unwrap().to_toml() == text);
}

#[test]
fn a_configuration_follows_the_sizes_of_what_is_open() {
    let mut config = config();
    let bigger = Config::from_toml(
        &TEXT.replace("\"malloc\"\nsize = \"1MiB\"", "\"malloc\"\nsize = \"3MiB\""),
        "s.toml",
    )
    .unwrap();
    let described = crate::backend::Making::Described;
    let open = crate::backend::open(&bigger.disks[0].backend, false, described).unwrap().bdev;
    config.disks[0].backend.set_sizes(&*open);
    assert_eq!(config, bigger);
}
