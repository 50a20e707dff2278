//! Changes of a daemon that runs, over its own control socket, with vhost-user disks that are read and written.

// The functions below that are no tests themselves may fail like tests.
#![allow(clippy::unwrap_used, missing_docs)]

mod change_rig;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use change_rig::{Daemon, LIMIT, disk_keys, load, requests, verify};
use serde_json::{Value, json};

#[test]
fn a_disk_comes_is_used_and_goes() {
    let daemon = Daemon::start("");
    let mut client = daemon.client();
    let added = client.call("disk_add", json!({ "keys": disk_keys(&daemon, "d1") })).unwrap();
    let socket = daemon.at("d1.sock");
    let want = json!({ "name": "d1", "type": "malloc", "path": socket, "transport": "vhost-user", "size_bytes": 8 << 20,
        "block_size": 512, "read_only": false, "attached": false, "queue_size": 256,
        "queues": [{ "index": 0, "core": daemon.core }] });
    assert_eq!(added["disk"], want);
    assert_eq!(client.call("disks", json!({})).unwrap()["disks"][1], want);
    assert_eq!(client.call("bdevs", json!({})).unwrap()["bdevs"][1]["name"], "d1");
    verify(&daemon, "d1");
    let stats = client.call("stats", json!({ "disk": "d1" })).unwrap();
    assert!(stats["disks"][0]["queues"][0]["requests"].as_u64().unwrap() > 0, "{stats}");
    assert!(daemon.metrics().contains("spinblk_disk_size_bytes{disk=\"d1\"} 8388608"));

    let removed = client.call("disk_remove", json!({ "disk": "d1" })).unwrap();
    assert_eq!(removed, json!({ "disk": "d1", "problems": [] }));
    assert_eq!(client.call("disks", json!({})).unwrap()["disks"].as_array().unwrap().len(), 1);
    assert_eq!(client.call("bdevs", json!({})).unwrap()["bdevs"].as_array().unwrap().len(), 1);
    assert!(client.call("stats", json!({ "disk": "d1" })).is_err());
    assert!(!daemon.metrics().contains("d1") && !daemon.at("d1.sock").exists());
    // The name and the socket are free again, and so is everything that the first disk held.
    for _ in 0..3 {
        client.call("disk_add", json!({ "keys": disk_keys(&daemon, "d1") })).unwrap();
        client.call("disk_remove", json!({ "disk": "d1" })).unwrap();
    }
    verify(&daemon, "d0");
    let report = daemon.stop();
    let names: Vec<&str> =
        report["disks"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["d1", "d1", "d1", "d1", "d0"]);
    assert!(report["disks"][0]["ops"]["write"]["ios"].as_u64().unwrap() > 0);
}

