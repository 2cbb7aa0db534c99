//! What `shaders/rotate.wgsl` does with a planned dispatch, worked out from the shader's text and the bytes of the uniform buffer, and from
//! nothing that the planner knows: which element is made of which two others, with which entry of the table.

use std::collections::HashMap;

use wgpu_rope::{
    ElementType, HeadLayout, Limits, Operand, Pairing, Placement, PlannedDispatch, Resource,
    RopePlan, RotateSpec, Storage, TensorView,
};

/// An element of a buffer: that of the query (0) or of the key (1), and its first byte.
pub type Element = (u8, u64);

/// Where a channel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// x and y of its pair.
    pub pair: [Element; 2],
    /// The table's entry, as row and pair; none for a pair that moves and does not turn.
    pub entry: Option<(u64, u32)>,
    pub is_y: bool,
}

/// For every element that is written, what it is made of.
pub type Written = HashMap<Element, Source>;

struct Side {
    first: u64,
    batch_stride: u64,
    token_stride: u64,
    head_stride: u64,
    groups: u64,
    heads: u64,
    /// Heads of a group, and of those how many are loaded at once.
    per: u64,
    at_once: u64,
    binding: usize,
}

/// A dispatch as the shader sees it.
struct Seen<'a> {
    planned: &'a PlannedDispatch,
    path: &'static str,
    element: ElementType,
    sides: [Side; 2],
    first_row: u64,
    row_of_batch: u64,
    row_of_token: u64,
    row_stride: u64,
    distance: u64,
    tokens: u64,
    batch: u64,
    lanes: u64,
    block: u64,
    pairs: u64,
    window: u64,
    interleaved: [bool; 2],
}

impl<'a> Seen<'a> {
    fn new(planned: &'a PlannedDispatch) -> Self {
        let constant = |name| u64::from(planned.constant(name).expect("the plan gives it"));
        let u = |at: usize| u64::from(planned.uniform[at]);
        assert_eq!(planned.uniform.len(), 20);
        // Unknown to the compiler, and 0.
        assert_eq!(u(15), 0);
        let (path, one_or_two) = planned
            .entry_point
            .split_once('_')
            .expect("it has two parts");
        let path = ["quads", "moves", "words", "windows"]
            .into_iter()
            .find(|known| *known == path)
            .expect("the shader has four paths");
        assert_eq!(
            planned.bindings.len(),
            if one_or_two == "two" { 4 } else { 3 }
        );
        let at_once = |name, per| match path {
            "quads" => constant(name),
            "moves" => per,
            _ => 1,
        };
        let side = |part: usize, name, at_once_name, binding| {
            let per = if path == "windows" { 1 } else { constant(name) };
            Side {
                first: u(4 * part),
                batch_stride: u(4 * part + 1),
                token_stride: u(4 * part + 2),
                head_stride: u(4 * part + 3),
                groups: u(13 + part),
                heads: u(18 + part),
                per,
                at_once: at_once(at_once_name, per),
                binding,
            }
        };
        let key_binding = if one_or_two == "two" { 3 } else { 2 };
        Self {
            planned,
            path,
            element: match constant("ELEMENT") {
                0 => ElementType::F32,
                1 => ElementType::F16,
                _ => ElementType::Bf16,
            },
            sides: [
                side(0, "QUERY_HEADS", "QUERY_AT_ONCE", 2),
                side(1, "KEY_HEADS", "KEY_AT_ONCE", key_binding),
            ],
            first_row: u(8),
            row_of_batch: u(9),
            row_of_token: u(10),
            row_stride: u(11),
            distance: u(12),
            tokens: u(16),
            batch: u(17),
            lanes: constant("LANES"),
            block: constant("BLOCK"),
            pairs: constant("PAIRS"),
            window: constant("WINDOW"),
            interleaved: [
                constant("INTERLEAVED") == 1,
                constant("WRITES_INTERLEAVED") == 1,
            ],
        }
    }

