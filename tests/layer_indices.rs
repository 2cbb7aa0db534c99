//! The indices that `shaders/layer.wgsl` makes of what is planned, whatever is asked for: none leaves its binding, and none wraps.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something is not as it has to be, and says how much it saw"
)]

use fastrand::Rng;
use wgpu_rope::{
    ElementType, Frequencies, HeadLayout, Limits, Norm, NormWeight, Operand, Pairing, Place,
    Places, PlannedDispatch, QueryFactor, QueryScale, RopeConfig, RopePlan, RotateSpec, Rows,
    Storage, TablePlan, TableSpec, TensorView,
};

const F32: ElementType = ElementType::F32;
const TYPES: [ElementType; 3] = [F32, ElementType::F16, ElementType::Bf16];
const NAMES: [&str; 3] = ["QUERY", "KEY", "VALUE"];

/// From 0 to so many bits, as many small ones as large ones.
fn any(random: &mut Rng, bits: u32) -> u32 {
    random.u32(..) >> (32 - random.u32(1..=bits))
}

fn one_of<T: Copy>(random: &mut Rng, all: &[T]) -> T {
    all[random.usize(..all.len())]
}

/// Shapes of what is asked for.
struct Shape {
    batch: u32,
    tokens: u32,
}

impl Shape {
    /// Heads over `outer` and `inner`, dense in either order or with gaps, sometimes so wide that bytes only just fit u32, or do not.
    fn layout(&self, random: &mut Rng, inner: u32, heads: u32, dim: u32) -> HeadLayout {
        let dense = if random.bool() {
            HeadLayout::bshd(inner, heads, dim)
        } else {
            HeadLayout::bhsd(inner, heads, dim)
        };
        match random.u8(..6) {
            0..4 => dense,
            4 => dense.with_offset(u64::from(any(random, 31) & !7)),
            _ => {
                let head = u64::from(dim) + u64::from(any(random, 12) & !7);
                let token = head * u64::from(heads) + u64::from(any(random, 26) & !7);
                let batch = token * u64::from(inner) + u64::from(any(random, 31) & !7);
                dense.with_strides(batch, token, head)
            }
        }
    }

    fn view(&self, random: &mut Rng, heads: u32, dim: u32, is_source: bool) -> TensorView {
        let storage: Storage = match random.u8(..8) {
            0 => Storage::Int8,
            1 => Storage::Q8_0,
            _ => one_of(random, &TYPES).into(),
        };
        let in_slots = random.u8(..3) == 0;
        let mut view = if in_slots {
            let (pages, page_size) = (1 + any(random, 22), 1 + any(random, 9));
            let layout = self.layout(random, page_size, heads, dim);
            TensorView::cache(layout, pages, page_size, storage).with_first_slot(any(random, 3))
        } else {
            TensorView::new(self.layout(random, self.tokens, heads, dim), storage)
        };
        if !is_source && random.u8(..8) == 0 {
            view = view.accumulated();
        }
        if !is_source && random.u8(..8) == 0 {
            // [B, H, D, S]: tokens beside each other.
            let (inner, outer) = match in_slots {
                true => (4, 1),
                false => (self.tokens, self.batch),
            };
            let inner = inner.max(1);
            let head = u64::from(dim) * u64::from(inner);
            let layout =
                HeadLayout::bshd(inner, heads, dim).with_strides(head * u64::from(heads), 1, head);
            let plain = match in_slots {
                true => TensorView::cache(layout, outer + any(random, 5), inner, storage),
                false => TensorView::new(layout, storage),
            };
            view = plain.with_channel_stride(inner);
        }
        view
    }
}

