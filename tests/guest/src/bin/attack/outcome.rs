//! What comes of a way, and how to tell.

use nix::errno::Errno;
use nix::libc;

use devbroker_guest::raw::call;

/// What came of it: what succeeded, or why it was refused.
pub(crate) type Outcome = Result<String, String>;

pub(crate) fn done(result: Result<(), Errno>) -> Outcome {
    result.map(|()| "done".into()).map_err(|e| format!("{e:?}"))
}

pub(crate) fn refused(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// Only what says that it was not allowed counts; an argument at fault means that the call got through.
pub(crate) fn raw(number: libc::c_long, arguments: [usize; 6]) -> Outcome {
    match call(number, arguments) {
        Ok(value) => Ok(format!("returned {value}")),
        Err(e @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS | Errno::EAFNOSUPPORT)) => Err(refused(e)),
        // reboot(2) in a pid namespace knows nothing but ways to end it; an allowed one does that and no more.
        Err(Errno::EINVAL) if number == libc::SYS_reboot => Err("EINVAL".into()),
        Err(e) => Ok(format!("got as far as {e:?}")),
    }
}

pub(crate) fn unshare(flag: i32) -> Outcome {
    raw(
        libc::SYS_unshare,
        [usize::try_from(flag).unwrap_or(0), 0, 0, 0, 0, 0],
    )
}

/// All outcomes in one: the first success, or how many were refused.
pub(crate) fn each(outcomes: impl Iterator<Item = Outcome>) -> Outcome {
    let (mut got, mut refused) = (Vec::new(), 0);
    for outcome in outcomes {
        match outcome {
            Ok(what) => got.push(what),
            Err(_) => refused += 1,
        }
    }
    if got.is_empty() {
        Err(format!("{refused} times"))
    } else {
        got.truncate(20);
        Ok(got.join("; "))
    }
}
