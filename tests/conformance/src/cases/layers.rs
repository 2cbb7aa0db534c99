//! Layers in one dispatch: each with a pipeline of its own, which takes drivers seconds, so each tells several things at once.

use wgpu_rope::{
    Direction, ElementType, Frequencies, HeadLayout, Limits, Norm, NormWeight, Operand, Pair,
    Pairing, Place, QueryFactor, QueryScale, RopeConfig, RotateSpec, Rows, Scaling, Storage,
    TensorView,
};

use crate::maker::{Layer, Maker};
use crate::vectors::Failure;

const F32: ElementType = ElementType::F32;
const F16: ElementType = ElementType::F16;
const BF16: ElementType = ElementType::Bf16;

/// Slots of five tokens in a cache of 24: one has none, one has another than there are.
const SLOTS: [i32; 5] = [3, -1, 17, 24, 9];

fn bshd(tokens: u32, heads: u32, head_dim: u32) -> HeadLayout {
    HeadLayout::bshd(tokens, heads, head_dim)
}

/// Query, key and value behind each other in memory of their own.
fn three(
    config: &RopeConfig,
    tokens: u32,
    [heads, kv_heads]: [u32; 2],
    element: ElementType,
) -> RotateSpec {
    let layout = |heads| bshd(tokens, heads, config.head_dim());
    RotateSpec::new(config, 1, tokens, layout(heads), element)
        .with_key(layout(kv_heads), element)
        .with_value(layout(kv_heads), element)
}

/// Query and key.
fn two(
    config: &RopeConfig,
    tokens: u32,
    [heads, kv_heads]: [u32; 2],
    element: ElementType,
) -> RotateSpec {
    let layout = |heads| bshd(tokens, heads, config.head_dim());
    RotateSpec::new(config, 1, tokens, layout(heads), element).with_key(layout(kv_heads), element)
}

/// Six pages of four tokens: `[pages, page_size, heads, head_dim]`.
fn nhd(heads: u32, head_dim: u32, storage: impl Into<Storage>) -> TensorView {
    TensorView::cache(HeadLayout::bshd(4, heads, head_dim), 6, 4, storage)
}

/// `[pages, heads, page_size, head_dim]`.
fn hnd(heads: u32, head_dim: u32, storage: impl Into<Storage>) -> TensorView {
    TensorView::cache(HeadLayout::bhsd(4, heads, head_dim), 6, 4, storage)
}

fn scale(element: ElementType) -> Norm {
    Norm::rms(1e-6, NormWeight::Scale(element))
}

fn one_plus(element: ElementType) -> Norm {
    Norm::rms(1e-5, NormWeight::OnePlus(element))
}

fn bare() -> Norm {
    Norm::rms(1e-6, NormWeight::None)
}

fn layer(config: &RopeConfig, spec: RotateSpec) -> Result<Layer, Failure> {
    Layer::new(config, spec)
}

/// All of them.
pub(crate) fn add(maker: &mut Maker) -> Result<(), Failure> {
    caches(maker)?;
    norms(maker)?;
    windows(maker)?;
    one_buffer(maker)?;
    sums(maker)?;
    several(maker)?;
    quantised(maker)?;
    channels(maker)
}

const GROUP: &str = "layers";

