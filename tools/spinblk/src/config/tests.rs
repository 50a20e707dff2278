//! Tests of the configuration: both roads to the same `Config`, and the words of every refusal.

use proptest::prelude::*;

use super::*;
use crate::backend::NullReads;

const EXAMPLE: &str = include_str!("../../example.toml");

fn toml(text: &str) -> Result<Config, Error> {
    Config::from_toml(text, "s.toml")
}

fn flags(cores: &str, disks: &[&str]) -> Result<Config, Error> {
    let disks = disks.iter().map(ToString::to_string).collect();
    Config::from_flags(&Flags { cores: Some(cores.into()), disks, ..Flags::default() })
}

#[test]
fn the_example_is_a_configuration_with_every_key() {
    let config = toml(EXAMPLE).unwrap();
    assert_eq!(config.cores, [1, 2]);
    let names: Vec<&str> = config.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["ram0", "file0", "null0", "vm0", "vault0", "bad0", "archive0"]);
    let ram = BackendKind::Malloc { size_bytes: 256 << 20, block_size: 4096 };
    assert_eq!(
        config.disks[0].backend,
        Backend { name: "ram0".into(), place: "s.toml:13".into(), kind: ram }
    );
    let vduse = Via::Vduse {
        driver: BusDriver::VirtioVdpa,
        bounce_bytes: Some(64 << 20),
        packed: false,
        resume: true,
        state_dir: "/run/spinblk/inflight".into(),
    };
    assert_eq!(config.disks[0].via, vduse);
    let defaults = Via::Vduse {
        driver: BusDriver::VirtioVdpa,
        bounce_bytes: None,
        packed: false,
        resume: true,
        state_dir: "/run/spinblk/inflight".into(),
    };
    assert_eq!(config.disks[2].via, defaults);
    assert_eq!(config.disks[3].via, Via::VhostUser { socket: "/run/vm0.sock".into() });
    assert_eq!(config.disks[1].cores, [2]);
    let null = BackendKind::Null { size_bytes: 1 << 40, block_size: 512, reads: NullReads::Zeroes };
    assert_eq!(config.disks[2].backend.kind, null);
    assert_eq!(config.disks[2].cores, [1, 2]);
    assert_eq!(config.disks[2].serial, "null0");
    assert_eq!(config.unused, []);
    for key in [check::DISK_KEYS, check::REACTOR_KEYS, types::BDEV_KEYS].concat() {
        assert!(EXAMPLE.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
    }
}

#[test]
fn flags_and_file_give_the_same() {
    let from_flags = Config::from_flags(&Flags {
        cores: Some("1-2".into()),
        hugepages: Some("try".into()),
        lock_memory: Some("try".into()),
        disks: vec![
            "name=ram0,type=malloc,size=256MiB,block-size=4096,queues=2,queue-size=256,cores=1+2,serial=RAM-0001,\
             read-only=false,transport=vduse,driver=virtio-vdpa,bounce-size=64MiB,packed=false,resume=true,\
             state-dir=/run/spinblk/inflight"
                .into(),
            "name=file0,type=aio,path=/srv/disk.img,direct=auto,cores=2".into(),
            "name=null0,type=null,size=1TiB,reads=zeroes".into(),
            "name=vm0,type=malloc,size=1GiB,transport=vhost-user,socket=/run/vm0.sock".into(),
        ],
    });
    let (inline, _) = EXAMPLE.split_once("# A disk over a stack").unwrap();
    let mut from_file = toml(inline).unwrap();
    for disk in &mut from_file.disks {
        disk.backend.place.clear();
    }
    assert_eq!(from_flags.unwrap(), from_file);
}

