//! Who runs a command inside: looked up in the container's own `etc/passwd` and `etc/group`.
//!
//! The parser is pure; the files are the container's and are read as such (`devbroker::accounts::bytes`).

use devbroker::accounts::{self, AccountsError};
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;

/// The shell of an account that names none (`passwd(5)`).
const SHELL: &str = "/bin/sh";

/// A user inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its name; the number where it has none.
    pub(crate) name: String,
    /// User id.
    pub(crate) uid: u32,
    /// Primary group.
    pub(crate) gid: u32,
    /// All other groups.
    pub(crate) groups: Vec<u32>,
    /// Home folder.
    pub(crate) home: String,
    /// Login shell.
    pub(crate) shell: String,
}

/// Who is asked for: a name or a number, and perhaps a group, `USER[:GROUP]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    user: String,
    group: Option<String>,
}

impl Wanted {
    /// The container's root.
    pub(crate) fn root() -> Self {
        Self {
            user: "root".into(),
            group: None,
        }
    }
}

/// A text that can name no user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no user; write USER, USER:GROUP, or numbers")]
pub(crate) struct WantedError(String);

impl FromStr for Wanted {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let sound = |name: &str| !name.is_empty() && !name.contains([':', '\n', '\0']);
        if sound(user) && group.is_none_or(sound) {
            Ok(Self {
                user: user.into(),
                group: group.map(String::from),
            })
        } else {
            Err(WantedError(text.into()))
        }
    }
}

/// A user that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    /// The container has no such user.
    #[error("the container has no user `{0}` in its /etc/passwd; a number works without")]
    NoUser(String),
    /// The container has no such group.
    #[error("the container has no group `{0}` in its /etc/group; a number works without")]
    NoGroup(String),
    /// One of its files cannot be read.
    #[error("cannot read /{file} of the container: {why}")]
    File { file: &'static str, why: String },
}

impl From<AccountsError> for AccountError {
    fn from(error: AccountsError) -> Self {
        match error {
            AccountsError::Io { file, source } => Self::file(file, &source),
            AccountsError::NotAFile { file } => Self::File {
                file,
                why: "it is no ordinary file".into(),
            },
            AccountsError::TooLong { file } => Self::File {
                file,
                why: "it has more than 1 MiB".into(),
            },
        }
    }
}

impl AccountError {
    fn file(file: &'static str, source: &io::Error) -> Self {
        Self::File {
            file,
            why: source.to_string(),
        }
    }
}

/// Looks a user up below the root file system `root`, as the container sees it.
pub(crate) fn look_up(root: &impl AsFd, wanted: &Wanted) -> Result<Account, AccountError> {
    find(
        &accounts::bytes(root, "etc/passwd")?,
        &accounts::bytes(root, "etc/group")?,
        wanted,
    )
}

/// The fields of the lines of `passwd(5)` or `group(5)`; what is not text is nobody.
fn lines(text: &[u8]) -> impl Iterator<Item = Vec<&str>> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter(|line| !line.starts_with(['+', '-', '#']) && !line.contains('\0'))
        .map(|line| line.split(':').collect())
}

/// A number as ids have it; the highest means "no change" to the kernel.
fn id(text: &str) -> Option<u32> {
    text.bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
        .filter(|id| *id != u32::MAX)
}

