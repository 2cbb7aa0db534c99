//! Rotary position embedding (RoPE) of Q and K, in place on wgpu buffers, with cos/sin tables that are correctly rounded and
//! have the same bits on every backend and on the CPU.
//!
//! Transformers encode a token's position by rotating pairs of channels of Q and K by an angle proportional to it
//! (Su et al., [RoFormer](https://arxiv.org/abs/2104.09864), 2021). This crate is middleware: the application owns device,
//! queue, encoder and tensors; the crate plans, checks, makes pipelines and records dispatches of two kinds.
//!
//! - **Fills** of a table: positions become rows of (cos, sin), and tokens get slots of a cache. They alone know angles. They are recorded
//!   once a step, or once for all.
//! - **Rotations**: rows and tensors become rotated tensors, in place or wherever a layer's attention wants them. They alone know memory. One
//!   is recorded once a layer.
//!
//! # From a model to a recorded rotation
//!
//! ```text
//! RopeConfig -> Frequencies -> CosSinTable -> bind_positions -> TableFill::record(pass) --.
//!  what a model   f64 for each   rows on the    once a step                               v
//!  says           pair           device
//! RotateSpec -> RopePlan -> PreparedRope -> bind(q, k, table) -> RopeDispatch::record(pass, tokens)
//!  layouts,      validated,   pipeline,        a bind group          once a layer
//!  types         as data      uniform
//! ```
//!
//! ```no_run
//! use wgpu_rope::{
//!     ElementType, Frequencies, HeadLayout, KernelOptions, Operands, Positions, RopeConfig,
//!     RopeKernel, RopePlan, RotateSpec, TableSpec, wgpu,
//! };
//! # fn layer(device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder, q: &wgpu::Buffer, k: &wgpu::Buffer,
//! #          start: &wgpu::Buffer) -> wgpu_rope::Result<()> {
//! // Once: q is [1, 512, 32, 128] and k [1, 512, 8, 128] in bf16, `start` holds the position of the first token (i32).
//! let config = RopeConfig::new(128).with_theta(500_000.0);
//! let kernel = RopeKernel::new(device, &KernelOptions::default())?;
//! let table = kernel.table(&TableSpec::new(&Frequencies::new(&config)?), 512)?;
//! let fill = table.bind_positions(Positions::Start(start.slice(..)))?;
//! let spec = RotateSpec::new(&config, 1, 512, HeadLayout::bshd(512, 32, 128), ElementType::Bf16)
//!     .with_key(HeadLayout::bshd(512, 8, 128), ElementType::Bf16);
//! let prepared = kernel.prepare(&RopePlan::new(&spec, kernel.limits())?)?;
//! let rotation = prepared.bind(&Operands::new(q.slice(..)).with_key(k.slice(..)), &table)?;
//!
//! // Each step, into the application's own pass: any number of tokens up to 512.
//! let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
//! fill.record(&mut pass, 100)?;
//! rotation.record(&mut pass, 100)?;
//! # Ok(()) }
//! ```
//!
//! [`guides`] tell how to put this into an engine, with paged caches, images, shards or a browser, and what other frameworks call things.
//!
//! # Slots of a cache, and a scale of the query
//!
//! A table can hold more than rows. [`TableSpec::with_slots`] makes room for the slot of every token, its place in a cache of keys and
//! values; [`CosSinTable::bind_slots`] fills it from a `slot_mapping`, or by a [`SlotRule`] from positions: contiguous, a ring with
//! attention sinks, or a block table. A token that has no slot gets -1 and is counted, whatever the buffers hold.
//! [`TableSpec::with_query_scale`] adds a factor of the query for each row ([`QueryScale`]; a model's file tells it,
//! [`LayerKind::query_scale`](config::LayerKind::query_scale)), which the fill of the rows writes.
//!
//! # A layer in one dispatch
//!
//! [`RotateSpec`] has optional parts: norms before the rotation ([`Norm`]), a factor of the query behind it ([`QueryFactor`]), destinations of other
//! layouts and types, among them caches whose slots the table lists ([`TensorView`], [`TableSpec::with_slots`]), and a value that goes to its
//! cache beside the key. What is asked for is one dispatch of `shaders/layer.wgsl`; a plain rotation in place remains one of
//! `shaders/rotate.wgsl`. [`reference::layer`] has the same bits.
//!
//! - **Context shift.** A cache is a source: `RotateSpec::new(..).with_query_from(cache)` rotates keys where they lie, by slot, with a table filled
//!   with deltas instead of positions: one for all ([`Rows::One`]) or one for each sequence ([`Rows::PerSequence`]), on each axis its own. The keys have
//!   had the attention factor, so the table is made from [`Frequencies::without_attention_factor`]. From pages to other pages
//!   the slots are two lists ([`TensorView::with_first_slot`]); to other frequencies the table is made from [`Frequencies::between`] and
//!   filled with the keys' positions. Quantised caches are dequantised and quantised again on the way: each time adds at most half a scale.
//! - **Backward.** The gradient of a rotation is the adjoint one ([`Direction::Adjoint`]), from the gradient of the output to that of the input:
//!   [`RotateSpec::with_query_to`], and [`TensorView::accumulated`] where it is added to what is there.
//!
//! # What is promised
//! - **Exact tables.** cos and sin are f32 values within 0.5 + 2^-31 ulp at every i32 position, computed in u32 arithmetic: [`turns`] says how,
//!   and what frequencies one would have to make up for a larger error. No position is out of range.
//! - **The same bits everywhere.** Rotations round each product and sum by itself, so results equal [`reference::rotate`] bit for bit in f32, f16 and bf16. Three things WGSL leaves open
//!   remain so: whether f32 denormals are flushed to zero, what a zero's sign is, and what becomes of infinities and NaNs (on every driver tested they
//!   are what IEEE 754 says, but for which NaN a NaN is). Rounding is to nearest even, which hardware
//!   gives and WGSL does not promise; [`GpuContext::self_test`] checks a device.
//! - **Baseline WebGPU.** No features, default limits, 3 storage buffers for the rotation, at most 4 for the table and 8 for a layer in one
//!   dispatch. Tensors larger than a binding are rotated in windows; a cache, and one token of a layer, have to fit one.
//! - **Nothing behind the application's back.** Recording submits nothing, polls nothing, writes nothing through the queue.
//! - **Errors, not panics.** Every fault that the crate can see (shapes, sizes, usages, alignment, overlap, the table's width and
//!   rows, limits) is a [`RopeError`] naming operand, rule and value, and nothing is recorded then. Natively that includes what wgpu
//!   alone can see where something is bound: out of memory (but for its GL backend, which does not ask), a lost device, a buffer of another
//!   device. A browser tells of such things later than it returns an object: await [`checked`] around whatever is made there, or hear of
//!   it in the device's own error handler. Not to be seen are a table of other frequencies of the same width, a fill that was recorded
//!   and not submitted, a pass or indirect arguments of another device (wgpu tells when the encoder is finished), and objects of another
//!   `wgpu::Instance`, on which wgpu itself panics.
//!
//! # Features
//! - `wgpu` (default): everything that touches a GPU. wgpu's backends are the application's choice; `vulkan`, `metal`, `dx12`, `gles`
//!   and `webgpu` forward to wgpu's features of these names. Without `wgpu` there are frequencies, plans as data
//!   ([`RopePlan::dispatches`], [`TablePlan::fill`]), WGSL text ([`ROTATE_WGSL`], [`TABLE_WGSL`]) and the CPU twin: enough for any
//!   WebGPU host to dispatch.
//! - `huggingface`: [`config::huggingface`] reads a model's `config.json`.
//! - `gguf`: [`config::gguf`] reads the metadata of a model's GGUF file.
//! - `rayon`: the CPU twin, [`reference::rotate`] and [`reference::table`], in parallel.
//!
//! [`GpuContext`] needs a backend to be compiled in: one of these features, or an own dependency on wgpu that has it.
//!
//! The crate compiles for wasm32; blocking calls exist natively only.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(all(feature = "wgpu", feature = "huggingface", feature = "gguf")),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "links lead to what a feature brings, and the documentation that is published has all features"
    )
)]

