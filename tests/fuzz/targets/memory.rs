//! How much memory something may take.

/// Does something, and checks that it never holds more than so many bytes at once.
pub fn bounded<R>(what: &str, most: u64, work: impl FnOnce() -> R) -> R {
    let mut made = None;
    let taken = allocation_counter::measure(|| made = Some(work())).bytes_max;
    assert!(
        taken <= most,
        "{what} takes {taken} bytes, more than {most}"
    );
    made.expect("the work was done")
}
