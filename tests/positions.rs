//! Positions made on the host: ragged batches, padded batches, 64-bit ids, grids of patches.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "a test stops where something is not as it has to be"
)]

use wgpu_rope::RopeError;
use wgpu_rope::positions::{PatchGrid, ids_from_i64, padded, ragged};

#[test]
fn ragged_sequences_count_on_from_their_offsets() {
    assert!(ragged(&[0], &[]).unwrap().is_empty());
    assert_eq!(ragged(&[0, 1], &[5]).unwrap(), [5]);
    assert_eq!(
        ragged(&[0, 3, 3, 7, 8], &[0, 9, 100, -2]).unwrap(),
        [0, 1, 2, 100, 101, 102, 103, -2]
    );
    // Up to the last position there is, and an empty sequence behind it.
    assert_eq!(
        ragged(&[0, 2, 2], &[i32::MAX - 1, i32::MAX]).unwrap(),
        [i32::MAX - 1, i32::MAX]
    );
    assert_eq!(
        ragged(&[0, 1, 2], &[i32::MIN, i32::MAX]).unwrap(),
        [i32::MIN, i32::MAX]
    );
}

#[test]
fn ragged_sequences_that_cannot_be() {
    let fault = |cu_seqlens: &[u32], offsets: &[i32]| ragged(cu_seqlens, offsets).unwrap_err();
    assert_eq!(
        fault(&[0, 3], &[0, 0]).to_string(),
        "cu_seqlens: must have one entry more than there are sequences, got 2 of 2 sequences"
    );
    assert_eq!(
        fault(&[], &[]).to_string(),
        "cu_seqlens: must have one entry more than there are sequences, got 0 of 0 sequences"
    );
    for (wrong, offsets) in [(&[1, 3][..], &[0][..]), (&[0, 3, 2], &[0, 0]), (&[7], &[])] {
        assert!(
            matches!(
                fault(wrong, offsets),
                RopeError::Layout {
                    operand: "cu_seqlens",
                    ..
                }
            ),
            "{wrong:?}"
        );
    }
    for (lengths, offsets) in [
        (&[0, 2][..], &[i32::MAX][..]),
        (&[0, 1, 5], &[0, i32::MAX - 2]),
        // Long before there is memory for them.
        (&[0, u32::MAX], &[0]),
        (&[0, u32::MAX], &[-5]),
    ] {
        assert!(
            matches!(fault(lengths, offsets), RopeError::Overflow { .. }),
            "{lengths:?}"
        );
    }
}

#[test]
fn padded_rows_count_what_is_there() {
    // Padding in front, behind, both, all.
    let mask = [
        [0, 0, 1, 1, 1],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0; 5],
        [1; 5],
        [2, 0, 255, 0, 1],
    ];
    assert_eq!(
        padded(mask.as_flattened(), 5).unwrap(),
        [
            [0, 0, 0, 1, 2],
            [0, 1, 0, 0, 0],
            [0, 0, 1, 0, 0],
            [0; 5],
            [0, 1, 2, 3, 4],
            [0, 0, 1, 0, 2]
        ]
        .as_flattened()
    );
    assert!(padded(&[], 3).unwrap().is_empty());
    for (mask, tokens) in [
        (&[1_u8, 1, 1, 1][..], 3),
        (&[1], 0),
        (&[], 0),
        (&[1], 1 << 31),
    ] {
        assert!(
            matches!(
                padded(mask, tokens),
                Err(RopeError::Layout {
                    operand: "attention_mask",
                    ..
                })
            ),
            "{mask:?} {tokens}"
        );
    }
}

#[test]
fn ids_of_64_bits_fit_or_are_named() {
    let edge = [0, -1, i64::from(i32::MIN), i64::from(i32::MAX)];
    assert_eq!(ids_from_i64(&edge).unwrap(), [0, -1, i32::MIN, i32::MAX]);
    for wrong in [1 << 31, -(1 << 31) - 1, i64::MIN, i64::MAX] {
        assert_eq!(
            ids_from_i64(&[5, wrong, i64::MAX]).unwrap_err().to_string(),
            format!("position_ids: must fit i32, got {wrong}")
        );
    }
}

#[test]
fn patches_stand_row_by_row() {
    let places = PatchGrid::new(2, 3).with_frames(2).places().unwrap();
    let mut expected = Vec::new();
    for frame in 0..2 {
        for row in 0..2 {
            for column in 0..3 {
                expected.push([frame, row, column]);
            }
        }
    }
    assert_eq!(places, expected);
    assert_eq!(PatchGrid::new(2, 3).with_frames(2).patches().unwrap(), 12);
    // A merge of 1 is none.
    assert_eq!(
        PatchGrid::new(2, 3).with_merge(1).places().unwrap(),
        places[..6]
    );
}