/// What models do: norms, rotation, pages of a cache.
fn caches(maker: &mut Maker) -> Result<(), Failure> {
    let config = RopeConfig::new(128).with_theta(1e6);
    let qwen = |storage: ElementType| {
        three(&config, 5, [5, 2], F32)
            .with_query_norm(scale(F32))
            .with_key_norm(scale(F32))
            .with_key_to(nhd(2, 128, storage))
            .with_value_to(nhd(2, 128, storage))
    };
    let mut one = layer(&config, qwen(F16))?;
    one.slots = SLOTS.to_vec();
    one.is_filled = true;
    maker.layer(GROUP, "QK-norm, pages of f16, filled", &one)?;
    let mut one = layer(&config, qwen(BF16))?;
    one.slots = SLOTS.to_vec();
    one.limits.cpu = true;
    maker.layer(GROUP, "QK-norm, pages of bf16, CPU", &one)?;

    // Gemma: weights are added to 1, values have a norm of their own; pages by head. A scale by position, as in Llama 4.
    let config = RopeConfig::new(64).with_pairing(Pairing::Interleaved);
    let spec = three(&config, 5, [3, 1], BF16)
        .with_query_norm(one_plus(BF16))
        .with_key_norm(one_plus(BF16))
        .with_value_norm(bare())
        .with_query_factor(QueryFactor::PerRow)
        .with_key_to(hnd(1, 64, F32))
        .with_value_to(hnd(1, 64, F16));
    let mut one = layer(&config, spec)?;
    one.slots = SLOTS.to_vec();
    one.scale = Some(QueryScale::llama4(8192, 0.1, 1 << 20)?);
    one.is_filled = true;
    maker.layer(GROUP, "1 + weights, scales by row, filled", &one)?;

    // A latent of 512 channels and a rotated part of 64 behind it: both to one cache.
    let config = RopeConfig::new(64).with_pairing(Pairing::Interleaved);
    let tokens = 5;
    let within = |first: u64, head_dim: u32| {
        HeadLayout::bshd(tokens, 1, head_dim)
            .with_strides(u64::from(tokens) * 576, 576, 576)
            .with_offset(first)
    };
    let slot = |first: u64, head_dim: u32| {
        let layout = HeadLayout::bshd(4, 1, head_dim).with_strides(4 * 576, 576, 576);
        TensorView::cache(layout.with_offset(first), 6, 4, BF16)
    };
    let query = HeadLayout::bshd(tokens, 3, 64)
        .with_strides(u64::from(tokens) * 3 * 192, 3 * 192, 192)
        .with_offset(128);
    let spec = RotateSpec::new(&config, 1, tokens, query, BF16)
        .with_key(within(512, 64), BF16)
        .with_value(within(0, 512), BF16)
        .with_value_norm(scale(BF16))
        .with_key_to(slot(512, 64))
        .with_value_to(slot(0, 512));
    let mut one = layer(&config, spec)?;
    one.slots = SLOTS.to_vec();
    let at = |operand, buffer| (operand, Place { buffer, offset: 0 });
    one.places = vec![
        at(Operand::Key, 0),
        at(Operand::Value, 0),
        at(Operand::KeyTo, 1),
        at(Operand::ValueTo, 1),
    ];
    for cpu in [false, true] {
        one.limits.cpu = cpu;
        let device = if cpu { "CPU" } else { "GPU" };
        maker.layer(GROUP, &format!("latent and rotated part, {device}"), &one)?;
    }

    // Keys of a cache are turned on where they lie, and then go to other slots.
    let config = RopeConfig::new(32);
    let place = nhd(3, 32, F16);
    let spec = RotateSpec::new(&config, 1, 5, bshd(5, 3, 32), F16).with_query_from(place);
    let mut one = layer(&config, spec.clone())?;
    one.slots = SLOTS.to_vec();
    maker.layer(GROUP, "within a cache", &one)?;
    let spec = spec.with_query_to(nhd(3, 32, F32).with_first_slot(5));
    let mut one = layer(&config, spec)?;
    one.slots = [SLOTS, [0, 4, 2, 23, -7]].concat();
    maker.layer(GROUP, "from a cache to another", &one)
}

