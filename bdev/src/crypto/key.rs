//! Keys, and where they come from.
//!
//! A key is in the file that its owner made and, while its disk is there, in one locked page; nothing else in this
//! process holds a copy but the ciphers' own schedules. It is read straight into that page, and no message says
//! anything of its contents.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::locked::{Locked, wipe};
use crate::Error;

/// Two keys of AES-256: one for the data, one for the tweak.
const KEY_BYTES: usize = 64;
/// Permissions that a key file must not give.
const CLOSED_TO_OTHERS: u32 = 0o077;
/// The service manager lets the service's user read a credential through an access list, which shows as a right of the
/// group's.
const CLOSED_BUT_FOR_READING_GROUP: u32 = 0o037;
/// More is no key, whatever it is.
const MAX_FILE_BYTES: usize = 4096;

/// A key for AES-256-XTS.
pub struct XtsKey(Locked);

impl XtsKey {
    /// Reads the key of disk `name` from a file: 64 bytes as they are (what `cryptsetup --key-size 512 --key-file`
    /// takes) or 128 hex digits, on a line of their own if you like. The file must belong to root or to the user who
    /// runs this, and be closed to everybody else.
    ///
    /// # Errors
    /// [`Error::Key`] says what is wrong and what to do.
    pub fn from_file(name: &str, path: &Path) -> Result<Self, Error> {
        Self::load(name, path, CLOSED_TO_OTHERS).map_err(|why| Error::Key {
            name: name.into(),
            source_name: path.display().to_string(),
            why,
        })
    }

    /// Reads the key of disk `name` from the credential that the service manager has passed under the name
    /// `credential`; the rules are those of [`XtsKey::from_file`], but that the group may read it, too.
    ///
    /// # Errors
    /// [`Error::Key`] says what is wrong and what to do.
    pub fn from_credential(name: &str, credential: &str) -> Result<Self, Error> {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
        let load = |path: PathBuf| Self::load(name, &path, CLOSED_BUT_FOR_READING_GROUP);
        credential_path(directory.as_deref(), credential).and_then(load).map_err(|why| Error::Key {
            name: name.into(),
            source_name: format!("credential {credential}"),
            why,
        })
    }

    /// The data's key, then the tweak's.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0.bytes()[..KEY_BYTES]
    }

    fn load(name: &str, path: &Path, forbidden: u32) -> Result<Self, String> {
        // A FIFO would hold up the open; O_NONBLOCK means nothing to a regular file.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        let file = file.map_err(|error| format!("cannot open it: {error}"))?;
        check_file(&file, path, forbidden)?;
        let mut page = Locked::new(&format!("disk {name}: key"))?;
        let len_bytes = read(&file, page.bytes_mut()).map_err(|error| format!("cannot read it: {error}"))?;
        parse(page.bytes_mut(), len_bytes)?;
        Ok(Self(page))
    }
}

impl std::fmt::Debug for XtsKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("XtsKey(..)")
    }
}

/// Where a credential lies. Its name must not lead anywhere else.
fn credential_path(directory: Option<&OsStr>, credential: &str) -> Result<PathBuf, String> {
    let mut components = Path::new(credential).components();
    let plain = matches!(components.next(), Some(Component::Normal(only)) if only == credential);
    if !plain || components.next().is_some() {
        return Err("a credential's name is a plain file name, without slashes".into());
    }
    let Some(directory) = directory else {
        return Err(format!(
            "CREDENTIALS_DIRECTORY is not set; run this as a service with `LoadCredential={credential}:/path/to/key` \
             in its unit, or name a key file"
        ));
    };
    Ok(Path::new(directory).join(credential))
}

/// Refuses what is no file, and files that others can read or have written.
fn check_file(file: &File, path: &Path, forbidden: u32) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| format!("cannot stat it: {error}"))?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    let user = nix::unistd::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != user {
        let owner = metadata.uid();
        return Err(format!(
            "it belongs to user {owner}, who can change it; run `chown {user} {}`",
            path.display()
        ));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(format!("mode {mode:04o} opens it to other users; run `chmod 600 {}`", path.display()));
    }
    Ok(())
}

