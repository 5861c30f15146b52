//! How much memory this process may still take.
//!
//! Linux says what is free, and a container or batch system what its group may have; nothing is known
//! elsewhere.

use std::fs;
use std::path::Path;

/// Bytes that can be taken without swapping or being stopped, if that is known.
pub fn available() -> Option<u64> {
    let free = meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(groups.lines().filter_map(of_group).fold(free, u64::min))
}

/// `MemAvailable:   123 kB`
fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// What a control group and those above it leave: `0::/a/b` in version 2, `4:memory:/a/b` in version 1.
fn of_group(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, limit, used) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
        _ if controllers.split(',').any(|name| name == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        }
        _ => return None,
    };
    let root = Path::new(root);
    let folder = root.join(path.trim_start_matches('/'));
    // Within a container, its own group may appear as the root.
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(root));
    folders.filter_map(|folder| left(folder, limit, used)).min()
}

fn left(folder: &Path, limit: &str, used: &str) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" is no limit.
    let (limit, used) = (number(limit)?, number(used)?);
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    Some(limit.saturating_sub(used.saturating_sub(reclaimable(&stat))))
}

/// What of the used memory is only copies of files, which give way.
fn reclaimable(stat: &str) -> u64 {
    let entry = |line: &str| line.strip_prefix("inactive_file ")?.trim().parse().ok();
    stat.lines().find_map(entry).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_memory_is_read() {
        let text = "MemTotal:       24684100 kB\nMemFree:        1 kB\nMemAvailable:   23738584 kB\n";
        assert_eq!(meminfo(text), Some(23_738_584 * 1024));
        assert_eq!([meminfo(""), meminfo("MemAvailable: many kB")], [None, None]);
    }

    #[test]
    fn a_group_leaves_its_limit_less_what_does_not_give_way() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let left = || left(folder.path(), "memory.max", "memory.current");
        assert_eq!(left(), None);
        write("memory.max", "max\n");
        write("memory.current", "900\n");
        assert_eq!(left(), None);
        write("memory.max", "1000\n");
        assert_eq!(left(), Some(100));
        write("memory.stat", "anon 5\ninactive_file 300\nfile 7\n");
        assert_eq!(left(), Some(400));
        write("memory.current", "5000\n");
        assert_eq!(left(), Some(0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_some() {
        assert!(available().unwrap() > 1 << 20);
    }
}
