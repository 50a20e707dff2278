//! The refusals of single keys: of raid0, crypto, rules and files.

use super::*;

#[test]
fn refusals_of_layers() {
    check_refusals(
        "type = \"raid0\"\nchildren = [\"a\"]\n",
        &[
            (
                "chunk = 12288",
                "14: bdev t: chunk = 12288: allowed: a power of two, at least 4KiB; bytes or a number with KiB, MiB, GiB, \
                 TiB (also k, M, G, T)",
            ),
            (
                "chunk = \"2MiB\"",
                "13: bdev t: children = [\"a\"]: a has 1 MiB, less than one chunk of 2 MiB; make it larger or set chunk \
                 lower",
            ),
        ],
    );
    check_refusals(
        "type = \"crypto\"\nchild = \"a\"\n",
        &[
            (
                "",
                "10: bdev t: key_file: is missing; type crypto needs the file of its key, or a key_credential",
            ),
            (
                "key_file = \"/k\"\nkey_credential = \"k\"",
                "15: bdev t: key_credential = \"k\": key_file names a key, too; allowed: one of them",
            ),
            ("key_file = \"\"", "14: bdev t: key_file = \"\": allowed: the path of a file"),
            (
                "key_credential = \"../k\"",
                "14: bdev t: key_credential = \"../k\": allowed: the name of a credential",
            ),
            ("sector_size = 1024", "14: bdev t: sector_size = 1024: allowed: 512, 4096"),
            ("discard = 1\nkey_file = \"/k\"", "14: bdev t: discard = 1: allowed: true, false"),
        ],
    );
    let on_large_blocks = "type = \"crypto\"\nchild = \"b\"\nkey_file = \"/k\"\n";
    let below = "512 is below the block size of b, 4096; set it to 4096";
    check_refusals(
        on_large_blocks,
        &[
            ("", &format!("10: bdev t: sector_size: is missing; {below}")),
            ("sector_size = 512", &format!("15: bdev t: sector_size = 512: {below}")),
        ],
    );
    let tiny = "type = \"crypto\"\nchild = \"x\"\nkey_file = \"/k\"\nsector_size = 4096\n\
                [[bdev]]\nname = \"x\"\ntype = \"null\"\nsize = 2048";
    assert_eq!(
        refusal(tiny),
        "s.toml:15: bdev t: sector_size = 4096: x is smaller than one sector of 4096 bytes; make it larger"
    );
}

#[test]
fn refusals_of_rules() {
    check_refusals(
        "type = \"delay\"\nchild = \"a\"\n",
        &[
            ("", "10: bdev t: latency: is missing; for example \"2ms\""),
            (
                "latency = \"61s\"",
                "14: bdev t: latency = \"61s\": allowed: a whole number with us, ms or s, from 1us to 60s",
            ),
            (
                "latency = 2",
                "14: bdev t: latency = 2: allowed: a whole number with us, ms or s, from 1us to 60s",
            ),
        ],
    );
    let ops = "allowed: a list of read, write, flush, discard, write-zeroes, at least one";
    let sizes = "bytes or a number with KiB, MiB, GiB, TiB (also k, M, G, T)";
    check_refusals(
        "type = \"error\"\nchild = \"a\"\n",
        &[
            (
                "error = \"EPERM\"",
                "14: bdev t: error = \"EPERM\": allowed: EIO, ENOSPC, EOPNOTSUPP, ETIMEDOUT",
            ),
            ("moved = \"some\"", "14: bdev t: moved = \"some\": allowed: nothing, part, all"),
            ("ops = []", &format!("14: bdev t: ops = []: {ops}")),
            ("ops = \"read\"", &format!("14: bdev t: ops = \"read\": {ops}")),
            ("ops = [\"trim\"]", &format!("14: bdev t: ops = [\"trim\"]: {ops}")),
            ("rate = 1.5", "14: bdev t: rate = 1.5: allowed: 0, or 0.000001 to 1"),
            ("rate = -0.5", "14: bdev t: rate = -0.5: allowed: 0, or 0.000001 to 1"),
            ("rate = 1e-9", "14: bdev t: rate = 1e-9: allowed: 0, or 0.000001 to 1"),
            ("rate = nan", "14: bdev t: rate = nan: allowed: 0, or 0.000001 to 1"),
            ("length = 0", &format!("14: bdev t: length = 0: allowed: at least one byte; {sizes}")),
            ("offset = -1", &format!("14: bdev t: offset = -1: allowed: {sizes}")),
            (
                "offset = \"1MiB\"",
                "14: bdev t: offset = \"1MiB\": beyond the end of a, which has 1 MiB; make it less",
            ),
            ("seed = -1", "14: bdev t: seed = -1: allowed: a whole number from 0 to 2^63 - 1"),
        ],
    );
}

#[test]
fn refusals_of_files() {
    check_refusals(
        "type = \"aio\"\npath = \"/x\"\n",
        &[
            (
                "create_size = 512",
                "14: bdev t: create_size = 512: less than one block of 4096 bytes; make it larger",
            ),
            (
                "create_size = \"1M\"\nread_only = true",
                "14: bdev t: create_size = \"1M\": a file that is only read is not created; leave one of create_size and \
                 read_only out",
            ),
        ],
    );
    assert!(stacks("[[bdev]]\nname='x'\ntype='aio'\npath='/x'\nblock_size=512\ncreate_size=512\n").is_ok());
}

#[test]
fn a_key_in_the_file_is_never_repeated() {
    for key in ["key", "passphrase", "password", "secret"] {
        assert_eq!(
            refusal(&format!("type = \"crypto\"\nchild = \"a\"\n{key} = \"0badc0de\"")),
            format!(
                "s.toml:14: bdev t: {key}: a key is never written here; give the file that holds it as key_file, or its \
                 key_credential"
            )
        );
    }
}