    /// Bytes of the unit that indices count in.
    fn unit(&self) -> u64 {
        match self.path {
            "quads" | "moves" => 16,
            "words" => 4,
            _ => self.element.bytes(),
        }
    }

    /// Whether a unit holds whole pairs that stay there.
    fn are_pairs_whole(&self) -> bool {
        self.interleaved == [true; 2] && self.unit() > self.element.bytes()
    }

    /// The two units of a head that a lane takes, counted from its first, read or written.
    fn parts(&self, lane: u64, interleaved: bool) -> [u64; 2] {
        if self.are_pairs_whole() {
            [lane, self.lanes + lane]
        } else if interleaved {
            [2 * lane, 2 * lane + 1]
        } else {
            let first = lane + lane / self.block * self.block;
            [first, first + self.distance]
        }
    }

    /// The last unit that a lane takes.
    fn last_part(&self, interleaved: bool) -> u64 {
        self.parts(self.lanes - 1, interleaved)[1]
    }

    /// Entries of the table in one of its units, and the last unit of a row that is read.
    fn row_units(&self) -> (u64, u64) {
        let lane = self.lanes - 1;
        match (self.path, self.element.bytes()) {
            ("quads" | "moves", 4) => (2, 2 * lane + 1),
            ("quads" | "moves", _) => (2, 4 * lane + 3),
            ("words", 4) => (1, lane),
            ("words", _) => (1, 2 * lane + 1),
            _ => (1, self.pairs - 1),
        }
    }

    fn rows(&self) -> u64 {
        self.first_row
            + (self.batch - 1) * self.row_of_batch
            + (self.tokens - 1) * self.row_of_token
    }
}

/// Checks the largest index that every binding of a dispatch is read or written at, and that the grid has all invocations.
fn check_indices(seen: &Seen<'_>, limits: &Limits) {
    let planned = seen.planned;
    let size = |binding: usize| {
        let bytes = &planned.bindings[binding].bytes;
        bytes.end - bytes.start
    };
    let fits_u32 = |value: u64| assert!(u32::try_from(value).is_ok(), "{value} wraps");
    for side in seen.sides.iter().filter(|side| side.heads > 0) {
        // The last head that any group takes. Loads of several at once do not ask whether all are there.
        let last_group = (side.groups - 1) * side.per;
        assert!(last_group < side.heads, "a group without a head");
        let taken = match seen.path {
            "moves" => side.per,
            _ => side
                .per
                .min(side.heads - last_group)
                .next_multiple_of(side.at_once),
        };
        assert_eq!(last_group + taken, side.heads, "heads of the last group");
        if side.groups > 1 {
            assert!(side.per.is_multiple_of(side.at_once));
        }
        let head = side.first
            + (seen.batch - 1) * side.batch_stride
            + (seen.tokens - 1) * side.token_stride
            + (side.heads - 1) * side.head_stride;
        fits_u32(head);
        let last = if seen.path == "windows" {
            let (word, lead) = match seen.element.bytes() {
                4 => (head, 0),
                _ => (head / 2, head % 2),
            };
            let words = match seen.element.bytes() {
                4 => seen.window,
                _ => (lead + seen.window).div_ceil(2),
            };
            word + words - 1
        } else {
            head + seen
                .interleaved
                .map(|interleaved| seen.last_part(interleaved))
                .into_iter()
                .max()
                .unwrap_or(0)
        };
        fits_u32(last);
        let unit = if seen.path == "windows" {
            4
        } else {
            seen.unit()
        };
        let length = size(side.binding) / unit;
        assert!(last < length, "index {last} of {length}");
    }
    let (entries, last) = seen.row_units();
    // A row does not run into the next one.
    assert!(last < seen.row_stride);
    let last = seen.rows() * seen.row_stride + last;
    fits_u32(last);
    let length = size(1) / (8 * entries);
    assert!(last < length, "entry {last} of {length}");

    let groups = seen.sides[0].groups + seen.sides[1].groups;
    let workgroup = u64::from(planned.constant("WORKGROUP").expect("the plan gives it"));
    assert!(
        (1..=u64::from(limits.max_compute_invocations_per_workgroup.max(1))).contains(&workgroup)
    );
    let range = planned.range();
    let [across, down, deep] = planned.workgroups(range.end).map(u64::from);
    assert_eq!((down, deep), (seen.tokens, seen.batch));
    assert_eq!(range.len() as u64, seen.tokens);
    if seen.path == "windows" {
        assert_eq!(across, groups);
    } else {
        fits_u32(across * workgroup - 1);
        assert!(across * workgroup >= groups * seen.lanes);
        assert!(
            (across - 1) * workgroup < groups * seen.lanes,
            "an idle workgroup"
        );
    }
    if seen.path == "moves" {
        // Whole heads in every workgroup.
        assert!(workgroup.is_multiple_of(seen.lanes));
    }
    if seen.path == "windows" {
        let staged = u64::from(planned.constant("STAGED").expect("the plan gives it"));
        let words = match seen.element.bytes() {
            4 => seen.window,
            // A window may start within a word.
            _ => seen.window / 2 + 1,
        };
        assert!(staged >= words);
        assert!(staged * 4 <= u64::from(limits.max_compute_workgroup_storage_size));
    }
    let most = limits.max_compute_workgroups_per_dimension.max(1);
    for groups in planned.workgroups(u32::MAX) {
        assert!((1..=most).contains(&groups));
    }
    for count in [0, range.start, range.start.saturating_add(1), range.end] {
        let own = u64::from(count.min(range.end).saturating_sub(range.start));
        let made = planned.workgroups(count).map(u64::from);
        assert_eq!(
            made,
            if own == 0 {
                [0; 3]
            } else {
                [across, own, deep]
            }
        );
    }
}