/// Reads the file into `page`, with no buffer between, until it ends or the page is full.
fn read(mut file: &File, page: &mut [u8]) -> std::io::Result<usize> {
    let most_bytes = page.len().min(MAX_FILE_BYTES);
    let mut len_bytes = 0;
    while len_bytes < most_bytes {
        match file.read(&mut page[len_bytes..most_bytes]) {
            Ok(0) => break,
            Ok(count) => len_bytes += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len_bytes)
}

/// Turns what was read, the first `len_bytes` of `page`, into a key at the page's start, and wipes the rest.
fn parse(page: &mut [u8], len_bytes: usize) -> Result<(), String> {
    let content = &page[..len_bytes];
    if hex_digits(content) == Some(2 * KEY_BYTES) {
        for index in 0..KEY_BYTES {
            page[index] = nibble(page[2 * index]) << 4 | nibble(page[2 * index + 1]);
        }
    } else if len_bytes != KEY_BYTES {
        return Err(wrong_length(content));
    }
    wipe(&mut page[KEY_BYTES..]);
    let (data_key, tweak_key) = page[..KEY_BYTES].split_at(KEY_BYTES / 2);
    if data_key == tweak_key {
        return Err("its two halves are equal, which XTS forbids; make a new one from random bytes".into());
    }
    Ok(())
}

/// How many hex digits `content` consists of, a newline at the end not counted; `None` if there is anything else in it.
fn hex_digits(content: &[u8]) -> Option<usize> {
    let digits = content.strip_suffix(b"\n").unwrap_or(content);
    digits.iter().all(u8::is_ascii_hexdigit).then_some(digits.len())
}

/// The value of a hex digit, without a table that a cache could tell of.
fn nibble(digit: u8) -> u8 {
    (digit & 15) + 9 * (digit >> 6)
}

fn wrong_length(content: &[u8]) -> String {
    const WANTED: &str = "AES-256-XTS takes 64 random bytes or 128 hex digits";
    match (content.len(), hex_digits(content)) {
        (0, _) => format!("it is empty; {WANTED}"),
        (32, _) | (_, Some(64)) => format!("a key of 32 bytes is one for AES-128-XTS; {WANTED}"),
        (65, _) if content.ends_with(b"\n") => {
            "64 bytes and a newline at the end; take the newline off with `truncate -s 64 FILE`".into()
        }
        (_, Some(count)) => format!("it has {count} hex digits; {WANTED}"),
        (MAX_FILE_BYTES, _) => format!("it has {MAX_FILE_BYTES} bytes or more; {WANTED}"),
        (128 | 129, None) => format!("its 128 characters are not all hex digits; {WANTED}"),
        (count, None) => format!("it has {count} bytes; {WANTED}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(content: &[u8]) -> Result<Vec<u8>, String> {
        let mut page = vec![0; MAX_FILE_BYTES];
        page[..content.len()].copy_from_slice(content);
        parse(&mut page, content.len())?;
        assert!(page[KEY_BYTES..].iter().all(|&byte| byte == 0), "more than the key is left");
        Ok(page[..KEY_BYTES].to_vec())
    }

    #[test]
    fn hex_digits_of_either_case_give_the_bytes() {
        let key: Vec<u8> = (0..64).map(|byte: u8| byte.wrapping_mul(37)).collect();
        let lower: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(parsed(&key).unwrap(), key);
        assert_eq!(parsed(lower.as_bytes()).unwrap(), key);
        assert_eq!(parsed((lower.to_uppercase() + "\n").as_bytes()).unwrap(), key);
        assert_eq!((b'0'..=b'9').map(nibble).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_credential_leads_into_its_directory_and_nowhere_else() {
        let path = |credential| credential_path(Some(OsStr::new("/run/c")), credential);
        assert_eq!(path("disk.key").unwrap(), Path::new("/run/c/disk.key"));
        for bad in ["", ".", "..", "../key", "/etc/shadow", "a/b", "a/", "./a", "a/."] {
            assert!(path(bad).unwrap_err().contains("plain file name"), "{bad:?}");
        }
        assert!(credential_path(None, "k").unwrap_err().contains("LoadCredential=k:"));
    }

    #[test]
    fn only_a_credential_may_be_read_by_the_group() {
        use std::os::unix::fs::PermissionsExt;

        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &(0..64).collect::<Vec<u8>>()).unwrap();
        for (mode, plain, credential) in
            [(0o400, true, true), (0o440, false, true), (0o460, false, false), (0o404, false, false)]
        {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let load = |forbidden| XtsKey::load("c0", file.path(), forbidden);
            assert_eq!(load(CLOSED_TO_OTHERS).is_ok(), plain, "{mode:o}");
            assert_eq!(load(CLOSED_BUT_FOR_READING_GROUP).is_ok(), credential, "{mode:o}");
        }
    }

    #[test]
    fn the_key_lies_in_locked_memory() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &(0..64).collect::<Vec<u8>>()).unwrap();
        let key = XtsKey::from_file("c0", file.path()).unwrap();
        assert_eq!(key.bytes(), (0..64).collect::<Vec<u8>>());
        assert!(crate::crypto::locked::is_locked(key.bytes().as_ptr().addr()));
    }
}
