//! What `shaders/table.wgsl` does with a planned dispatch: the largest index that every binding is read or written at.

use std::ops::Range;

use wgpu_rope::{ElementType, PlannedDispatch, Resource, TablePlan};

/// Checks the dispatches that fill a table from positions in these bytes, of a cache whose cos and sin start there.
pub fn check(
    plan: &TablePlan,
    dispatches: &[PlannedDispatch],
    positions: &Range<u64>,
    cache: Option<([u64; 2], u64)>,
) {
    let limits = plan.limits();
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment).max(16);
    let fits_u32 = |value: u64| assert!(u32::try_from(value).is_ok(), "{value} wraps");
    let mut next = 0;
    for planned in dispatches {
        let u = |at: usize| u64::from(planned.uniform[at]);
        let (rows, pairs, stride, run) = (u(0), u(1), u(2), u(3));
        assert!(rows >= 1 && run >= 1 && rows <= plan.rows().into());
        assert_eq!(pairs, u64::from(plan.width()));
        // One part of the rows behind the other.
        let range = planned.range();
        assert_eq!((range.start, u(8)), (next, next.into()));
        assert!(range.end > range.start);
        next = range.end;

        let mut size = [0; 6];
        for binding in &planned.bindings {
            let bytes = &binding.bytes;
            size[binding.binding as usize] = bytes.end - bytes.start;
            let within = match binding.resource {
                Resource::Uniform => {
                    assert_eq!(bytes, &(0..80));
                    continue;
                }
                Resource::Pairs => 0..plan.pairs().len() as u64 * 4,
                Resource::Rows => 0..plan.bytes(),
                Resource::Positions => positions.clone(),
                Resource::Cos | Resource::Sin => {
                    let (starts, length) = cache.expect("only a cache binds its values");
                    let start = starts[usize::from(binding.resource == Resource::Sin)];
                    start..start + length
                }
                other => panic!("a table binds no {other:?}"),
            };
            assert!(bytes.start.is_multiple_of(alignment) && bytes.end <= within.end);
            assert_eq!(bytes.start, within.start / alignment * alignment);
            assert!(bytes.end - bytes.start <= limits.max_storage_buffer_binding_size);
        }
        // Entries of two words, and the count of faults behind all of them.
        assert!(stride >= pairs && stride.is_multiple_of(2));
        let last = (rows - 1) * stride + pairs - 1;
        fits_u32(2 * last + 1);
        assert!(last < size[2] / 8);
        assert!(u(9) >= u64::from(plan.rows()) * stride * 2 && u(9) < size[2] / 4);
        if planned.entry_point.starts_with("fill") {
            // Two of four words for each pair, and one for each of 148 powers of two.
            let weights = if planned.constant("F32_ANGLES") == Some(1) {
                148
            } else {
                0
            };
            assert_eq!(2 * pairs + weights, size[1] / 16);
        }
        if !planned.entry_point.ends_with("counted") {
            let axis = if planned.entry_point == "copy_listed" {
                0
            } else {
                let axes = plan.pairs().chunks_exact(8).take(pairs as usize);
                axes.map(|words| u64::from(words[5])).max().unwrap_or(0)
            };
            let last = u(5) + axis * u(6) + (rows - 1) / run * u(7);
            fits_u32(last);
            assert!(last < size[3] / 4);
        }
        if planned.entry_point.starts_with("copy") {
            let last = (u(12) - 1) * u(13) + pairs - 1;
            fits_u32(last);
            let is_wide = planned.constant("ELEMENT") == Some(0);
            let word = if is_wide { last } else { last / 2 };
            for (first, size) in [(u(14), size[4]), (u(15), size[5])] {
                fits_u32(first + word);
                assert!(first + word < size / 4);
            }
        }
        let workgroup = u64::from(planned.constant("WORKGROUP").expect("the plan gives it"));
        let [across, down, deep] = planned.workgroups(range.end).map(u64::from);
        assert_eq!((down, deep), (range.len() as u64, 1));
        assert!(across * workgroup >= pairs && (across - 1) * workgroup < pairs);
        let most = limits.max_compute_workgroups_per_dimension.max(1);
        assert!(across.max(down) <= u64::from(most));
        assert!(workgroup <= u64::from(limits.max_compute_invocations_per_workgroup.max(1)));
    }
    let [first, ..] = dispatches else {
        panic!("no dispatch");
    };
    assert_eq!(next, first.uniform[0]);
}

/// The bytes of a type's values, by hand.
pub fn bytes(element: ElementType, count: u64) -> u64 {
    match element {
        ElementType::F32 => 4 * count,
        _ => (2 * count).next_multiple_of(4),
    }
}