/// Norms of every kind in place.
pub(crate) fn norms(maker: &mut Maker) -> Result<(), Failure> {
    let config = RopeConfig::new(80);
    let spec = two(&config, 3, [4, 2], F32)
        .with_query_norm(bare())
        .with_key_norm(bare())
        .with_query_factor(QueryFactor::Constant(0.111_803_4));
    maker.layer(GROUP, "no weights, a factor", &layer(&config, spec)?)?;

    // Entries of a batch with rows of their own; weights of another type.
    let (config, tokens) = (RopeConfig::new(96), 3);
    let layout = |heads| HeadLayout::bhsd(tokens, heads, 96);
    let spec = RotateSpec::new(&config, 2, tokens, layout(3), F16)
        .with_key(layout(1), F16)
        .with_rows(Rows::PerToken)
        .with_query_norm(scale(F16))
        .with_key_norm(one_plus(F16));
    let mut one = layer(&config, spec)?;
    maker.layer(GROUP, "two norms, f16, [B, H, S, D]", &one)?;
    one.limits.cpu = true;
    maker.layer(GROUP, "two norms, f16, [B, H, S, D], CPU", &one)?;

    // Over all heads: by channel.
    let config = RopeConfig::new(64);
    for (name, element, weight) in [
        ("scale", F32, scale(BF16)),
        ("1 + weights", BF16, one_plus(F32)),
    ] {
        let norm = weight.over_all_heads();
        let spec = two(&config, 3, [4, 2], element)
            .with_query_norm(norm)
            .with_key_norm(norm);
        let mut one = layer(&config, spec)?;
        one.limits.cpu = element == BF16;
        maker.layer(GROUP, &format!("over all heads, {name}"), &one)?;
    }

    // None of them, and no rotation.
    let config = RopeConfig::new(48);
    let spec = three(&config, 5, [2, 2], F32)
        .without_rotation()
        .with_query_norm(scale(F32))
        .with_query_factor(QueryFactor::Constant(-0.25))
        .with_query_to(TensorView::new(HeadLayout::bhsd(5, 2, 48), BF16))
        .with_key_to(nhd(2, 48, F16))
        .with_value_to(nhd(2, 48, F16));
    let mut one = layer(&config, spec)?;
    one.slots = SLOTS.to_vec();
    maker.layer(GROUP, "without rotation", &one)
}

/// Windows, pairs that stay as they are, pairings.
fn windows(maker: &mut Maker) -> Result<(), Failure> {
    let config = RopeConfig::new(128)
        .with_rotary_dim(64)
        .with_rotary_offset(32);
    let spec = two(&config, 3, [3, 1], F32)
        .with_query_norm(scale(F32))
        .with_key_norm(bare());
    maker.layer(GROUP, "32 + 64 of 128", &layer(&config, spec)?)?;

    let config = RopeConfig::new(128)
        .with_rotary_dim(48)
        .with_rotary_offset(16)
        .with_pairing(Pairing::Interleaved);
    let spec = two(&config, 3, [3, 1], F16).with_key_norm(one_plus(BF16));
    let mut one = layer(&config, spec)?;
    one.limits.cpu = true;
    maker.layer(GROUP, "16 + 48 of 128, interleaved, CPU", &one)?;

    let config = RopeConfig::new(96).with_pairing(Pairing::HalfSplitBlocks(3));
    let spec = two(&config, 3, [3, 1], BF16).with_query_norm(scale(F32));
    maker.layer(GROUP, "3 blocks", &layer(&config, spec)?)?;

    let config = RopeConfig::new(128).with_scaling(Scaling::Proportional {
        rotated_pairs: 16,
        factor: 1.0,
    });
    let spec = two(&config, 3, [2, 1], F32).with_query_norm(scale(F32));
    maker.layer(GROUP, "proportional", &layer(&config, spec)?)?;

    let config = RopeConfig::new(32).with_pairing(Pairing::Interleaved);
    let some = |k: u32| Pair {
        inv_freq: if k.is_multiple_of(3) { 0.0 } else { 0.3 },
        axis: 0,
    };
    let frequencies = Frequencies::from_pairs((0..16).map(some), 1.0)?;
    let spec = two(&config, 3, [2, 1], F32)
        .with_query_norm(scale(F32))
        .with_frequencies(&frequencies);
    let mut one = layer(&config, spec)?;
    one.frequencies = frequencies;
    maker.layer(GROUP, "idle pairs within", &one)?;

    // Pairs that move, by channel.
    for (name, pairing, element, to) in [
        ("to half-split", Pairing::InterleavedToHalfSplit, F16, BF16),
        ("to interleaved", Pairing::HalfSplitToInterleaved, F32, F16),
    ] {
        let config = RopeConfig::new(32).with_pairing(pairing);
        let spec = two(&config, 3, [2, 2], element)
            .with_query_norm(scale(F16))
            .with_key_to(TensorView::new(HeadLayout::bhsd(3, 2, 32), to));
        maker.layer(GROUP, name, &layer(&config, spec)?)?;
    }
    Ok(())
}

