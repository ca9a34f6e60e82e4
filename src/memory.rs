//! How much memory this process has used.

/// Peak resident memory of this process so far, in bytes, including mapped files. `None` if the system does not say.
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn peak_memory_is_more_than_a_megabyte() {
        assert!(super::peak().unwrap() > 1 << 20);
    }
}
