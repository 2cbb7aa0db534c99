// slots.wgsl: tokens to slots of a cache. Joined behind table.wgsl.
//
// Purpose: fills the slots that stand behind a table's rows, one for each token: its place in a cache of keys and values, or -1
// for none. Run once a step, beside the fill of the rows.
//
// Bindings (group 0); those of 3 and 2 are table.wgsl's
//   0 slot_params     uniform             SlotParams
//   2 counting_table  storage, read_write its slots are written, and a count of skipped tokens
//   3 positions       storage, read       positions (i32), or slots in slots_listed; none for *_counted
//   4 block_table     storage, read       pages of each sequence; page_* only
//   5 sequences       storage, read       sequence of each token; *_ragged only
//
// Override constants
//   WORKGROUP    invocations along x, one per batch entry
//
// Entry points
//   slots_listed               slots that are listed: one that is not in the cache becomes -1
//   place_counted, place_listed, place_ragged
//                              places in a contiguous cache, of positions that count on from a constant, that are listed, and that are listed
//                              together with the sequence
//   page_counted, page_listed, page_ragged
//                              places in the pages of a block table
// A token that has no slot gets -1 and is counted, once; -1 that is listed is what was asked for.
//
// Grid: x = workgroups across the batch, y = tokens of an entry, exactly.
// Tail: invocations past the last entry or the last token write nothing.

struct SlotParams {
    /// Batch entries, and tokens of each: the way from a slot to that of the next entry.
    batch: u32,
    tokens: u32,
    /// Tokens of an entry that may be written.
    served: u32,
    /// Token of the first workgroups along y.
    first_token: u32,
    /// Index in the table, in words, of the first slot and of the count of what was skipped.
    slots: u32,
    skipped: u32,
    /// Index of the first listed position in its binding, and the way to those of the next entry and the next token.
    first: u32,
    entry_stride: u32,
    token_stride: u32,
    /// Position of token 0 where none is listed.
    start: i32,
    /// 1 where tokens count on from the position of token 0, else 0.
    counts_on: u32,
    /// Index of the first sequence and of the first page in their bindings.
    first_sequence: u32,
    first_page: u32,
    /// Sequences of the cache.
    sequences: u32,
    /// The first position that has no place.
    positions: u32,
    /// Places that stay, and how many others there are, in which positions go round.
    sinks: u32,
    period: u32,
    /// Places of a page; of a sequence, where it has no pages.
    page_size: u32,
    /// Pages of the cache; its slots, where they are listed.
    pages: u32,
    /// Columns of the block table.
    pages_per_sequence: u32,
}

@group(0) @binding(0) var<uniform> slot_params: SlotParams;
@group(0) @binding(4) var<storage, read> block_table: array<i32>;
@group(0) @binding(5) var<storage, read> sequences: array<i32>;

/// No slot, and no place: -1.
const NO_SLOT: u32 = 0xffffffffu;

/// (batch entry, token) of an invocation.
fn token_of(workgroup: vec3<u32>, local: u32) -> vec2<u32> {
    return vec2(workgroup.x * WORKGROUP + local, slot_params.first_token + workgroup.y);
}

fn is_token(at: vec2<u32>) -> bool {
    return at.x < slot_params.batch && at.y < slot_params.served;
}

/// Position of a token that counts on from a constant (wrapping, to a negative one).
fn counted_position(at: vec2<u32>) -> i32 {
    return slot_params.start + bitcast<i32>(at.y);
}

/// What is listed for a token.
fn listed_position(at: vec2<u32>) -> i32 {
    let index = slot_params.first + at.x * slot_params.entry_stride + at.y * slot_params.token_stride;
    return positions[index] + bitcast<i32>(slot_params.counts_on * at.y);
}

fn listed_sequence(at: vec2<u32>) -> u32 {
    return bitcast<u32>(sequences[slot_params.first_sequence + at.y]);
}

/// The place of a position in its sequence.
fn place_in_sequence(position: i32) -> u32 {
    // A negative position is a large one.
    let at = bitcast<u32>(position);
    if (at >= slot_params.positions) {
        return NO_SLOT;
    }
    if (at < slot_params.sinks) {
        return at;
    }
    return slot_params.sinks + (at - slot_params.sinks) % slot_params.period;
}

/// The slot of a place in a contiguous cache.
fn slot_of_sequence(sequence: u32, position: i32) -> u32 {
    let place = place_in_sequence(position);
    if (sequence >= slot_params.sequences || place == NO_SLOT) {
        return NO_SLOT;
    }
    return sequence * slot_params.page_size + place;
}

/// The slot of a place in the pages of a sequence. The block table is read inside of it only: no sequence has more places than columns.
fn slot_of_page(sequence: u32, position: i32) -> u32 {
    let place = place_in_sequence(position);
    if (sequence >= slot_params.sequences || place == NO_SLOT) {
        return NO_SLOT;
    }
    let entry = sequence * slot_params.pages_per_sequence + place / slot_params.page_size;
    // A negative page is a large one.
    let page = bitcast<u32>(block_table[slot_params.first_page + entry]);
    if (page >= slot_params.pages) {
        return NO_SLOT;
    }
    return page * slot_params.page_size + place % slot_params.page_size;
}

fn put_slot(at: vec2<u32>, slot: u32) {
    let index = slot_params.slots + at.x * slot_params.tokens + at.y;
    atomicStore(&counting_table[index], slot);
}

/// Puts the slot of a token that has to have one.
fn put_or_skip(at: vec2<u32>, slot: u32) {
    put_slot(at, slot);
    if (slot == NO_SLOT) {
        atomicAdd(&counting_table[slot_params.skipped], 1u);
    }
}

@compute @workgroup_size(WORKGROUP)
fn slots_listed(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = token_of(workgroup, local);
    if (!is_token(at)) {
        return;
    }
    let slot = bitcast<u32>(listed_position(at));
    if (slot == NO_SLOT) {
        put_slot(at, NO_SLOT);
    } else {
        put_or_skip(at, select(NO_SLOT, slot, slot < slot_params.pages));
    }
}

@compute @workgroup_size(WORKGROUP)
fn place_counted(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = token_of(workgroup, local);
    if (is_token(at)) {
        put_or_skip(at, slot_of_sequence(at.x, counted_position(at)));
    }
}

@compute @workgroup_size(WORKGROUP)
fn place_listed(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = token_of(workgroup, local);
    if (is_token(at)) {
        put_or_skip(at, slot_of_sequence(at.x, listed_position(at)));
    }
}

@compute @workgroup_size(WORKGROUP)
fn place_ragged(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = token_of(workgroup, local);
    if (is_token(at)) {
        put_or_skip(at, slot_of_sequence(listed_sequence(at), listed_position(at)));
    }
}

@compute @workgroup_size(WORKGROUP)
fn page_counted(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = token_of(workgroup, local);
    if (is_token(at)) {
        put_or_skip(at, slot_of_page(at.x, counted_position(at)));
    }
}

@compute @workgroup_size(WORKGROUP)
fn page_listed(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = token_of(workgroup, local);
    if (is_token(at)) {
        put_or_skip(at, slot_of_page(at.x, listed_position(at)));
    }
}

@compute @workgroup_size(WORKGROUP)
fn page_ragged(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let at = token_of(workgroup, local);
    if (is_token(at)) {
        put_or_skip(at, slot_of_page(listed_sequence(at), listed_position(at)));
    }
}