/// Packed QKV, and K and V in one cache.
fn one_buffer(maker: &mut Maker) -> Result<(), Failure> {
    let config = RopeConfig::new(64);
    let packed = |first, heads| HeadLayout::packed(5, 6, first, heads, 64);
    // Pages hold keys and then values.
    let layout = HeadLayout::bshd(4, 1, 64).with_strides(2 * 4 * 64, 64, 64);
    let half = |first: u64| TensorView::cache(layout.with_offset(first), 6, 4, F16);
    let spec = RotateSpec::new(&config, 1, 5, packed(0, 4), F16)
        .with_key(packed(4, 1), F16)
        .with_value(packed(5, 1), F16)
        .with_query_norm(scale(F32))
        .with_key_norm(scale(F32))
        .with_key_to(half(0))
        .with_value_to(half(4 * 64));
    let mut one = layer(&config, spec)?;
    one.slots = SLOTS.to_vec();
    let at = |operand, buffer| (operand, Place { buffer, offset: 48 });
    one.places = vec![
        at(Operand::Query, 0),
        at(Operand::Key, 0),
        at(Operand::Value, 0),
        at(Operand::KeyTo, 1),
        at(Operand::ValueTo, 1),
    ];
    maker.layer(GROUP, "packed, K and V in one buffer", &one)
}

/// What is added to what is there.
fn sums(maker: &mut Maker) -> Result<(), Failure> {
    let config = RopeConfig::new(64);
    let to = |heads, element| TensorView::new(bshd(3, heads, 64), element).accumulated();
    let spec = two(&config, 3, [3, 2], F32)
        .with_query_to(to(3, F32))
        .with_key_to(to(2, BF16));
    let mut one = layer(&config, spec)?;
    one.direction = Direction::Adjoint;
    maker.layer(GROUP, "accumulated", &one)?;

    // [head_dim, tokens] of an odd number of tokens: halves of a word are those of two tokens, or of two heads.
    let turned = |heads: u32, element| {
        let layout = bshd(3, heads, 64).with_strides(u64::from(heads) * 64 * 3, 1, 64 * 3);
        TensorView::new(layout, element).with_channel_stride(3)
    };
    let spec = two(&config, 3, [3, 2], F32)
        .with_query_to(turned(3, F16).accumulated())
        .with_key_to(turned(2, BF16));
    maker.layer(GROUP, "transposed", &layer(&config, spec)?)
}

/// Several heads of an invocation, and several dispatches.
fn several(maker: &mut Maker) -> Result<(), Failure> {
    let config = RopeConfig::new(256);
    let spec = three(&config, 17, [8, 2], F32)
        .with_query_norm(scale(F32))
        .with_value_norm(bare())
        .with_key_to(TensorView::new(HeadLayout::bhsd(17, 2, 256), BF16));
    let mut one = layer(&config, spec.clone())?;
    one.limits.cpu = true;
    maker.layer(GROUP, "rounds, CPU", &one)?;
    let given = spec.with_heads_per_invocation(2).with_workgroup(40);
    maker.layer(GROUP, "rounds", &layer(&config, given)?)?;

    let config = RopeConfig::new(64);
    let spec = two(&config, 9, [6, 2], F16)
        .with_query_norm(scale(F32))
        .with_key_to(TensorView::new(HeadLayout::bshd(9, 2, 64), F32));
    let mut one = layer(&config, spec)?;
    one.limits.max_storage_buffer_binding_size = 3072;
    maker.layer(GROUP, "small bindings", &one)?;
    one.limits = Limits {
        max_compute_workgroups_per_dimension: 4,
        ..Limits::default()
    };
    maker.layer(GROUP, "small grids", &one)
}

