//! What a container has mounted on its `/dev`, by `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`): reading it asks no file
//! system of the container.

/// The type of the file system that is visible at `/dev`: the last one mounted there; `None` if `/dev` is an ordinary
/// folder of the root file system.
pub(super) fn dev_type(mountinfo: &str) -> Option<&str> {
    let of_dev = mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some("/dev"))?;
    of_dev.split_once(" - ")?.1.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_counts() {
        let text = "100 90 0:50 / / rw - overlay overlay rw\n\
            101 100 0:51 / /dev rw,nosuid shared:7 - tmpfs tmpfs rw\n\
            102 101 0:52 / /dev/pts rw - devpts devpts rw\n";
        assert_eq!(dev_type(text), Some("tmpfs"));
        let covered = format!("{text}103 101 0:53 / /dev rw - fuse.x none rw\n");
        assert_eq!(dev_type(&covered), Some("fuse.x"));
        assert_eq!(dev_type("100 90 0:50 / / rw - overlay overlay rw\n"), None);
        assert_eq!(dev_type(""), None);
        assert_eq!(dev_type("1 2 3 / /dev rw"), None);
    }
}