#[test]
fn bdevs_wait_for_disks_and_stay_behind() {
    let daemon = Daemon::start("");
    let mut client = daemon.client();
    let image = daemon.at("a.img");
    // Checked and held, not opened: the file is not there yet.
    let text = format!("[[bdev]]\nname = \"a\"\ntype = \"aio\"\npath = {image:?}\ncreate_size = \"8MiB\"\n");
    assert_eq!(client.call("bdev_add", json!({ "toml": text })).unwrap(), json!({ "bdevs": ["a"] }));
    client.call("bdev_add", json!({ "flags": "name=slow,type=delay,child=a,latency=1us" })).unwrap();
    let unused = |client: &mut change_rig::Client| client.call("bdevs", json!({})).unwrap()["unused"].clone();
    assert_eq!(unused(&mut client), json!([{ "name": "slow", "type": "delay" }]));
    assert!(!image.exists());
    let refused = |client: &mut change_rig::Client, method: &str, params: Value| {
        let error = client.call(method, params).unwrap_err();
        assert_eq!(error["code"], -32004, "{error}");
        error["message"].as_str().unwrap().to_string()
    };
    assert_eq!(
        refused(&mut client, "bdev_remove", json!({ "bdev": "a" })),
        "bdev a is used by bdev slow; remove that first"
    );

    let socket = daemon.at("d1.sock");
    let disk = json!({ "name": "d1", "bdev": "slow", "transport": "vhost-user", "socket": socket });
    client.call("disk_add", json!({ "keys": disk })).unwrap();
    assert_eq!((image.metadata().unwrap().len(), unused(&mut client)), (8 << 20, json!([])));
    assert_eq!(client.call("bdevs", json!({})).unwrap()["bdevs"][1]["children"][0]["name"], "a");
    assert_eq!(
        refused(&mut client, "bdev_remove", json!({ "bdev": "slow" })),
        "bdev slow is used by disk d1; remove that first"
    );
    verify(&daemon, "d1");
    let why = refused(&mut client, "resize", json!({ "disk": "d1", "size_bytes": 4096 }));
    assert!(why.starts_with("bdev a: cannot be resized: 4096 bytes are less"), "{why}");
    let grown = client.call("resize", json!({ "disk": "d1", "size_bytes": 16 << 20 })).unwrap();
    assert_eq!((&grown["bdev"], &grown["disk_size_bytes"]), (&json!("slow"), &json!(16 << 20)));
    assert_eq!(image.metadata().unwrap().len(), 16 << 20);
    // Its file's lock goes with it: the same stack is opened again, and knows the size that it has now.
    client.call("disk_remove", json!({ "disk": "d1" })).unwrap();
    let again = client.call("disk_add", json!({ "keys": disk })).unwrap();
    assert_eq!(again["disk"]["size_bytes"], 16 << 20);
    client.call("disk_remove", json!({ "disk": "d1" })).unwrap();
    for bdev in ["slow", "a"] {
        client.call("bdev_remove", json!({ "bdev": bdev })).unwrap();
    }
    assert_eq!(unused(&mut client), json!([]));
    daemon.stop();
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let daemon = Daemon::start("[[bdev]]\nname = \"spare\"\ntype = \"null\"\nsize = \"1MiB\"\n");
    let mut client = daemon.client();
    let before = client.call("save_config", json!({})).unwrap();
    let with = |key: &str, value: Value| {
        let mut keys = disk_keys(&daemon, "d1");
        keys[key] = value;
        json!({ "keys": keys })
    };
    let no_core = if daemon.core == 0 { 1 } else { 0 };
    let only = format!("core {no_core} has no reactor; allowed: {}", daemon.core);
    let in_use = daemon.at("d0.sock");
    let socket = daemon.at("d1.sock");
    let no_file =
        format!("name=d1,type=aio,path=/no/such/file,transport=vhost-user,socket={}", socket.display());
    std::fs::write(daemon.at("file"), "text").unwrap();
    let cases = [
        ("disk_add", with("name", json!("d0")), "another disk has this name"),
        ("disk_add", with("queue", json!(2)), "unknown key; did you mean queues?"),
        ("disk_add", with("cores", json!([no_core])), &only),
        ("disk_add", with("socket", json!(in_use)), "another disk has this socket"),
        ("disk_add", with("socket", json!(daemon.at("control.sock"))), "disk d1"),
        ("disk_add", with("socket", json!(daemon.at("file"))), "exists and is not a socket"),
        ("disk_add", with("socket", json!(daemon.at("no/d1.sock"))), "make its directory first"),
        ("disk_add", json!({ "flags": no_file }), "No such file"),
        ("disk_add", json!({ "toml": "[reactor]\ncores = [0]\n" }), "fixed at the start"),
        ("disk_remove", json!({ "disk": "d1" }), "there is no disk d1; there are: d0"),
        ("bdev_add", json!({ "flags": "name=spare,type=null,size=1M" }), "another bdev has this name"),
        (
            "bdev_add",
            json!({ "keys": { "name": "c", "type": "crypto", "child": "spare", "key": "secret" } }),
            "a key is never written here",
        ),
        ("bdev_remove", json!({ "bdev": "d0" }), "there is no unused bdev d0; there are: spare"),
        ("resize", json!({ "disk": "d7" }), "there is no disk d7; there are: d0"),
        ("resize", json!({ "bdev": "spare" }), "no disk stands on a bdev \"spare\""),
        ("save_config", json!({ "path": "/dev/null" }), "not a regular file"),
        ("save_config", json!({ "path": daemon.at("") }), "not a regular file"),
        ("save_config", json!({ "path": daemon.at("no/s.toml") }), "No such file"),
    ];
    for (method, params, why) in cases {
        let error = client.call(method, params.clone()).unwrap_err();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(why) && !message.contains("secret"), "{method} {params}: {message}");
        assert_eq!(error["code"], -32004, "{message}");
    }
    assert_eq!(client.call("save_config", json!({})).unwrap(), before);
    assert_eq!(client.call("disks", json!({})).unwrap()["disks"].as_array().unwrap().len(), 1);
    assert_eq!(std::fs::read(daemon.at("file")).unwrap(), b"text");
    verify(&daemon, "d0");
    daemon.stop();
}