#[test]
fn refusals_of_a_file_name_line_key_value_and_what_is_allowed() {
    let reactor = "[reactor]\ncores = [1, 2]\n[[disk]]\nname = \"d0\"\n";
    let null = "type = \"null\"\nsize = \"1M\"\n";
    let cases = [
        ("[reactor\n", "s.toml:1: unclosed table, expected `]`"),
        (
            "cores = [1]\n",
            "s.toml:1: cores: unknown; allowed at the top: [reactor], [control], [[bdev]], [[disk]]",
        ),
        ("[disks]\n", "s.toml:1: disks: unknown section; did you mean [[disk]]?"),
        ("[disk]\nname = \"d\"\n", "s.toml:1: disk: a list of tables is wanted: [[disk]], with two brackets"),
        ("", "s.toml:1: reactor: cores: is missing; name the cores that are to poll, one reactor each"),
        (
            "[reactor]\ncores = []\n",
            "s.toml:2: reactor: cores = []: allowed: core numbers from 0 to 1023, at least one",
        ),
        (
            "[reactor]\ncores = [1, -1]\n",
            "s.toml:2: reactor: cores = [1, -1]: allowed: core numbers from 0 to 1023, at least one",
        ),
        ("[reactor]\ncores = [3, 3]\n", "s.toml:2: reactor: cores = [3, 3]: core 3 is named twice"),
        (
            "[reactor]\ncores = [1]\nhugepages = true\n",
            "s.toml:3: reactor: hugepages = true: allowed: try, require, off",
        ),
        (
            "[reactor]\ncores = [1]\nhugepage = \"try\"\n",
            "s.toml:3: reactor: hugepage = \"try\": unknown key; did you mean hugepages?",
        ),
        ("[reactor]\ncores = [1]\n", "there is no disk to serve: add a [[disk]] section or a --disk flag"),
        (
            "[reactor]\ncores = [1]\n[[disk]]\n",
            "s.toml:3: disk number 1: name: is missing; it names the disk on the vDPA bus, for example \"d0\"",
        ),
    ];
    for (text, want) in cases {
        assert_eq!(toml(text).unwrap_err().one_line(), want, "{text}");
    }
    let disk_cases = [
        (
            "",
            "s.toml:3: disk d0: type: is missing; allowed: null, malloc, aio, or bdev = \"NAME\" of a [[bdev]]",
        ),
        (
            "type = \"raid0\"\n",
            "s.toml:5: disk d0: type = \"raid0\": allowed: null, malloc, aio; write a [[bdev]] of this type and give its \
             name as bdev = \"NAME\"",
        ),
        ("type = \"nul\"\n", "s.toml:5: disk d0: type = \"nul\": allowed: null, malloc, aio"),
        ("type = \"malloc\"\n", "s.toml:3: disk d0: size: is missing; for example \"256MiB\""),
        (
            "type = \"malloc\"\nsize = \"12 potatoes\"\n",
            "s.toml:6: disk d0: size = \"12 potatoes\": allowed: bytes or a number with KiB, MiB, GiB, TiB (also k, M, \
             G, T)",
        ),
        (
            "type = \"null\"\nsize = 511\n",
            "s.toml:6: disk d0: size = 511: less than one block of 512 bytes; make it larger",
        ),
        (
            "type = \"null\"\nsize = 1000\n",
            "s.toml:6: disk d0: size = 1000: allowed: a multiple of the block size of 512 bytes, below 8 EiB",
        ),
        (
            "type = \"aio\"\n",
            "s.toml:3: disk d0: path: is missing; type aio needs the path of a file or block device",
        ),
        (
            "type = \"aio\"\npath = \"/x\"\nsize = \"1G\"\n",
            "s.toml:7: disk d0: size = \"1G\": not for type aio, which has the size of its file; see `truncate`",
        ),
        (
            "type = \"malloc\"\nsize = \"1M\"\nreads = \"zeroes\"\n",
            "s.toml:7: disk d0: reads = \"zeroes\": only for type null",
        ),
        (
            "type = \"malloc\"\nsizes = \"1M\"\n",
            "s.toml:6: disk d0: sizes = \"1M\": unknown key; did you mean size?",
        ),
    ];
    for (text, want) in disk_cases {
        assert_eq!(toml(&format!("{reactor}{text}")).unwrap_err().one_line(), want, "{text}");
    }
    let null_cases = [
        ("queues = 0", "queues = 0: allowed: 1 to 64"),
        ("queues = \"2\"", "queues = \"2\": allowed: 1 to 64"),
        ("queues = 2.5", "queues = 2.5: allowed: 1 to 64"),
        ("queue_size = 100", "queue_size = 100: allowed: a power of two from 4 to 1024"),
        ("block_size = 8192", "block_size = 8192: allowed: 512, 1024, 2048, 4096"),
        ("cores = [1, 3]", "cores = [1, 3]: core 3 has no reactor; allowed: 1, 2"),
        (
            "serial = \"123456789012345678901\"",
            "serial = \"123456789012345678901\": allowed: at most 20 printable ASCII characters",
        ),
        ("serial = \"a\\nb\"", "serial = \"a\\nb\": allowed: at most 20 printable ASCII characters"),
        ("read_only = 1", "read_only = 1: allowed: true, false"),
        ("driver = \"vhost\"", "driver = \"vhost\": allowed: virtio-vdpa, vhost-vdpa"),
        ("resume = \"yes\"", "resume = \"yes\": allowed: true, false"),
        ("state_dir = \"run\"", "state_dir = \"run\": allowed: the absolute path of a folder, on a tmpfs"),
        ("bounce_size = \"2G\"", "bounce_size = \"2G\": allowed: 1MiB to 1GiB, a multiple of 1MiB"),
        ("packed = 1", "packed = 1: allowed: true, false"),
        ("direct = \"on\"", "direct = \"on\": only for type aio"),
        ("transport = \"vhost\"", "transport = \"vhost\": allowed: vduse, vhost-user"),
        ("socket = \"/x\"", "socket = \"/x\": only for transport vhost-user"),
        (
            "socket = \"\"\ntransport = \"vhost-user\"",
            "socket = \"\": allowed: the path of a unix socket, at most 107 bytes",
        ),
        (
            "driver = \"vhost-vdpa\"\nsocket = \"/x\"\ntransport = \"vhost-user\"",
            "driver = \"vhost-vdpa\": only for transport vduse",
        ),
        (
            "packed = true\nsocket = \"/x\"\ntransport = \"vhost-user\"",
            "packed = true: only for transport vduse",
        ),
    ];
    for (text, want) in null_cases {
        let error = toml(&format!("{reactor}{null}{text}\n")).unwrap_err().one_line();
        assert_eq!(error, format!("s.toml:7: disk d0: {want}"));
    }
}

