//! Tests of stacks as text: good ones become trees, and each bad one is refused in words that mend it.

mod keys;

use std::time::Duration;

use super::super::{BackendKind, Config, KeySource, Stack, stacks_from_toml};
use super::*;
use crate::backend::{CryptoOptions, IoError, Moved, Ops, Rule};

/// Two RAM disks; their sections begin at lines 1 and 5.
const LEAVES: &str = "\
[[bdev]]
name = \"a\"
type = \"malloc\"
size = \"1MiB\"
[[bdev]]
name = \"b\"
type = \"null\"
size = \"1MiB\"
block_size = 4096
";

fn stacks(text: &str) -> Result<Vec<Stack>, Error> {
    stacks_from_toml(text, "s.toml")
}

/// The refusal of a third bdev `t` over the leaves; its first line is 10, and `keys` begin at line 12.
fn refusal(keys: &str) -> String {
    let text = format!("{LEAVES}[[bdev]]\nname = \"t\"\n{keys}\n");
    stacks(&text).unwrap_err().one_line()
}

/// A crypto bdev, which is the shortest to write.
fn layer(name: &str, child: &str) -> String {
    format!("[[bdev]]\nname = \"{name}\"\ntype = \"crypto\"\nkey_file = \"/k\"\nchild = \"{child}\"\n")
}

fn check_refusals(type_keys: &str, cases: &[(&str, &str)]) {
    for (keys, want) in cases {
        assert_eq!(refusal(&format!("{type_keys}{keys}")), format!("s.toml:{want}"), "{keys}");
    }
}