pub mod config;
#[cfg(feature = "wgpu")]
mod context;
#[cfg(feature = "wgpu")]
mod dispatch;
mod error;
mod frequencies;
pub mod guides;
mod integer;
#[cfg(feature = "wgpu")]
mod kernel;
mod layout;
mod plan;
pub mod positions;
mod query_scale;
pub mod reference;
#[cfg(feature = "wgpu")]
mod scope;
#[cfg(feature = "wgpu")]
mod self_test;
mod slots;
#[cfg(feature = "wgpu")]
mod table;
pub mod turns;

pub use config::{Axes, Pairing, RopeConfig, Scaling, Yarn};
pub use error::{Result, RopeError};
pub use frequencies::{Direction, Frequencies, Pair};
pub use half;
pub use layout::{Element, ElementType, HeadLayout};
pub use plan::{
    Access, Angles, CosSinLayout, LAYER_WGSL, Limits, MAX_HEADS_AT_ONCE, MAX_HEADS_PER_INVOCATION,
    Norm, NormWeight, Operand, Place, Placement, Places, PlannedBinding, PlannedDispatch,
    PositionSource, QueryFactor, ROTATE_WGSL, Resource, RopePlan, RotateSpec, Rows,
    SlotPositionSource, SlotRanges, SlotSource, Storage, TABLE_WGSL, TablePlan, TableSpec,
    TensorView, UNUSED_BYTES,
};
pub use positions::{AxisOrder, RowPositions};
pub use query_scale::QueryScale;
pub use slots::{Pages, SlotRule};
#[cfg(feature = "wgpu")]
pub use {
    context::GpuContext,
    dispatch::{Operands, PreparedRope, RopeDispatch},
    kernel::{KernelOptions, RopeKernel},
    scope::checked,
    self_test::{LayerTest, SelfTest},
    table::{CosSinTable, Positions, SlotFill, SlotPositions, Slots, TableFill},
    wgpu,
};

/// The README's code, compiled and run as its readers would.
#[cfg(all(doctest, feature = "wgpu", feature = "huggingface"))]
#[doc = include_str!("../README.md")]
struct Readme;