fn find(passwd: &[u8], group: &[u8], wanted: &Wanted) -> Result<Account, AccountError> {
    let number = id(&wanted.user);
    let found = lines(passwd).find_map(|fields| match fields.as_slice() {
        [name, _, uid, gid, _, home, shell, ..] => {
            let (uid, gid) = (id(uid)?, id(gid)?);
            let meant = *name == wanted.user || number == Some(uid);
            let or = |given: &str, usual: &str| {
                if given.starts_with('/') {
                    given.to_owned()
                } else {
                    usual.to_owned()
                }
            };
            (meant && !name.is_empty()).then(|| Account {
                name: (*name).into(),
                uid,
                gid,
                groups: Vec::new(),
                home: or(home, "/"),
                shell: or(shell, SHELL),
            })
        }
        _ => None,
    });
    let mut account = match (found, number) {
        // Root is root, whatever the container's file says.
        (Some(account), _) if account.uid == 0 || wanted.user != "root" => account,
        (_, _) if wanted.user == "root" => bare("root", 0, "/root"),
        (Some(account), _) => account,
        // A number needs no name, and is its own group.
        (None, Some(uid)) => bare(&wanted.user, uid, "/"),
        (None, None) => return Err(AccountError::NoUser(wanted.user.clone())),
    };
    if let Some(name) = &wanted.group {
        account.gid = lines(group)
            .find_map(|fields| match fields.as_slice() {
                [found, _, gid, ..] if found == name => id(gid),
                _ => None,
            })
            .or_else(|| id(name))
            .ok_or_else(|| AccountError::NoGroup(name.clone()))?;
    }
    account.groups = lines(group)
        .filter_map(|fields| match fields.as_slice() {
            [_, _, gid, members, ..] if members.split(',').any(|member| member == account.name) => id(gid),
            _ => None,
        })
        .filter(|gid| *gid != account.gid)
        .take(MAX_GROUPS)
        .collect();
    account.groups.sort_unstable();
    account.groups.dedup();
    Ok(account)
}

/// How many groups a process may have (`NGROUPS_MAX`, `getgroups(2)`).
const MAX_GROUPS: usize = 65_536;

fn bare(name: &str, uid: u32, home: &str) -> Account {
    Account {
        name: name.into(),
        uid,
        gid: uid,
        groups: Vec::new(),
        home: home.into(),
        shell: SHELL.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\nbad\nann:x:1000:1000:Ann:/home/ann:\n\
        odd:x:-1:5::/:/bin/sh\nrel:x:7:7::home:sh\n\xff:x:8:8::/:/bin/sh\nann:x:2:2::/x:/bin/x\n+nis:x:9:9::/:/bin/sh\n";
    const GROUP: &[u8] =
        b"root:x:0:\nann:x:1000:\nlp:x:7:ann,root\nscan:x:120:bob,ann\nnone:x:4294967295:ann\n";

    fn found(user: &str) -> Result<Account, String> {
        find(PASSWD, GROUP, &user.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn users_are_found() {
        assert_eq!(
            found("ann"),
            Ok(Account {
                name: "ann".into(),
                uid: 1000,
                gid: 1000,
                groups: vec![7, 120],
                home: "/home/ann".into(),
                shell: "/bin/sh".into()
            })
        );
        assert_eq!(found("1000"), found("ann"));
        let shown = |user| {
            let account = found(user)?;
            Ok::<_, String>(format!(
                "{} {}:{} {:?} {} {}",
                account.name, account.uid, account.gid, account.groups, account.home, account.shell
            ))
        };
        for (user, expected) in [
            ("root", "root 0:0 [7] /root /bin/bash"),
            ("ann:lp", "ann 1000:7 [120] /home/ann /bin/sh"),
            ("ann:55", "ann 1000:55 [7, 120] /home/ann /bin/sh"),
            ("rel", "rel 7:7 [] / /bin/sh"),
            ("4711", "4711 4711:4711 [] / /bin/sh"),
        ] {
            assert_eq!(shown(user).as_deref(), Ok(expected));
        }
        for user in ["odd", "nis", "+nis", "bob", "bad", "4294967295"] {
            assert!(found(user).unwrap_err().contains("no user"), "{user}");
        }
        assert!(found("ann:wheel").unwrap_err().contains("no group"));
        for bad in ["", ":", "a:", ":b", "a:b:c"] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }

    #[test]
    fn root_is_root() {
        let root = |passwd: &[u8]| find(passwd, b"", &Wanted::root()).unwrap();
        assert_eq!(root(b""), bare("root", 0, "/root"));
        assert_eq!(root(b"root:x:5:5::/:/bin/x\n"), bare("root", 0, "/root"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(passwd: Vec<u8>, group: Vec<u8>) {
            assert_eq!(find(&passwd, &group, &Wanted::root()).map(|account| account.uid).ok(), Some(0));
        }
    }
}