/// Checks the dispatches of a plan: what they bind, and every index.
pub fn check(plan: &RopePlan, placement: Placement, dispatches: &[PlannedDispatch]) {
    let (spec, limits) = (plan.spec(), plan.limits());
    let operands = spec.operands().expect("the plan was made");
    let bytes = |n: usize| operands.get(n).map_or(0, |(_, bytes)| *bytes);
    let ends = [placement.query + bytes(0), placement.key + bytes(1)];
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
    let mut heads = 0;
    for planned in dispatches {
        let seen = Seen::new(planned);
        let range = planned.range();
        assert!(range.start < range.end && range.end <= spec.tokens());
        for (index, binding) in planned.bindings.iter().enumerate() {
            assert_eq!(binding.binding as usize, index);
            let bytes = &binding.bytes;
            assert!(bytes.start < bytes.end && bytes.end.is_multiple_of(4));
            let end = match binding.resource {
                Resource::Uniform => {
                    assert_eq!(bytes.end, 80);
                    continue;
                }
                Resource::Rows => {
                    let pairs = u64::from(spec.config().rotary_dim() / 2).next_multiple_of(2);
                    spec.rows_needed(spec.tokens()) * pairs * 8
                }
                Resource::Tensor(Operand::Query) if placement.shared => ends[0].max(ends[1]),
                Resource::Tensor(Operand::Query) => ends[0],
                Resource::Tensor(Operand::Key) => ends[1],
                other => panic!("a rotation binds no {other:?}"),
            };
            assert!(bytes.end <= end, "bound past what the operand needs");
            assert!(bytes.start.is_multiple_of(alignment.max(16)));
            assert!(bytes.end - bytes.start <= limits.max_storage_buffer_binding_size);
        }
        check_indices(&seen, limits);
        heads += seen.tokens * seen.batch * (seen.sides[0].heads + seen.sides[1].heads);
    }
    // As many heads as there are.
    let each = u64::from(spec.query().layout().heads)
        + spec.key().map_or(0, |key| key.layout().heads.into());
    let all = u128::from(spec.batch()) * u128::from(spec.tokens()) * u128::from(each);
    assert_eq!(u128::from(heads), all);
}