fn asked(random: &mut Rng) -> RotateSpec {
    let dim = one_of(random, &[2, 16, 20, 32, 48, 64, 80, 96, 128, 256, 272]);
    let pairing = one_of(
        random,
        &[
            Pairing::HalfSplit,
            Pairing::Interleaved,
            Pairing::HalfSplitToInterleaved,
        ],
    );
    let mut config = RopeConfig::new(dim).with_pairing(pairing);
    if random.u8(..3) == 0 && dim >= 64 {
        config = config.with_rotary_dim(dim / 2);
    }
    let shape = Shape {
        batch: 1 + any(random, 6),
        tokens: 1 + any(random, 21),
    };
    let heads = 1 + any(random, 6);
    let query = shape.view(random, heads, dim, true);
    let plain = HeadLayout::bshd(shape.tokens, heads, dim);
    let mut spec = RotateSpec::new(&config, shape.batch, shape.tokens, plain, F32)
        .with_query_from(query)
        .with_rows(one_of(
            random,
            &[Rows::Shared, Rows::PerToken, Rows::One, Rows::PerSequence],
        ))
        .with_query_factor(one_of(
            random,
            &[
                QueryFactor::One,
                QueryFactor::Constant(0.5),
                QueryFactor::PerRow,
            ],
        ));
    let (kv_heads, value_dim) = (
        1 + any(random, 4),
        one_of(random, &[1, 16, 33, 64, 128, dim]),
    );
    if random.bool() {
        let view = shape.view(random, kv_heads, dim, true);
        spec = spec.with_key_from(view);
        if random.bool() {
            spec = spec.with_key_to(shape.view(random, kv_heads, dim, false));
        }
    }
    if random.bool() {
        let view = shape.view(random, kv_heads, value_dim, true);
        spec = spec.with_value_from(view);
        if random.bool() {
            spec = spec.with_value_to(shape.view(random, kv_heads, value_dim, false));
        }
    }
    if random.bool() {
        spec = spec.with_query_to(shape.view(random, heads, dim, false));
    }
    let weight = one_of(random, &TYPES);
    let mut norm = Norm::rms(
        1e-6,
        one_of(random, &[NormWeight::None, NormWeight::Scale(weight)]),
    );
    if random.u8(..4) == 0 {
        norm = norm.over_all_heads();
    }
    for with in [
        RotateSpec::with_query_norm,
        RotateSpec::with_key_norm,
        RotateSpec::with_value_norm,
    ] {
        if random.u8(..3) == 0 {
            spec = with(spec, norm);
        }
    }
    if random.u8(..6) == 0 {
        spec = spec.without_rotation();
    }
    if random.u8(..4) == 0 {
        spec = spec.with_heads_per_invocation(1 + any(random, 3));
    }
    if random.u8(..4) == 0 {
        spec = spec.with_workgroup(one_of(random, &[1, 7, 16, 64, 256]));
    }
    spec
}

/// A dispatch as the shader sees it.
struct Seen<'a> {
    planned: &'a PlannedDispatch,
    /// Bytes of each binding.
    sizes: [u64; 9],
}