/// Blocks with a scale, and bytes with scales of their own: to caches, from them, and zeros.
fn quantised(maker: &mut Maker) -> Result<(), Failure> {
    let config = RopeConfig::new(64);
    for (name, storage, element, filled) in [
        ("Q8_0", Storage::Q8_0, F32, true),
        ("int8", Storage::Int8, F16, false),
    ] {
        let spec = three(&config, 5, [3, 2], element)
            .with_query_norm(scale(F32))
            .with_key_norm(scale(F32))
            .with_key_to(nhd(2, 64, storage))
            .with_value_to(hnd(2, 64, storage));
        let mut one = layer(&config, spec)?;
        one.slots = SLOTS.to_vec();
        one.is_filled = filled;
        one.limits.cpu = !filled;
        one.zeros = vec![Operand::Value];
        maker.layer(GROUP, &format!("to {name}"), &one)?;

        // Back, and from slots to slots with a turn.
        let view = nhd(2, 64, storage);
        let spec = RotateSpec::new(&config, 1, 5, bshd(5, 2, 64), F32)
            .with_query_from(view)
            .with_query_to(TensorView::new(bshd(5, 2, 64), element))
            .with_key_from(view);
        let mut one = layer(&config, spec)?;
        one.slots = SLOTS.to_vec();
        maker.layer(GROUP, &format!("from {name}"), &one)?;
    }
    let config = RopeConfig::new(96).with_pairing(Pairing::Interleaved);
    let norm = scale(F32).over_all_heads();
    let spec = three(&config, 3, [2, 1], BF16)
        .with_query_norm(norm)
        .with_key_norm(norm)
        .with_query_factor(QueryFactor::PerRow)
        .with_query_to(TensorView::new(bshd(3, 2, 96), Storage::Int8))
        .with_key_to(TensorView::new(bshd(3, 1, 96), Storage::Q8_0))
        .with_value_to(TensorView::new(bshd(3, 1, 96), Storage::Int8));
    let mut one = layer(&config, spec)?;
    one.scale = Some(QueryScale::llama4(8192, 0.1, 1 << 20)?);
    one.limits.max_compute_workgroups_per_dimension = 3;
    maker.layer(GROUP, "to both, small grids", &one)
}

/// Heads that are no whole octets, windows at odd channels, tensors at odd words.
fn channels(maker: &mut Maker) -> Result<(), Failure> {
    let config = RopeConfig::new(6);
    let spec = three(&config, 5, [3, 1], F16)
        .with_query_norm(scale(F16))
        .with_key_to(nhd(1, 6, BF16))
        .with_value_to(nhd(1, 6, F16));
    let mut one = layer(&config, spec)?;
    one.slots = SLOTS.to_vec();
    one.alignment = 4;
    maker.layer(GROUP, "head_dim 6", &one)?;

    let config = RopeConfig::new(20)
        .with_rotary_dim(18)
        .with_rotary_offset(1)
        .with_pairing(Pairing::HalfSplitBlocks(3));
    let spec = two(&config, 3, [3, 1], BF16)
        .with_query_norm(one_plus(F32))
        .with_query_factor(QueryFactor::Constant(0.3));
    let mut one = layer(&config, spec)?;
    one.limits.cpu = true;
    maker.layer(GROUP, "1 + 18 of 20, 3 blocks, CPU", &one)?;

    let config = RopeConfig::new(66)
        .with_rotary_dim(44)
        .with_rotary_offset(5)
        .with_pairing(Pairing::Interleaved);
    let spec = three(&config, 3, [2, 1], F32)
        .with_query_norm(scale(F32))
        .with_key_norm(scale(F32))
        .with_value_norm(bare())
        .with_key_to(TensorView::new(HeadLayout::bhsd(3, 1, 66), F16))
        .with_value_to(TensorView::new(HeadLayout::bhsd(3, 1, 66), F16));
    let mut one = layer(&config, spec)?;
    one.alignment = 12;
    maker.layer(GROUP, "5 + 44 of 66", &one)?;

    let config = RopeConfig::new(32);
    let spec = RotateSpec::new(&config, 1, 3, bshd(3, 2, 32), F32)
        .with_query_norm(scale(BF16))
        .with_value(bshd(3, 1, 33), F16)
        .with_value_norm(scale(BF16))
        .with_value_to(TensorView::new(bshd(3, 1, 33), Storage::Int8))
        .without_rotation();
    maker.layer(GROUP, "an odd value", &layer(&config, spec)?)
}
