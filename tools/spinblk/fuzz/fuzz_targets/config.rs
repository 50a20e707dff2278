//! A hostile configuration file: any text, with any names that lead anywhere. Reading it must end in stacks or in one line
//! that is not much longer than what it quotes, without a panic, without end or with a recursion that the text decides;
//! the address sanitizer watches the stack, the fuzzer the time.
#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use spinblk_cli::Error;
use spinblk_cli::config::{Backend, Config, Stack, stacks_from_toml};

const MAX_LEVELS: usize = 32;
const MAX_CHILDREN: usize = 32;

/// A quoted letter may take ten (`\u{10ffff}`), and a value is quoted twice at most; lists of what is allowed come on top.
fn check_message(error: &Error, text: &str) {
    let line = error.one_line();
    assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
    assert!(line.len() <= 20 * text.len() + 1024, "{} bytes of message for {}", line.len(), text.len());
}

/// Each bdev is in one place only, and no stack is deeper than configurations may be.
fn check_tree<'a>(top: &'a Backend, level: usize, seen: &mut HashSet<&'a str>) {
    assert!(level <= MAX_LEVELS && top.children().len() <= MAX_CHILDREN);
    assert!(!top.place.is_empty() && seen.insert(&top.name), "{top:?}");
    for child in top.children() {
        check_tree(child, level + 1, seen);
    }
}

fn check_stacks(stacks: &[Stack]) {
    // Disks that say themselves what they are have names of their own, which bdevs may have, too.
    let mut seen = HashSet::new();
    for stack in stacks.iter().filter(|stack| stack.disk.as_deref() != Some(&stack.top.name)) {
        check_tree(&stack.top, 1, &mut seen);
    }
}

/// What is saved is read again, and is saved as the same.
fn check_saved(config: &Config) {
    let saved = config.to_toml();
    let again = Config::from_toml(&saved, "saved.toml").unwrap_or_else(|error| panic!("{error}\n{saved}"));
    assert_eq!(again.to_toml(), saved);
}

fuzz_target!(|text: &str| {
    match stacks_from_toml(text, "s.toml") {
        Ok(stacks) => check_stacks(&stacks),
        Err(error) => check_message(&error, text),
    }
    match Config::from_toml(text, "s.toml") {
        Ok(config) => {
            assert!(!config.disks.is_empty() || config.control.socket.is_some());
            assert!(!config.cores.is_empty());
            check_saved(&config);
            check_stacks(&config.into_stacks());
        }
        Err(error) => check_message(&error, text),
    }
});