/// Every element that the dispatches write, each of them once.
///
/// Elements of a buffer that both tensors share are the query's.
pub fn written(dispatches: &[PlannedDispatch]) -> Written {
    let mut all = HashMap::new();
    // 16-bit elements come two to a word, and a word is written as a whole.
    let mut words = HashMap::new();
    for (number, planned) in dispatches.iter().enumerate() {
        let seen = Seen::new(planned);
        let groups = seen.sides[0].groups + seen.sides[1].groups;
        let items = match seen.path {
            "windows" => groups,
            _ => groups * seen.lanes,
        };
        let mut owner = 0;
        for batch in 0..seen.batch {
            for token in 0..seen.tokens {
                for item in 0..items {
                    owner += 1;
                    let mut put = |at: Element, source: Source| {
                        let word = (at.0, at.1 / 4);
                        let by = *words.entry(word).or_insert((number, owner));
                        assert_eq!(by, (number, owner), "a word of two owners");
                        if source.entry.is_none() && source.pair[usize::from(source.is_y)] == at {
                            return;
                        }
                        assert_eq!(all.insert(at, source), None, "{at:?} is written twice");
                    };
                    invocation(&seen, batch, token, item, &mut put);
                }
            }
        }
    }
    all
}

/// What one invocation writes, or, for windows, one workgroup.
fn invocation(
    seen: &Seen<'_>,
    batch: u64,
    token: u64,
    item: u64,
    put: &mut impl FnMut(Element, Source),
) {
    let (lane, group) = match seen.path {
        "windows" => (0, item),
        _ => (item % seen.lanes, item / seen.lanes),
    };
    let is_key = group >= seen.sides[0].groups;
    let side = &seen.sides[usize::from(is_key)];
    let group = group - if is_key { seen.sides[0].groups } else { 0 };
    let binding = &seen.planned.bindings[side.binding];
    let buffer = u8::from(binding.resource == Resource::Tensor(Operand::Key));
    let row = seen.first_row + batch * seen.row_of_batch + token * seen.row_of_token;
    // Elements of a unit.
    let each = seen.unit() / seen.element.bytes();
    let per = if seen.path == "moves" {
        side.per
    } else {
        side.per.min(side.heads - group * side.per)
    };
    for n in 0..per {
        let head = group * side.per + n;
        let slice = side.first
            + batch * side.batch_stride
            + token * side.token_stride
            + head * side.head_stride;
        let element = |at: u64| (buffer, binding.bytes.start + at * seen.element.bytes());
        if seen.path == "windows" {
            window(seen, slice, row, &element, put);
            continue;
        }
        // The elements of both parts of the lane, by pairs.
        let place = |interleaved: bool, pair: u64| -> [Element; 2] {
            let parts = seen.parts(lane, interleaved);
            let at = |index: u64| {
                let part = slice + parts[usize::from(index >= each)];
                element(part * each + index % each)
            };
            if interleaved {
                [at(2 * pair), at(2 * pair + 1)]
            } else {
                [at(pair), at(each + pair)]
            }
        };
        let (entries, _) = seen.row_units();
        for pair in 0..each {
            let k = if seen.are_pairs_whole() {
                let half = each / 2;
                seen.parts(lane, true)[usize::from(pair >= half)] * half + pair % half
            } else {
                lane * each + pair
            };
            // The row's own unit, counted in entries.
            assert!(k < seen.row_stride * entries);
            let entry = Some((row, u32::try_from(k).expect("a pair of a head")));
            let (read, write) = (
                place(seen.interleaved[0], pair),
                place(seen.interleaved[1], pair),
            );
            for (at, is_y) in write.into_iter().zip([false, true]) {
                put(
                    at,
                    Source {
                        pair: read,
                        entry,
                        is_y,
                    },
                );
            }
        }
    }
}