impl Seen<'_> {
    fn constant(&self, name: &str) -> u64 {
        self.planned.constant(name).unwrap().into()
    }

    fn of(&self, stream: usize, name: &str) -> u64 {
        self.constant(&format!("{}_{name}", NAMES[stream]))
    }

    fn word(&self, at: usize) -> u64 {
        self.planned.uniform[at].into()
    }

    /// Bytes of the binding that a constant names.
    fn tensor(&self, stream: usize, name: &str) -> u64 {
        self.sizes[usize::try_from(self.of(stream, name)).unwrap() + 3]
    }

    /// Checks everything; returns the largest index into a tensor, in bytes.
    fn check(&self) -> u64 {
        let params = 3 * 24;
        let [
            first_row,
            of_batch,
            of_token,
            row_stride,
            tokens,
            batch,
            slots_of_batch,
            scales,
        ] = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| self.word(params + n));
        assert!(tokens > 0 && batch > 0);
        let last_row = first_row + (batch - 1) * of_batch + (tokens - 1) * of_token;
        let words_of_table = self.sizes[1] / 4;
        assert!(last_row * row_stride <= u32::MAX.into());
        if self.constant("WINDOW") > 0 {
            // Entries are read by twos.
            let pairs = self.constant("PAIRS").next_multiple_of(2);
            assert!(row_stride >= 2 * pairs);
            assert!(last_row * row_stride + 2 * pairs <= words_of_table);
        }
        if self.constant("QUERY_SCALE") == 2 {
            assert!(scales + 2 * last_row < words_of_table);
        }
        let mut furthest = 0;
        for stream in 0..3 {
            let dim = self.of(stream, "DIM");
            if dim == 0 {
                assert_eq!(self.word(stream * 24 + 17), 0);
                continue;
            }
            for (n, end) in ["FROM", "TO"].into_iter().enumerate() {
                let last = self.end(stream, end, stream * 24 + 8 * n, slots_of_batch);
                furthest = furthest.max(last);
            }
            self.check_workgroup(stream, dim);
        }
        furthest
    }

    /// Source or destination of a stream, whose words begin at `at`.
    fn end(&self, stream: usize, end: &str, at: usize, slots_of_batch: u64) -> u64 {
        let [
            first,
            outer,
            inner,
            head,
            slots,
            slot_count,
            page_size,
            base,
        ] = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| self.word(at + n));
        let (tokens, batch) = (self.word(76), self.word(77));
        let heads = self.word(stream * 24 + 16);
        let (mut outers, mut inners) = (batch, tokens);
        if self.of(stream, &format!("{end}_SLOTS")) == 1 {
            let last = slots + (batch - 1) * slots_of_batch + tokens - 1;
            assert!(last < self.sizes[1] / 4);
            assert!(page_size > 0 && slot_count.is_multiple_of(page_size));
            (outers, inners) = (slot_count / page_size, page_size);
        }
        let dim = self.of(stream, "DIM");
        let size = self.tensor(stream, end);
        let storage = self.of(stream, &format!("{end}_TYPE"));
        let last_head = first + (outers - 1) * outer + (inners - 1) * inner + (heads - 1) * head;
        let bytes = if storage == 0 { 4 } else { 2 };
        let (last, unit) = if self.planned.entry_point == "octets" {
            (last_head + dim * bytes / 16 - 1, 16)
        } else {
            let stride = if end == "TO" {
                self.word(stream * 24 + 21)
            } else {
                1
            };
            let last = last_head + (dim - 1) * stride;
            match storage {
                // A scale, then two values in each half.
                3 => (base + last / 32 * 17 + 1 + last % 32 / 2, 2),
                4 => {
                    let scales = self.tensor(stream, &format!("{end}_SCALES"));
                    assert!(base + (last_head - first) / dim < scales / 4);
                    (last, 1)
                }
                _ => (last, bytes),
            }
        };
        assert!(
            last <= u32::MAX.into() && (last + 1) * unit <= size,
            "{end} of {stream}"
        );
        last * unit
    }

    /// Heads are covered, weights are there, and a workgroup's memory suffices.
    fn check_workgroup(&self, stream: usize, dim: u64) {
        let [heads, groups, weights] = [16, 17, 18].map(|n| self.word(stream * 24 + n));
        let norm = self.of(stream, "NORM");
        let is_whole = self.constant("WHOLE") == 1 && norm > 0;
        if norm > 1 {
            let count = if is_whole { heads * dim } else { dim };
            let per = if self.constant("WEIGHTS") == 0 { 1 } else { 2 };
            assert!(weights + (count - 1) / per < self.sizes[2] / 4);
        }
        let (workgroup, sums) = (self.constant("WORKGROUP"), self.constant("SUMS"));
        let (pairs, half) = (dim.div_ceil(16), dim.div_ceil(16).div_ceil(2));
        // Sums are read by fours, from the first of each half on.
        let fours = half.next_multiple_of(4);
        if self.planned.entry_point == "channels" {
            assert_eq!(groups, if is_whole { 1 } else { heads });
            assert!(self.constant("STAGED") >= dim);
            assert!(self.constant("BLOCKS") >= dim.div_ceil(32));
            let far = if pairs > 1 { half } else { 0 };
            assert!(norm == 0 || (far + fours <= sums && pairs <= sums));
            return;
        }
        let (lanes, rounds) = (self.of(stream, "LANES"), self.of(stream, "ROUNDS"));
        let takes_two = dim == 32 * lanes;
        assert!(takes_two || dim == 16 * lanes);
        let step = workgroup / lanes;
        assert!(step > 0 && groups * rounds * step >= heads);
        assert!(groups * rounds * step + step <= u32::MAX.into());
        if norm > 0 {
            let of_head = if takes_two || pairs == 1 {
                fours
            } else {
                2 * fours
            };
            let last_head = (step + step - 1) * of_head;
            let far = if takes_two || pairs == 1 { 0 } else { half };
            assert!(last_head + far + fours <= sums && last_head + lanes <= sums);
        }
    }
}