#[test]
fn a_disk_is_removed_under_load_while_others_ask() {
    let daemon = Daemon::start("");
    let mut client = daemon.client();
    client.call("disk_add", json!({ "keys": disk_keys(&daemon, "d1") })).unwrap();
    let mut load = load(&daemon, "d1");
    let give_up = Instant::now() + LIMIT;
    let mut remover = daemon.client();
    remover.ask("disk_remove", json!({ "disk": "d1" }));
    // Another client is answered all the time, until the disk is gone.
    while requests(&mut client, "d1").is_some() {
        assert!(Instant::now() < give_up);
    }
    assert_eq!(remover.answer().unwrap()["result"], json!({ "disk": "d1", "problems": [] }));
    load.kill().unwrap();
    load.wait().unwrap();
    verify(&daemon, "d0");
    let report = daemon.stop();
    assert!(report["disks"][0]["ops"]["write"]["ios"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn many_changes_are_made_one_after_the_other_and_clients_may_leave() {
    let daemon = Daemon::start("");
    let mut poller = daemon.client();
    // One leaves at once, one with its last words unread, the others wait.
    let mut clients: Vec<_> = (1..=6).map(|_| daemon.client()).collect();
    for (n, client) in (1..).zip(&mut clients) {
        client.ask("disk_add", json!({ "keys": disk_keys(&daemon, &format!("n{n}")) }));
    }
    clients[1].stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop(clients.remove(0));
    for client in &mut clients {
        poller.call("stats", json!({})).unwrap();
        assert!(client.answer().unwrap()["result"]["disk"]["attached"] == false);
    }
    let give_up = Instant::now() + LIMIT;
    while poller.call("disks", json!({})).unwrap()["disks"].as_array().unwrap().len() < 7 {
        assert!(Instant::now() < give_up, "the change of the client that left is not made");
    }
    // Requests behind a change on one connection wait for it, in their order.
    let mut client = daemon.client();
    client.ask("disk_remove", json!({ "disk": "n1" }));
    client.ask("disks", json!({}));
    client.notify("disk_remove", json!({ "disk": "n2" }));
    client.ask("disks", json!({}));
    let lens = [(); 3].map(|()| client.answer().unwrap()["result"]["disks"].as_array().map(Vec::len));
    assert_eq!(lens, [None, Some(6), Some(5)]);
    daemon.stop();
}

#[test]
fn a_full_queue_is_told() {
    let daemon = Daemon::start("");
    let mut clients: Vec<_> = (0..64).map(|_| daemon.client()).collect();
    // All at once: one is made, a few wait, and there is an answer for everybody.
    for (n, client) in clients.iter_mut().enumerate() {
        client.ask("disk_add", json!({ "keys": disk_keys(&daemon, &format!("n{n}")) }));
    }
    let answers: Vec<Value> = clients.iter_mut().map(|client| client.answer().unwrap()).collect();
    let made = answers.iter().filter(|answer| answer["result"]["disk"].is_object()).count();
    let busy = answers.iter().filter(|answer| answer["error"]["code"] == -32003).count();
    assert_eq!(made + busy, 64, "{answers:?}");
    assert!(made > 0);
    assert_eq!(clients[0].call("disks", json!({})).unwrap()["disks"].as_array().unwrap().len(), made + 1);
    daemon.stop();
}

#[test]
fn a_saved_configuration_starts_the_same_disks() {
    let mut daemon = Daemon::start("[[bdev]]\nname = \"spare\"\ntype = \"null\"\nsize = \"1MiB\"\n");
    let image = daemon.at("a, b.img");
    std::fs::write(&image, vec![0; 1 << 20]).unwrap();
    let path = image.display().to_string().replace(',', ",,");
    let keys = format!(
        "name=d1,type=aio,path={path},serial=A B,transport=vhost-user,socket={}",
        daemon.at("d1.sock").display()
    );
    assert!(
        daemon
            .ctl(&["disk", "add", &keys])
            .starts_with(&format!("d1: {}, aio 1 MiB, 1 queue(s)", daemon.at("d1.sock").display()))
    );
    let file = daemon.at("d2.toml");
    let text = format!(
        "[[bdev]]\nname = \"e\"\ntype = \"error\"\nchild = \"spare\"\nrate = 0\n\
                        [[disk]]\nname = \"d2\"\nbdev = \"e\"\ntransport = \"vhost-user\"\nsocket = {:?}\n",
        daemon.at("d2.sock")
    );
    std::fs::write(&file, text).unwrap();
    daemon.ctl(&["disk", "add", "--file", file.to_str().unwrap()]);
    assert_eq!(daemon.ctl(&["bdev", "add", "name=b,type=null,size=1M"]), "b: added, for disks to stand on\n");
    assert!(daemon.ctl(&["bdevs"]).contains("b (null): no disk stands on it"));
    assert_eq!(daemon.ctl(&["disk", "remove", "d0"]), "d0: removed\n");

    let saved = daemon.at("saved.toml");
    std::fs::write(&saved, "old").unwrap();
    assert_eq!(
        daemon.ctl(&["save-config", saved.to_str().unwrap()]),
        format!("saved to {}\n", saved.display())
    );
    assert_eq!(saved.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&saved).unwrap();
    assert_eq!(daemon.ctl(&["save-config"]), text);
    assert_eq!(daemon.json(&["save-config"])["toml"], text);
    assert!(daemon.fails(&["resize", "d1", "512KiB"]).contains("the daemon refuses resize: bdev d1: "));
    assert!(daemon.fails(&["resize", "d1", "2 potatoes"]).contains("wanted: bytes or a number"));
    assert!(daemon.fails(&["disk", "add"]).contains("required"));
    assert!(
        daemon
            .fails(&["disk", "add", "--file", "/no/file"])
            .contains("cannot read the configuration /no/file")
    );
    assert_eq!(
        daemon.fails(&["bdev", "remove", "spare"]),
        "error: the daemon refuses bdev_remove: bdev spare is used by bdev e; remove that first\n"
    );
    let (disks, bdevs) = (daemon.json(&["disks"]), daemon.json(&["bdevs"]));

    daemon = daemon.restart(&saved);
    assert_eq!((daemon.json(&["disks"]), daemon.json(&["bdevs"])), (disks, bdevs));
    assert_eq!(daemon.ctl(&["save-config"]), text);
    assert_eq!(daemon.ctl(&["bdev", "remove", "b"]), "b: removed\n");
    // A client of a disk that goes loses its connection.
    let mut guest = UnixStream::connect(daemon.at("d1.sock")).unwrap();
    daemon.ctl(&["disk", "remove", "d1"]);
    assert_eq!(std::io::Read::read(&mut guest, &mut [0]).unwrap_or(0), 0);
    // The last disk may go as well; there is a socket to add others.
    daemon.ctl(&["disk", "remove", "d2"]);
    assert_eq!(daemon.json(&["disks"])["disks"], json!([]));
    daemon.stop();
}

#[test]
fn a_signal_ends_the_daemon_after_the_change() {
    let daemon = Daemon::start("");
    let mut client = daemon.client();
    client.ask("disk_add", json!({ "keys": disk_keys(&daemon, "d1") }));
    let report = daemon.stop();
    // Whether the change came first or the signal, all is put away; who was answered has had its disk.
    let added = client.answer().is_some_and(|answer| answer["result"]["disk"].is_object());
    assert_eq!(report["disks"].as_array().unwrap().len(), 1 + usize::from(added), "{report}");
}
