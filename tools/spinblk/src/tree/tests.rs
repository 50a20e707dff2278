//! Tests of what open stacks look like.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::Error;
use crate::bdev_check::check;

/// Files for a stack: a disk `f` of 1 MiB, the key `k`, and the configuration `s.toml` with these bdevs.
fn folder(bdevs: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    File::create(at("f")).unwrap().set_len(1 << 20).unwrap();
    std::fs::write(at("k"), "0123456789abcdef".repeat(4) + &"fedcba9876543210".repeat(4)).unwrap();
    std::fs::set_permissions(at("k"), Permissions::from_mode(0o600)).unwrap();
    std::fs::write(at("s.toml"), bdevs.replace("DIR", &dir.path().display().to_string())).unwrap();
    dir
}

fn trees(dir: &Path) -> Result<Vec<Tree>, Error> {
    check(&dir.join("s.toml"))
}

const STACKS: &str = r#"
[[bdev]]
name = "a"
type = "malloc"
size = "1MiB"

[[bdev]]
name = "b"
type = "null"
size = "1032KiB"
reads = "zeroes"

[[bdev]]
name = "r0"
type = "raid0"
children = ["a", "d"]

[[bdev]]
name = "d"
type = "delay"
child = "b"
latency = "2ms"

[[bdev]]
name = "c0"
type = "crypto"
child = "r0"
key_file = "DIR/k"
sector_size = 4096

[[bdev]]
name = "e0"
type = "error"
child = "f0"
error = "ENOSPC"
ops = ["write", "flush"]
rate = 0.01
offset = 4096
length = "8KiB"
seed = 3

[[bdev]]
name = "f0"
type = "aio"
path = "DIR/f"
direct = "off"
block_size = 512

[[bdev]]
name = "new"
type = "aio"
path = "DIR/new"
create_size = "2MiB"

[reactor]
cores = [1]

[[disk]]
name = "d0"
bdev = "c0"
read_only = true

[[disk]]
name = "d1"
bdev = "e0"

[[disk]]
name = "d2"
type = "malloc"
size = "1.PiB"
"#;

#[test]
fn trees_for_people() {
    let dir = folder(&STACKS.replace("1.PiB", "1024TiB"));
    // Whether a file can discard is its file system's affair.
    let text = to_text(&trees(dir.path()).unwrap()).replace(&dir.path().display().to_string(), "DIR");
    let want = r#"
c0 (disk d0)  crypto  2 MiB    blocks 4096/4096  flush read-only                       AES-256-XTS, sectors of 4096 bytes, key file "DIR/k"
└─ r0         raid0   2 MiB    blocks 512/512    flush discard write-zeroes read-only  chunk 64 KiB
   ├─ a       malloc  1 MiB    blocks 512/512    flush discard write-zeroes read-only  RAM
   └─ d       delay   1.0 MiB  blocks 512/512    flush discard write-zeroes read-only  2 ms for read write flush discard write-zeroes, rate 1, seed 0
      └─ b    null    1.0 MiB  blocks 512/512    flush discard write-zeroes read-only  reads zeroes
"#;
    assert!(text.starts_with(want.trim_start()), "{text}");
    let rest: Vec<&str> = text.lines().skip(5).collect();
    let [error, file, ram, new] = rest[..] else { panic!("{text}") };
    assert!(error.starts_with("e0 (disk d1)  error   1 MiB    blocks 512/"), "{error}");
    assert!(
        error.ends_with(
            "  ENOSPC for write flush, rate 0.01, 8192 bytes from byte 4096, seed 3, nothing moved"
        ),
        "{error}"
    );
    assert!(file.starts_with("└─ f0         aio     1 MiB    blocks 512/"), "{file}");
    assert!(file.contains(" flush ") && file.ends_with("  \"DIR/f\", page cache"), "{file}");
    assert!(ram.starts_with("d2 (disk d2)  malloc  1 PiB "), "{ram}");
    assert!(
        new.starts_with("new           aio     2 MiB ") && new.ends_with("missing, will be created"),
        "{new}"
    );
    assert!(!dir.path().join("new").exists());
}

#[test]
fn trees_as_json() {
    let dir = folder(&STACKS.replace("1.PiB", "1MiB"));
    let json = serde_json::to_value(trees(dir.path()).unwrap()).unwrap();
    let (crypto, error, new) = (&json[0], &json[1], &json[3]);
    assert_eq!(crypto["disk"], "d0");
    assert_eq!((&crypto["type"], &crypto["cipher"]), (&"crypto".into(), &"AES-256-XTS".into()));
    assert_eq!((&crypto["sector_bytes"], &crypto["size_bytes"]), (&4096.into(), &(2 << 20).into()));
    assert_eq!(crypto["key_file"], dir.path().join("k").display().to_string());
    assert_eq!((&crypto["read_only"], &crypto["write_zeroes"]), (&true.into(), &false.into()));
    let raid0 = &crypto["children"][0];
    assert_eq!((&raid0["chunk_bytes"], &raid0["children"][1]["latency_us"]), (&65536.into(), &2000.into()));
    assert_eq!(raid0["children"][1]["children"][0]["reads"], "zeroes");
    assert_eq!(error["ops"], serde_json::json!(["write", "flush"]));
    assert_eq!((&error["rate"], &error["offset_bytes"]), (&0.01.into(), &4096.into()));
    assert_eq!((&error["length_bytes"], &error["moved"]), (&8192.into(), &"nothing".into()));
    assert_eq!(error["children"][0]["o_direct"], false);
    assert!(new["o_direct"].is_null() && new.get("disk").is_none(), "{new}");
}

#[test]
fn what_the_machine_lacks_is_told_with_its_place() {
    let aio = |name: &str, file: &str| {
        format!("[[bdev]]\nname = \"{name}\"\ntype = \"aio\"\npath = \"DIR/{file}\"\n")
    };
    let cases = [
        (aio("a", "none"), "s.toml:1: bdev a: open DIR/none: "),
        (aio("a", "f") + &aio("b", "f"), "s.toml:5: bdev b: DIR/f is in use"),
        (
            aio("a", "f")
                + "[[bdev]]\nname = \"c\"\ntype = \"crypto\"\nchild = \"a\"\nkey_file = \"DIR/none\"",
            "s.toml:5: bdev c: key DIR/none: ",
        ),
        (
            aio("a", "f") + "[[bdev]]\nname = \"r\"\ntype = \"raid0\"\nchildren = [\"a\"]\nchunk = \"4MiB\"",
            "s.toml:5: bdev r: child a: ",
        ),
        (
            aio("a", "f")
                + "[[bdev]]\nname = \"l\"\ntype = \"delay\"\nchild = \"a\"\nlatency = \"1s\"\noffset = \"1MiB\"",
            "s.toml:5: bdev l: range ",
        ),
    ];
    for (text, want) in cases {
        let dir = folder(&text);
        let error = trees(dir.path()).unwrap_err();
        let line = error.one_line().replace(&format!("{}/s.toml", dir.path().display()), "s.toml");
        let line = line.replace(&dir.path().display().to_string(), "DIR");
        assert!(line.starts_with(want) && error.exit_code() == 1, "{line}\n{want}");
    }
}
