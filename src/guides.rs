//! How to put the crate into something larger: documentation only, whose code is compiled and run with the tests.
//!
//! - [`engine`](mod@engine): into a wgpu engine of one's own: device, limits, fills, layers, several sequences, indirect dispatch.
//! - [`filling`](mod@filling): rows that are filled once, or each step: memory, cost, when which.
//! - [`paged`](mod@paged): decoding with a KV cache by slot: norm, rotation and append in one dispatch, with a table of what combinations take.
//! - [`multimodal`](mod@multimodal): positions of several axes: M-RoPE of text with images, and the 2-D positions of vision towers.
//! - [`sharding`](mod@sharding): context parallelism (contiguous and zig-zag) and tensor parallelism: which positions a shard passes.
//! - [`browser`](mod@browser): WebGPU in a browser: what is async there, and what differs.
//! - [`migration`](mod@migration): what transformers, vLLM, ggml, MLX, candle and ONNX call what is here.
//! - [`numerics`](mod@numerics): why angles are turns, how cos and sin are rounded once, and the test of each claim.
//! - [`comparison`](mod@comparison): what the README's comparison with other implementations rests on.
//! - [`versions`](mod@versions): versions of the crate, of wgpu and of Rust; features; what an update of wgpu means.

#[cfg(feature = "wgpu")]
#[cfg_attr(docsrs, doc(cfg(feature = "wgpu")))]
#[doc = include_str!("guides/engine.md")]
pub mod engine {}

#[cfg(feature = "wgpu")]
#[cfg_attr(docsrs, doc(cfg(feature = "wgpu")))]
#[doc = include_str!("guides/filling.md")]
pub mod filling {}

#[cfg(feature = "wgpu")]
#[cfg_attr(docsrs, doc(cfg(feature = "wgpu")))]
#[doc = include_str!("guides/paged.md")]
pub mod paged {}

#[doc = include_str!("guides/multimodal.md")]
pub mod multimodal {}

#[doc = include_str!("guides/sharding.md")]
pub mod sharding {}

#[cfg(feature = "wgpu")]
#[cfg_attr(docsrs, doc(cfg(feature = "wgpu")))]
#[doc = include_str!("guides/browser.md")]
pub mod browser {}

#[doc = include_str!("guides/migration.md")]
pub mod migration {}

#[doc = include_str!("guides/numerics.md")]
#[doc = ""]
#[doc = "<div role=\"img\" aria-label=\"Largest error of cos and sin by position\" style=\"overflow-x: auto\">"]
// No line of the picture is blank, which would end it as a block of HTML.
#[doc = include_str!("../examples/accuracy.svg")]
#[doc = "</div>"]
pub mod numerics {}

#[expect(clippy::doc_markdown, reason = "names of others, quoted as they stand")]
#[doc = include_str!("guides/comparison.md")]
pub mod comparison {}

#[doc = include_str!("guides/versions.md")]
pub mod versions {}