#[test]
fn indices_of_any_layer_stay_inside() {
    let mut random = Rng::with_seed(47);
    let (mut plans, mut furthest) = ([0; 2], 0);
    let scale = QueryScale::llama4(8192, 0.1, 1 << 20).unwrap();
    for _ in 0..4_000 {
        let spec = asked(&mut random);
        let own = Limits::default();
        let limits = Limits {
            cpu: random.bool(),
            max_storage_buffer_binding_size: match random.u8(..4) {
                0 => 1 << random.u32(16..24),
                1 => u64::from(u32::MAX),
                2 => u64::MAX,
                _ => own.max_storage_buffer_binding_size,
            },
            max_compute_workgroups_per_dimension: one_of(&mut random, &[7, 65_535]),
            min_storage_buffer_offset_alignment: one_of(&mut random, &[16, 32, 256]),
            ..own
        };
        let rows = spec.rows_needed(spec.tokens()).max(1);
        let (Ok(plan), Ok(rows)) = (RopePlan::new(&spec, &limits), u32::try_from(rows)) else {
            continue;
        };
        let table = TableSpec::new(&Frequencies::new(spec.config()).unwrap())
            .with_slots(spec.slots_needed())
            .with_query_scale(scale.clone());
        let Ok(table) = TablePlan::new(&table, rows, &limits) else {
            continue;
        };
        // Buffers of their own; or one for all, behind each other, and one for weights.
        let is_one = random.u8(..4) == 0;
        let mut ends = [0_u64; 2];
        let places: Places = (0..)
            .zip(spec.operands().unwrap())
            .map(|(n, (operand, bytes))| {
                let is_weight = matches!(
                    operand,
                    Operand::QueryWeight | Operand::KeyWeight | Operand::ValueWeight
                );
                let gap = one_of(&mut random, &[0_u64, 4, 16, 256, 4096]);
                if !is_one && !is_weight {
                    return (
                        operand,
                        Place {
                            buffer: n,
                            offset: gap,
                        },
                    );
                }
                let end = &mut ends[usize::from(is_weight)];
                let offset = *end + gap;
                *end = offset + bytes;
                let buffer = 100 + u32::from(is_weight);
                (operand, Place { buffer, offset })
            })
            .collect();
        let Ok(dispatches) = plan.dispatches(places.with_table(&table)) else {
            continue;
        };
        for planned in &dispatches {
            let kind = match planned.entry_point {
                "octets" => 0,
                "channels" => 1,
                _ => continue,
            };
            let mut sizes = [0; 9];
            for bound in &planned.bindings {
                let size = bound.bytes.end - bound.bytes.start;
                assert!(bound.bytes.start.is_multiple_of(limits.alignment()));
                assert!(size <= limits.max_storage_buffer_binding_size);
                sizes[bound.binding as usize] = size;
            }
            assert_eq!(sizes[0], 84 * 4);
            furthest = furthest.max(Seen { planned, sizes }.check());
            plans[kind] += 1;
        }
    }
    eprintln!("{plans:?} dispatches of octets and channels, up to byte {furthest}");
    assert!(plans.iter().all(|&n| n > 1_000), "{plans:?}");
    assert!(furthest > 3 << 30, "{furthest}");
}