/// Qwen's order by its model's own steps: an array [h, w] reshaped to [h/m, m, w/m, m], permuted to (0, 2, 1, 3), flattened.
fn permuted(array: &[i32], h: usize, w: usize, m: usize) -> Vec<i32> {
    let shape = [h / m, m, w / m, m];
    let at = |index: [usize; 4]| {
        let [a, b, c, d] = index;
        array[((a * shape[1] + b) * shape[2] + c) * shape[3] + d]
    };
    let mut out = Vec::new();
    for a in 0..shape[0] {
        for c in 0..shape[2] {
            for b in 0..shape[1] {
                for d in 0..shape[3] {
                    out.push(at([a, b, c, d]));
                }
            }
        }
    }
    out
}

#[test]
fn merged_patches_stand_as_qwens_do() {
    for (frames, h, w, m) in [
        (1, 4, 6, 2),
        (3, 6, 4, 2),
        (2, 6, 9, 3),
        (1, 8, 4, 4),
        (1, 2, 2, 2),
        (2, 3, 5, 1),
    ] {
        let rows: Vec<i32> = (0..h).flat_map(|row| vec![row as i32; w]).collect();
        let columns: Vec<i32> = (0..h).flat_map(|_| 0..w as i32).collect();
        let (rows, columns) = (permuted(&rows, h, w, m), permuted(&columns, h, w, m));
        let mut expected = Vec::new();
        for frame in 0..frames {
            expected.extend(
                rows.iter()
                    .zip(&columns)
                    .map(|(row, column)| [frame, *row, *column]),
            );
        }
        let grid = PatchGrid::new(h as u32, w as u32)
            .with_frames(frames.cast_unsigned())
            .with_merge(m as u32);
        assert_eq!(grid.places().unwrap(), expected, "{grid:?}");
    }
    // By hand, for once: the first square of a 4 x 4 grid, then the one to its right.
    let places = PatchGrid::new(4, 4).with_merge(2).places().unwrap();
    assert_eq!(
        places[..6],
        [
            [0, 0, 0],
            [0, 0, 1],
            [0, 1, 0],
            [0, 1, 1],
            [0, 0, 2],
            [0, 0, 3]
        ]
    );
}

#[test]
fn centres_are_from_minus_1_to_1_over_the_image() {
    // 14 x 14 patches as DINOv3's model makes them: arange(0.5, 14) / 14, twice that, less 1, each step rounded to f32.
    let grid = PatchGrid::new(14, 3).with_frames(2);
    let centres = grid.centres().unwrap();
    assert_eq!(centres.len(), 84);
    for (patch, [y, x]) in centres.iter().enumerate() {
        let (row, column) = (patch % 42 / 3, patch % 3);
        for (made, i, n) in [(y, row, 14.0_f32), (x, column, 3.0)] {
            let step = (0.5 + i as f32) / n;
            assert_eq!(made.to_bits(), (2.0 * step - 1.0).to_bits());
            let truth = (2.0 * i as f64 + 1.0) / f64::from(n) - 1.0;
            assert!((f64::from(*made) - truth).abs() < 1e-7, "{made} {truth}");
        }
    }
    assert_eq!(PatchGrid::new(1, 1).centres().unwrap(), [[0.0, 0.0]]);
    assert_eq!(PatchGrid::new(2, 2).centres().unwrap()[1], [-0.5, 0.5]);
    // In the order of the places.
    let grid = PatchGrid::new(4, 8).with_merge(2);
    for ([_, row, column], centre) in grid.places().unwrap().iter().zip(grid.centres().unwrap()) {
        let of = |i: i32, n: f32| 2.0 * ((i as f32 + 0.5) / n) - 1.0;
        assert_eq!(centre, [of(*row, 4.0), of(*column, 8.0)]);
    }
}

#[test]
fn grids_that_cannot_be() {
    let fault = |grid: PatchGrid| {
        let error = grid.patches().unwrap_err();
        assert_eq!(grid.places().unwrap_err(), error);
        assert_eq!(grid.centres().unwrap_err(), error);
        error.to_string()
    };
    assert_eq!(
        fault(PatchGrid::new(4, 6).with_merge(4)),
        "grid: must have from 1 to 2^31 patches, whole squares of 4, got 1 x 4 x 6"
    );
    let many = PatchGrid::new(1 << 16, 1 << 16);
    for grid in [
        PatchGrid::new(0, 3),
        PatchGrid::new(3, 0),
        PatchGrid::new(3, 3).with_frames(0),
        PatchGrid::new(4, 4).with_merge(0),
        PatchGrid::new(5, 4).with_merge(2),
        PatchGrid::new(4, 5).with_merge(2),
        many,
        many.with_frames(u32::MAX),
        PatchGrid::new(u32::MAX, u32::MAX).with_frames(u32::MAX),
        PatchGrid::new(1 << 15, 1 << 15).with_frames(3),
    ] {
        fault(grid);
    }
    assert_eq!(PatchGrid::new(1 << 15, 1 << 16).patches().unwrap(), 1 << 31);
}