#[test]
fn names_are_safe_for_the_kernel_and_not_taken_twice() {
    let config = |name: &str| {
        toml(&format!("[reactor]\ncores=[1]\n[[disk]]\nname = {name:?}\ntype='null'\nsize='1M'\n"))
    };
    for good in ["d0", "a.b_c-d", &"x".repeat(64)] {
        config(good).unwrap();
    }
    for bad in ["", "a/b", "..", ".x", "-x", "control", "d 0", "dé", &"x".repeat(65)] {
        let error = config(bad).unwrap_err().one_line();
        assert!(error.contains(": allowed: 1 to 64 letters, digits"), "{error}");
    }
    let disk = "[[disk]]\nname = \"d0\"\ntype = \"null\"\nsize = \"1M\"\n";
    let error = toml(&format!("[reactor]\ncores = [1]\n{disk}{disk}")).unwrap_err();
    assert_eq!(
        error.one_line(),
        "s.toml:8: disk d0: name = \"d0\": another disk has this name; give each its own"
    );
}

#[test]
fn a_vhost_user_disk_needs_a_socket_of_its_own() {
    let disk =
        |name: &str, socket: &str| format!("name={name},type=null,size=1M,transport=vhost-user{socket}");
    let error = flags("1", &[&disk("d0", "")]).unwrap_err().one_line();
    assert_eq!(
        error,
        "--disk d0: socket: is missing; transport vhost-user needs the path of its socket, for example \"/run/d0.sock\""
    );
    let twice = [disk("d0", ",socket=/run/d.sock"), disk("d1", ",socket=/run/d.sock")];
    let error = flags("1", &[&twice[0], &twice[1]]).unwrap_err().one_line();
    assert_eq!(error, "--disk d1: socket=/run/d.sock: another disk has this socket; give each its own");
}