/// The channels of a window.
fn window(
    seen: &Seen<'_>,
    slice: u64,
    row: u64,
    element: &impl Fn(u64) -> Element,
    put: &mut impl FnMut(Element, Source),
) {
    let distance = seen.distance;
    for channel in 0..seen.window {
        let within = channel % (2 * distance);
        let (pair, is_y) = if seen.interleaved[1] {
            (channel / 2, channel % 2 == 1)
        } else {
            (
                channel / (2 * distance) * distance + within % distance,
                within >= distance,
            )
        };
        let x = if seen.interleaved[0] {
            2 * pair
        } else {
            pair + pair / distance * distance
        };
        let y = x + if seen.interleaved[0] { 1 } else { distance };
        assert!(y < seen.window);
        let turns = pair < seen.pairs;
        let entry = turns.then(|| (row, u32::try_from(pair).expect("a pair of a head")));
        let pair = [element(slice + x), element(slice + y)];
        put(element(slice + channel), Source { pair, entry, is_y });
    }
}

/// The channels of pair k of n, counted from the start of the window: where it is read, and where it is written.
fn channels(pairing: Pairing, n: u64, k: u64) -> ([u64; 2], [u64; 2]) {
    let half_split = [k, n + k];
    let interleaved = [2 * k, 2 * k + 1];
    match pairing {
        Pairing::HalfSplit => (half_split, half_split),
        Pairing::Interleaved => (interleaved, interleaved),
        Pairing::InterleavedToHalfSplit => (interleaved, half_split),
        Pairing::HalfSplitToInterleaved => (half_split, interleaved),
        Pairing::HalfSplitBlocks(blocks) => {
            let m = n / u64::from(blocks);
            let x = k / m * 2 * m + k % m;
            ([x, x + m], [x, x + m])
        }
        other => panic!("no pairs are known of {other:?}"),
    }
}

/// The same from the layouts: `rotated` pairs of every head turn.
pub fn expected(spec: &RotateSpec, rotated: u32, placement: Placement) -> Written {
    let mut all = HashMap::new();
    let mut tensor = |buffer: u8, view: &TensorView, origin: u64| {
        let layout = view.layout();
        let Storage::Float(element) = view.storage() else {
            unreachable!("a rotation in place")
        };
        let n = u64::from(spec.config().rotary_dim() / 2);
        for (b, t, first) in heads(spec, layout) {
            let first = first + u64::from(spec.config().rotary_offset());
            let byte = |channel: u64| (buffer, origin + (first + channel) * element.bytes());
            for k in 0..n {
                let (read, write) = channels(spec.config().pairing(), n, k);
                let read = read.map(byte);
                let k = u32::try_from(k).expect("a pair of a head");
                let entry = (k < rotated).then(|| (spec.row(b, t), k));
                for (channel, is_y) in write.into_iter().zip([false, true]) {
                    let at = byte(channel);
                    if entry.is_none() && read[usize::from(is_y)] == at {
                        continue;
                    }
                    let source = Source {
                        pair: read,
                        entry,
                        is_y,
                    };
                    assert_eq!(all.insert(at, source), None, "{at:?} is in two heads");
                }
            }
        }
    };
    tensor(0, spec.query(), placement.query);
    if let Some(key) = spec.key() {
        tensor(u8::from(!placement.shared), key, placement.key);
    }
    all
}

/// Batch entry, token and first element of every head.
fn heads(spec: &RotateSpec, layout: HeadLayout) -> impl Iterator<Item = (u32, u32, u64)> {
    let (batch, tokens) = (spec.batch(), spec.tokens());
    (0..batch).flat_map(move |b| {
        (0..tokens).flat_map(move |t| {
            (0..layout.heads).map(move |h| {
                let first = layout.offset
                    + u64::from(b) * layout.batch_stride
                    + u64::from(t) * layout.token_stride
                    + u64::from(h) * layout.head_stride;
                (b, t, first)
            })
        })
    })
}