#[test]
fn bdevs_alone_become_trees() {
    let text = format!(
        "{LEAVES}[[bdev]]\nname = \"r\"\ntype = \"raid0\"\nchildren = [\"b\", \"a\"]\nchunk = \"128k\"\n\
         [[bdev]]\nname = \"c\"\ntype = \"crypto\"\nkey_credential = \"k\"\nsector_size = 4096\nchild = \"r\"\ndiscard = true\n"
    );
    let trees = stacks(&text).unwrap();
    let [Stack { disk: None, read_only: false, top }] = &trees[..] else { panic!("{trees:?}") };
    assert_eq!((top.name.as_str(), top.place.as_str()), ("c", "s.toml:15"));
    let BackendKind::Crypto { child, key, options } = &top.kind else { panic!("{top:?}") };
    assert_eq!(*key, KeySource::Credential("k".into()));
    assert_eq!(*options, CryptoOptions { sector_bytes: 4096, discard: true });
    assert!(matches!(child.kind, BackendKind::Raid0 { chunk_bytes: 0x2_0000, .. }));
    let names: Vec<&str> = child.children().iter().map(|leaf| leaf.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert!(top.takes_memory() && !child.children()[0].takes_memory());
    assert_eq!(top.find("a"), Some(&child.children()[1]));
    assert_eq!(top.find("x"), None);
}

#[test]
fn rules_are_read_and_have_defaults() {
    let kind = |keys: &str| {
        let mut trees = stacks(&format!("{LEAVES}[[bdev]]\nname = \"t\"\nchild = \"a\"\n{keys}\n")).unwrap();
        trees.pop().unwrap().top.kind
    };
    let BackendKind::Delay { rule, latency, .. } = kind("type = \"delay\"\nlatency = \"250us\"") else {
        panic!("no delay")
    };
    assert_eq!((rule, latency), (Rule::default(), Duration::from_micros(250)));
    let keys = "type = \"error\"\nops = [\"read\", \"write-zeroes\"]\nrate = 0.01\noffset = 4096\nlength = \"4k\"\n\
                seed = 7\nerror = \"ENOSPC\"\nmoved = \"part\"";
    let BackendKind::Error { rule, error, moved, .. } = kind(keys) else { panic!("no error") };
    let ops = Ops::READ.and(Ops::WRITE_ZEROES);
    assert_eq!(rule, Rule { ops, range_bytes: 4096..8192, per_million: 10_000, seed: 7 });
    assert_eq!((error, moved), (IoError::NoSpace, Moved::Part));
    let rate = |rate: &str| match kind(&format!("type = \"error\"\nrate = {rate}")) {
        BackendKind::Error { rule, error: IoError::Errno(5), moved: Moved::Nothing, .. } => rule.per_million,
        other => panic!("{other:?}"),
    };
    assert_eq!([rate("0"), rate("1"), rate("1e-6"), rate("0.5")], [0, 1_000_000, 1, 500_000]);
}

#[test]
fn a_disk_stands_for_a_whole_stack() {
    let text = format!(
        "[reactor]\ncores = [1]\n[[disk]]\nname = \"d0\"\nbdev = \"c\"\nread_only = true\n{}{LEAVES}",
        layer("c", "a")
    );
    let config = Config::from_toml(&text, "s.toml").unwrap();
    let disk = &config.disks[0];
    assert_eq!((disk.backend.name.as_str(), disk.backend.type_name(), disk.read_only), ("c", "crypto", true));
    let unused: Vec<(&str, &str)> =
        config.unused.iter().map(|top| (top.name.as_str(), top.place.as_str())).collect();
    assert_eq!(unused, [("b", "s.toml:16")]);
    let stacks = config.into_stacks();
    assert_eq!(stacks[0].disk.as_deref(), Some("d0"));
    assert!(stacks[0].read_only && !stacks[1].read_only && stacks[1].disk.is_none());
}

#[test]
fn refusals_of_names_and_types() {
    check_refusals(
        "",
        &[
            ("", "10: bdev t: type: is missing; allowed: null, malloc, aio, raid0, crypto, delay, error"),
            (
                "type = \"raid\"",
                "12: bdev t: type = \"raid\": allowed: null, malloc, aio, raid0, crypto, delay, error",
            ),
            ("chunks = 1", "12: bdev t: chunks = 1: unknown key; did you mean chunk?"),
            (
                "queues = 1",
                "12: bdev t: queues = 1: unknown key; allowed: name, type, size, block_size, reads, path, direct, poll, \
                 read_only, create_size, child, children, chunk, key_file, key_credential, sector_size, discard, latency, error, moved, \
                 ops, rate, offset, length, seed",
            ),
            ("type = \"null\"\nchunk = 1", "13: bdev t: chunk = 1: only for type raid0"),
            ("type = \"raid0\"\nrate = 1", "13: bdev t: rate = 1: only for types delay, error"),
            ("type = \"crypto\"\nsize = 1", "13: bdev t: size = 1: only for types null, malloc"),
            (
                "type = \"raid0\"\nchild = \"a\"",
                "13: bdev t: child = \"a\": only for types crypto, delay, error",
            ),
            ("type = \"crypto\"\nchildren = [\"a\"]", "13: bdev t: children = [\"a\"]: only for type raid0"),
        ],
    );
    let cases = [
        (
            format!("{LEAVES}{LEAVES}"),
            "s.toml:11: bdev a: name = \"a\": another bdev has this name; give each its own",
        ),
        (
            "[[bdev]]\ntype = \"malloc\"\n".into(),
            "s.toml:1: bdev number 1: name: is missing; others stand on it by its name, for example \"b0\"",
        ),
        (
            "[[bdev]]\nname = \"a b\"\ntype = \"malloc\"\n".into(),
            "s.toml:2: bdev a b: name = \"a b\": allowed: 1 to 64 letters, digits, '.', '_', '-', starting with a letter \
             or digit",
        ),
        ("[bdev]\n".into(), "s.toml:1: bdev: a list of tables is wanted: [[bdev]], with two brackets"),
        ("bdev = [1]\n".into(), "s.toml:1: bdev: a list of tables is wanted: [[bdev]]"),
        ("[bdevs]\n".into(), "s.toml:1: bdevs: unknown section; did you mean [[bdev]]?"),
        (String::new(), "there is no bdev to look at: add a [[bdev]] section"),
    ];
    for (text, want) in cases {
        assert_eq!(stacks(&text).unwrap_err().one_line(), want, "{text}");
    }
}

#[test]
fn refusals_of_references() {
    let names = "allowed: a list of names of [[bdev]], 1 to 32";
    check_refusals(
        "type = \"raid0\"\n",
        &[
            (
                "",
                "10: bdev t: children: is missing; give the names of the [[bdev]] that it stands on, as a list",
            ),
            ("children = \"a\"", &format!("13: bdev t: children = \"a\": {names}")),
            ("children = []", &format!("13: bdev t: children = []: {names}")),
            ("children = [\"a\", 1]", &format!("13: bdev t: children = [\"a\", 1]: {names}")),
            (
                "children = [\"a\", \"a\"]",
                "13: bdev t: children = [\"a\", \"a\"]: a is named twice; allowed: once",
            ),
            (
                "children = [\"t\"]",
                "13: bdev t: children = [\"t\"]: it stands on itself: t -> t; a stack ends in null, malloc or aio",
            ),
        ],
    );
    let many = vec!["\"a\""; 33].join(", ");
    assert!(refusal(&format!("type = \"raid0\"\nchildren = [{many}]")).ends_with(names));
    check_refusals(
        "type = \"crypto\"\n",
        &[
            ("", "10: bdev t: child: is missing; give the name of the [[bdev]] that it stands on"),
            ("child = [\"a\"]", "13: bdev t: child = [\"a\"]: allowed: the name of one [[bdev]]"),
            ("child = \"x\"", "13: bdev t: child = \"x\": there is no bdev x; add a [[bdev]] of this name"),
            ("child = \"aa\"", "13: bdev t: child = \"aa\": there is no bdev aa; did you mean a?"),
        ],
    );
    let twice = format!("{LEAVES}{}{}", layer("c", "a"), layer("d", "a"));
    assert_eq!(
        stacks(&twice).unwrap_err().one_line(),
        "s.toml:19: bdev d: child = \"a\": a is used by bdev c (s.toml:10) already; allowed: once"
    );
    let circle = format!("{}{}{}", layer("a", "b"), layer("b", "c"), layer("c", "a"));
    assert_eq!(
        stacks(&circle).unwrap_err().one_line(),
        "s.toml:5: bdev a: child = \"b\": it stands on itself: a -> b -> c -> a; a stack ends in null, malloc or aio"
    );
    let names: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
    let large: String = (0..100).map(|n| layer(&names[n], &names[(n + 1) % 100])).collect();
    let error = stacks(&large).unwrap_err().one_line();
    assert!(error.contains("itself: n0 -> n1 -> n2 -> n3 -> n4 -> n5 -> ... -> n0; a stack"), "{error}");
}

#[test]
fn refusals_of_what_disks_stand_on() {
    let disk = |name: &str, keys: &str| format!("[[disk]]\nname = \"{name}\"\n{keys}\n");
    let cases = [
        (
            disk("d", "bdev = \"x\""),
            "14: disk d: bdev = \"x\": there is no bdev x; add a [[bdev]] of this name",
        ),
        (disk("d", "bdev = 1"), "14: disk d: bdev = 1: allowed: the name of one [[bdev]]"),
        (
            disk("d", "bdev = \"a\"\ntype = \"null\""),
            "15: disk d: type = \"null\": not with bdev; [[bdev]] a says what it is",
        ),
        (
            disk("d", "bdev = \"a\"") + &disk("e", "bdev = \"a\""),
            "17: disk e: bdev = \"a\": a is used by disk d already; allowed: once",
        ),
        (
            disk("d", "bdev = \"a\"") + &layer("c", "a"),
            "14: disk d: bdev = \"a\": a is used by bdev c (s.toml:15) already; allowed: once",
        ),
    ];
    for (disks, want) in cases {
        let text = format!("{LEAVES}[reactor]\ncores = [1]\n{disks}");
        assert_eq!(stacks(&text).unwrap_err().one_line(), format!("s.toml:{want}"), "{disks}");
    }
}

/// So many crypto bdevs in a row over one RAM disk.
fn tower(layers: usize) -> String {
    let leaf = "[[bdev]]\nname = \"n0\"\ntype = \"malloc\"\nsize = \"1M\"\n".to_string();
    (1..=layers).fold(leaf, |text, n| text + &layer(&format!("n{n}"), &format!("n{}", n - 1)))
}

#[test]
fn stacks_have_32_levels_at_most() {
    assert!(stacks(&tower(31)).is_ok());
    assert_eq!(
        stacks(&tower(32)).unwrap_err().one_line(),
        "s.toml:9: bdev n1: child = \"n0\": n0 would be level 33 of a stack; allowed: 32"
    );
}

#[test]
fn ten_thousand_bdevs_take_neither_stack_nor_patience() {
    assert!(stacks(&tower(10_000)).unwrap_err().one_line().contains("would be level 33"));
    let leaf = |n: usize| format!("[[bdev]]\nname = \"n{n}\"\ntype = \"null\"\nsize = 512\n");
    let flat: String = (0..10_000).map(leaf).collect();
    assert_eq!(stacks(&flat).unwrap().len(), 10_000);
    let unknown = format!("{flat}{}", layer("c", "nobody"));
    assert!(stacks(&unknown).unwrap_err().one_line().contains("there is no bdev nobody"));
}