#[test]
fn refusals_of_flags_name_disk_and_key() {
    let cases: [(&str, &[&str], &str); 12] = [
        ("1,1", &[], "--cores 1,1: core 1 is named twice"),
        ("1,x", &[], "--cores 1,x: allowed: core numbers from 0 to 1023, at least one"),
        (
            "1",
            &["name=d0,type=null,size=1M,queue-size=100"],
            "--disk d0: queue-size=100: allowed: a power of two from 4 to 1024",
        ),
        (
            "1",
            &["name=d0,type=null,size=1M,queue_sise=4"],
            "--disk d0: queue-sise=4: unknown key; did you mean queue-size?",
        ),
        ("1", &["name=d0,type=malloc"], "--disk d0: size: is missing; for example \"256MiB\""),
        (
            "1",
            &["type=null"],
            "--disk number 1: name: is missing; it names the disk on the vDPA bus, for example \"d0\"",
        ),
        ("1", &["name=d0,type=null,type=aio"], "--disk d0: type=aio: this key was given before"),
        ("1", &["name=d0,key=123,key=456"], "--disk d0: key: this key was given before"),
        (
            "1",
            &["name=d0,key=123"],
            "--disk d0: key: a key is never written here; give the file that holds it as key_file, or its key_credential",
        ),
        ("1", &["name=d0"], "--disk d0: type: is missing; allowed: null, malloc, aio"),
        (
            "1",
            &["name=d0,bdev=c0"],
            "--disk d0: bdev=c0: there are no bdevs; they are written in a file, see --config, or added with `ctl bdev add`",
        ),
        ("1", &["name=d0,ro"], "--disk d0: ro=: KEY=VALUE is wanted, with commas between"),
    ];
    for (cores, disks, want) in cases {
        assert_eq!(flags(cores, disks).unwrap_err().one_line(), want);
    }
    let error = Config::from_flags(&Flags { disks: vec!["name=d0".into()], ..Flags::default() }).unwrap_err();
    assert_eq!(error.one_line(), "--cores: is missing; name the cores that are to poll, one reactor each");
}

/// Texts that get past the TOML parser more often than noise does.
fn almost_toml() -> impl Strategy<Value = String> {
    let keys = [check::DISK_KEYS, check::REACTOR_KEYS, types::BDEV_KEYS, &["disk", "x"]].concat();
    let words =
        ["null", "malloc", "aio", "raid0", "crypto", "delay", "error", "try", "on", "a", "b", "c", "2ms"];
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        "\\PC{0,30}".prop_map(|text| format!("{text:?}")),
        "[0-9]{1,20}[kKMGTiB]{0,3}".prop_map(|size| format!("\"{size}\"")),
        prop::sample::select(words.to_vec()).prop_map(|word| format!("{word:?}")),
        prop::collection::vec(0..5u64, 0..4).prop_map(|cores| format!("{cores:?}")),
        prop::collection::vec("[abc]", 0..4).prop_map(|names| format!("{names:?}")),
        Just("{ a = 1 }".to_string()),
        Just("0xffffffffffffffffff".to_string()),
        Just("1979-05-27T07:32:00Z".to_string()),
    ];
    let section = vec!["[[disk]]", "[[bdev]]", "[reactor]", "[disk]", "[[reactor]]"];
    let line = prop_oneof![
        8 => (prop::sample::select(keys), value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => prop::sample::select(section).prop_map(String::from),
        2 => "[abc]".prop_map(|name| format!("[[bdev]]\nname = {name:?}")),
        1 => "[abc]".prop_map(|child| format!("type = \"delay\"\nlatency = \"1s\"\nchild = {child:?}")),
    ];
    prop::collection::vec(line, 0..16)
        .prop_map(|lines| format!("[reactor]\ncores = [1]\n[[disk]]\n{}", lines.join("\n")))
}

fn check_text(text: &str) {
    let stacks = stacks_from_toml(text, "s.toml").map(drop);
    for e in [toml(text).map(drop), stacks].into_iter().filter_map(Result::err) {
        let line = e.one_line();
        assert!(!line.contains('\n') && !line.is_empty(), "{line:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        check_text(&text);
    }

    #[test]
    fn no_text_close_to_a_configuration_makes_it_panic(text in almost_toml()) {
        check_text(&text);
        if let Some((_, bdevs)) = text.split_once("[[bdev]]") {
            check_text(&format!("[[bdev]]{bdevs}"));
        }
    }

    #[test]
    fn a_damaged_example_makes_no_panic(cut in 0..EXAMPLE.len(), len in 0..40usize, put in "\\PC{0,8}") {
        let (mut start, mut end) = (cut, (cut + len).min(EXAMPLE.len()));
        while !EXAMPLE.is_char_boundary(start) { start -= 1; }
        while !EXAMPLE.is_char_boundary(end) { end += 1; }
        check_text(&format!("{}{put}{}", &EXAMPLE[..start], &EXAMPLE[end..]));
    }

    #[test]
    fn no_flag_makes_the_parser_panic(cores in "\\PC{0,12}|[0-9,+-]{0,12}", disk in "\\PC{0,40}|(name|size|type|cores)=[a-z0-9,=+-]{0,30}") {
        let _ = flags(&cores, &[&disk]);
    }
}
