//! The control groups that hold this process: how much memory and how many CPUs Linux lets it use.
//!
//! The groups from the process's own up to the root all count, the tightest most. A path that `/proc/self/cgroup` names and
//! nobody sees, as inside a container, is left out: what is mounted there is the container's own group.

use std::path::Path;

/// Larger limits of version 1 mean none: it writes the largest multiple of a page.
const NO_LIMIT: usize = 1 << 60;

/// What the control groups of a process allow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ControlGroup {
    /// Of the interface: 1 or 2.
    pub version: u8,
    /// The tightest limit on memory, if there is one.
    pub memory: Option<MemoryLimit>,
    /// The tightest limit on CPU time, in CPUs.
    pub cpus: Option<f64>,
}

/// A limit on memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// What the group may use.
    pub limit_bytes: usize,
    /// What it uses, without files in memory that the system gives up first.
    pub used_bytes: usize,
}

impl MemoryLimit {
    /// What is left.
    pub fn free_bytes(&self) -> usize {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

impl ControlGroup {
    /// The groups of this process; `None` where the system has none.
    pub fn of_this_process() -> Option<Self> {
        Self::under(Path::new("/"))
    }

    /// As [`Self::of_this_process`], with the system's files under `root`.
    fn under(root: &Path) -> Option<Self> {
        let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let mounted = root.join("sys/fs/cgroup");
        let groups: Vec<[&str; 2]> = groups.lines().filter_map(controllers_and_path).collect();
        let of = |controller: &str| {
            let has = |[list, _]: &&[&str; 2]| list.split(',').any(|one| one == controller);
            groups.iter().find(has).map(|[_, path]| *path)
        };
        let (Some(memory), Some(cpu)) = (of("memory"), of("cpu")) else {
            let path = of("")?;
            let v2 = Interface {
                limit: "memory.max",
                used: "memory.current",
                cache: "inactive_file ",
            };
            return Some(Self {
                version: 2,
                memory: tightest(&mounted, path, |folder| v2.memory(folder)),
                cpus: least(&mounted, path, |folder| {
                    let text = std::fs::read_to_string(folder.join("cpu.max")).ok()?;
                    let (quota, period) = text.trim().split_once(' ')?;
                    share(quota, period)
                }),
            });
        };
        let v1 = Interface {
            limit: "memory.limit_in_bytes",
            used: "memory.usage_in_bytes",
            cache: "total_inactive_file ",
        };
        Some(Self {
            version: 1,
            memory: tightest(&mounted.join("memory"), memory, |folder| v1.memory(folder)),
            cpus: least(&mounted.join("cpu"), cpu, |folder| {
                let read = |name| std::fs::read_to_string(folder.join(name)).ok();
                share(
                    read("cpu.cfs_quota_us")?.trim(),
                    read("cpu.cfs_period_us")?.trim(),
                )
            }),
        })
    }
}

/// `memory` and `/a/b` of `4:memory:/a/b`.
fn controllers_and_path(line: &str) -> Option<[&str; 2]> {
    let (_, rest) = line.split_once(':')?;
    rest.split_once(':').map(|(list, path)| [list, path])
}

/// The names of files of one version.
struct Interface {
    limit: &'static str,
    used: &'static str,
    cache: &'static str,
}

impl Interface {
    fn memory(&self, folder: &Path) -> Option<MemoryLimit> {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let limit_bytes = number(&read(self.limit)?).filter(|limit| *limit < NO_LIMIT)?;
        let used = number(&read(self.used)?)?;
        let stat = read("memory.stat").unwrap_or_default();
        let cache = stat.lines().find_map(|line| line.strip_prefix(self.cache));
        Some(MemoryLimit {
            limit_bytes,
            used_bytes: used.saturating_sub(cache.and_then(number).unwrap_or(0)),
        })
    }
}

/// CPUs: the quota over the period; `None` for `max` and −1, which are no limit.
fn share(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// What `read` finds in the folders from `path` up to the root of what is mounted.
fn each<T>(mounted: &Path, path: &str, read: impl Fn(&Path) -> Option<T>) -> Vec<T> {
    let path = Path::new(path.trim_start_matches('/'));
    path.ancestors()
        .filter_map(|group| read(&mounted.join(group)))
        .collect()
}

fn tightest(
    mounted: &Path,
    path: &str,
    read: impl Fn(&Path) -> Option<MemoryLimit>,
) -> Option<MemoryLimit> {
    let all = each(mounted, path, read).into_iter();
    all.min_by_key(MemoryLimit::free_bytes)
}

fn least(mounted: &Path, path: &str, read: impl Fn(&Path) -> Option<f64>) -> Option<f64> {
    let all = each(mounted, path, read).into_iter();
    all.min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a machine with these files.
    fn read(name: &str, files: &[(&str, &str)]) -> Option<ControlGroup> {
        let root = std::env::temp_dir().join(format!("glm-{name}-{}", std::process::id()));
        for (file, text) in files {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let found = ControlGroup::under(&root);
        let _ = std::fs::remove_dir_all(&root);
        found
    }

    #[test]
    fn the_tightest_of_nested_groups_holds() {
        let files = [
            ("proc/self/cgroup", "0::/jobs/one\n"),
            ("sys/fs/cgroup/jobs/memory.max", "8000\n"),
            ("sys/fs/cgroup/jobs/memory.current", "1000\n"),
            ("sys/fs/cgroup/jobs/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/jobs/one/memory.max", "max\n"),
            ("sys/fs/cgroup/jobs/one/memory.current", "900\n"),
            ("sys/fs/cgroup/jobs/one/cpu.max", "max 100000\n"),
        ];
        let found = read("nested-groups", &files).unwrap();
        let memory = MemoryLimit {
            limit_bytes: 8000,
            used_bytes: 1000,
        };
        assert_eq!((found.version, found.cpus), (2, Some(1.5)));
        assert_eq!(found.memory, Some(memory));
        assert_eq!(memory.free_bytes(), 7000);
    }

    #[test]
    fn containers_of_version_1_have_their_group_at_the_root() {
        let files = [
            (
                "proc/self/cgroup",
                "5:memory:/docker/7f\n4:cpu,cpuacct:/docker/7f\n1:name=systemd:/docker/7f\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "5000"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "4000"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "cache 3000\ntotal_inactive_file 2500\n",
            ),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ];
        let found = read("group-of-version-1", &files).unwrap();
        assert_eq!((found.version, found.cpus), (1, Some(2.0)));
        // Files that the system gives up first are free.
        assert_eq!(found.memory.map(|m| m.free_bytes()), Some(3500));
    }

    #[test]
    fn no_limit_is_none() {
        let files = [
            ("proc/self/cgroup", "5:memory:/\n4:cpu:/\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712",
            ),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "4000"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
        ];
        let found = read("group-without-limits", &files).unwrap();
        assert_eq!((found.memory, found.cpus), (None, None));
        assert_eq!(read("no-groups", &[]), None);
    }
}
