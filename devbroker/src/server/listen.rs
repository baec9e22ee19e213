//! The socket itself: made here, or handed over by systemd.

use nix::unistd::Group;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net as std_net;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// The group whose members may look.
const GROUP: &str = "devbroker";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon is there.
    #[error(
        "a daemon answers at {0} already; stop it first (`systemctl stop devbroker.socket devbroker.service`), or give this one another socket with --socket"
    )]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{0} is there and is no socket; move it away")]
    NoSocket(PathBuf),
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// Which.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The descriptor from systemd is no listening socket.
    #[error(
        "the socket handed over by systemd cannot be used: {0}; does devbroker.socket have ListenStream=?"
    )]
    Inherited(io::Error),
}

/// Makes the socket: root's, and where the group `devbroker` exists open to its members. The folder above is made too.
/// A socket left by a daemon that is gone is replaced; must be called within a runtime.
pub fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    let io = |what| {
        move |source| ListenError::Io {
            what,
            path: path.into(),
            source,
        }
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io("make the folder of"))?;
    }
    clear(path)?;
    // It gets its name when its mode is right: nobody connects before.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let listener = std_net::UnixListener::bind(&hidden).map_err(io("bind"))?;
    let result = publish(&hidden, path).map_err(io("set owner, mode and name of"));
    if result.is_err() {
        drop(std::fs::remove_file(&hidden));
    }
    result?;
    listener.set_nonblocking(true).map_err(io("set up"))?;
    UnixListener::from_std(listener).map_err(io("listen at"))
}

/// Gives the socket its group, mode and name.
fn publish(hidden: &Path, path: &Path) -> io::Result<()> {
    let group = Group::from_name(GROUP).ok().flatten();
    // Without root, or without the group, the socket stays its maker's alone.
    let opened =
        group.is_some_and(|group| std::os::unix::fs::chown(hidden, None, Some(group.gid.as_raw())).is_ok());
    let mode = if opened { 0o660 } else { 0o600 };
    std::fs::set_permissions(hidden, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(hidden, path)
}

/// Removes a socket that nobody listens at.
fn clear(path: &Path) -> Result<(), ListenError> {
    let io = |what| {
        move |source| ListenError::Io {
            what,
            path: path.into(),
            source,
        }
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(ListenError::NoSocket(path.into())),
        Ok(_) => match std_net::UnixStream::connect(path) {
            Ok(_) => Err(ListenError::Taken(path.into())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(io("remove the old"))
            }
            Err(error) => Err(io("connect to the old")(error)),
        },
    }
}

/// Uses the listening socket that systemd made (`devbroker.socket`).
pub fn adopt(socket: OwnedFd) -> Result<UnixListener, ListenError> {
    let listener = std_net::UnixListener::from(socket);
    listener.local_addr().map_err(ListenError::Inherited)?;
    listener.set_nonblocking(true).map_err(ListenError::Inherited)?;
    UnixListener::from_std(listener).map_err(ListenError::Inherited)
}
