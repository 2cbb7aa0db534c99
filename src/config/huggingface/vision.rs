//! Vision towers: rotations whose positions are places in a grid of patches.

use std::collections::HashSet;
use std::f64::consts::TAU;

use super::values::{Object, flag, missing, object, positive, sides, string, whole, wholes};
use crate::config::reading::note;
use crate::config::{Axes, AxisRun, LayerKind, LayerRope, ModelRope, Pairing, RopeConfig, Scaling};
use crate::error::{Result, RopeError};
use crate::positions::{GridAxis, GridPositions};

/// How a family of vision towers has its RoPE.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tower {
    pub(super) names: &'static [&'static str],
    /// Composite models whose tower it is where its own name does not say.
    pub(super) composites: &'static [&'static str],
    pub(super) scheme: Scheme,
    pub(super) theta: f64,
    /// Hidden size and heads of the class.
    size: [u32; 2],
    patch: u32,
    image: u32,
    merge: Merge,
    tokens: Tokens,
    /// It reads the theta beside its parameters alone.
    own_theta: bool,
    /// It rotates only where this key is true.
    pub(super) only_if: Option<&'static str>,
    /// It is that of its composites whatever its part says of itself (MiniMax-M3's says that it is CLIP's, which has no RoPE).
    whatever_it_says: bool,
}

/// Which pairs read which axis, and what the axes count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scheme {
    /// The first half of the pairs row, the second column.
    Axial,
    /// The same with rows and columns from 1.
    AxialFromOne,
    /// Interleaved pairs, the first half of them column, the second row, of positions (row, column).
    WidthFirst,
    /// The same, rows and columns from 1.
    WidthFirstFromOne,
    /// Interleaved pairs, column and row by turns.
    Kimi,
    /// Row and column take every other frequency of one list.
    Pixtral,
    /// A block of the head for column, one for row.
    Gemma4,
    /// Three axes; channels are left over.
    MiniMax,
    /// Interleaved pairs, column then row, from 1.
    Llama4,
    /// Coordinates of patch centres.
    Dino,
    /// Interleaved pairs, column then row, of a grid of features.
    SamMemory,
    /// The same of patches, in windows and over the whole image.
    Sam3,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Merge {
    /// Patches stand row by row.
    Raster,
    /// In squares of `spatial_merge_size`, else of this.
    Squares(u32),
}

/// Tokens that stay unrotated.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Tokens {
    None,
    /// A class token at the end.
    Last,
    /// A class token at the start.
    First,
    /// A class token and `num_register_tokens` (else this many) at the start.
    Registers(u32),
}

const fn tower(
    names: &'static [&'static str],
    composites: &'static [&'static str],
    scheme: Scheme,
) -> Tower {
    Tower {
        names,
        composites,
        scheme,
        theta: 1e4,
        size: [1152, 16],
        patch: 16,
        image: 0,
        merge: Merge::Raster,
        tokens: Tokens::None,
        own_theta: false,
        only_if: None,
        whatever_it_says: false,
    }
}

impl Tower {
    const fn theta(self, theta: f64) -> Self {
        Self { theta, ..self }
    }

    /// Hidden size, heads, patch and image of the class.
    const fn class(self, hidden: u32, heads: u32, patch: u32, image: u32) -> Self {
        Self {
            size: [hidden, heads],
            patch,
            image,
            ..self
        }
    }

    const fn merged(self) -> Self {
        Self {
            merge: Merge::Squares(2),
            ..self
        }
    }

    const fn tokens(self, tokens: Tokens) -> Self {
        Self { tokens, ..self }
    }

    const fn only_if(self, key: &'static str) -> Self {
        Self {
            only_if: Some(key),
            ..self
        }
    }

    const fn whatever_it_says(self) -> Self {
        Self {
            whatever_it_says: true,
            ..self
        }
    }

    const fn own_theta(self) -> Self {
        Self {
            own_theta: true,
            ..self
        }
    }
}

/// Models whose files have Pixtral's weights in their original order, of interleaved pairs.
const PIXTRAL_INTERLEAVED: [&str; 1] = ["mistral_large4"];

pub(super) static TOWERS: &[Tower] = &[
    tower(
        &["qwen2_vl_vision"],
        &["qwen2_vl", "colqwen2"],
        Scheme::Axial,
    )
    .class(1280, 16, 14, 0)
    .merged(),
    tower(
        &[
            "qwen2_5_vl_vision",
            "qwen2_5_omni_vision_encoder",
            "exaone4_5_vision",
        ],
        &[
            "qwen2_5_vl",
            "hyperclovax_vision_v2",
            "qwen2_5_omni",
            "qwen2_5_omni_thinker",
            "exaone4_5",
        ],
        Scheme::Axial,
    )
    .class(3584, 16, 14, 0)
    .merged(),
    tower(
        &[
            "qwen3_vl_vision",
            "qwen3_vl_moe_vision",
            "qwen3_5_vision",
            "qwen3_5_moe_vision",
            "qwen4_exp_vision",
            "qwen3_omni_moe_vision_encoder",
            "cohere_compass_vision",
        ],
        &[
            "qwen3_vl",
            "qwen3_vl_moe",
            "qwen3_5",
            "qwen3_5_moe",
            "qwen4_exp",
            "qwen3_omni_moe",
            "qwen3_omni_moe_thinker",
            "cohere_compass",
            "cosmos3_omni",
        ],
        Scheme::Axial,
    )
    .class(1152, 16, 16, 0)
    .merged(),
    tower(
        &["glm4v_vision", "glm4v_moe_vision"],
        &["glm4v", "glm46v", "glmga", "glm4v_moe"],
        Scheme::Axial,
    )
    .class(1536, 12, 14, 336)
    .merged(),
    tower(
        &["glm_ocr_vision", "glm5_next_vision"],
        &["glm_ocr", "glm5_next"],
        Scheme::Axial,
    )
    .class(1024, 16, 14, 336)
    .merged(),
    tower(
        &["ernie4_5_vl_moe_vision"],
        &["ernie4_5_vl_moe", "ernie4_5_moe_vl"],
        Scheme::Axial,
    )
    .class(1280, 16, 14, 0)
    .merged(),
    tower(&["lfm3_vl_vision"], &["lfm3_vl"], Scheme::Axial)
        .theta(1e6)
        .class(1024, 16, 16, 0)
        .merged(),
    tower(
        &["dots3_note_vision_encoder"],
        &["dots3_note"],
        Scheme::Axial,
    )
    .class(1536, 24, 14, 0)
    .merged(),
    tower(&["dots_vit"], &["dots_ocr"], Scheme::Axial)
        .class(1536, 12, 14, 0)
        .merged(),
    tower(&["siglip2_navit"], &["ovis2_5"], Scheme::Axial)
        .class(1152, 16, 16, 0)
        .merged()
        .only_if("use_rope"),
    tower(&["paddleocr_vl_vision"], &["paddleocr_vl"], Scheme::Axial).class(1152, 16, 14, 384),
    tower(&["video_llama_3_vision"], &["video_llama_3"], Scheme::Axial).class(768, 12, 16, 0),
    tower(&["mlcd_vision_model", "mlcd"], &["mlcd"], Scheme::Axial).class(1664, 16, 14, 336),
    tower(
        &["muse_spark_vision", "muse_glimmer_vision"],
        &["muse_spark", "muse_glimmer"],
        Scheme::AxialFromOne,
    )
    .class(1536, 16, 14, 0),
    tower(
        &["kimi_k25_vision", "moonvit"],
        &["kimi_k25", "kimi_vl"],
        Scheme::Kimi,
    )
    .class(1152, 16, 14, 0),
    tower(&["step3p5_vision"], &["step3p7"], Scheme::WidthFirst).class(1536, 16, 14, 728),
    tower(
        &["inkling2_vision"],
        &["inkling2"],
        Scheme::WidthFirstFromOne,
    )
    .class(1024, 16, 20, 0)
    .merged()
    .tokens(Tokens::First),
    tower(
        &["minimax_m3_vl_vision"],
        &["minimax_m3_vl"],
        Scheme::MiniMax,
    )
    .class(1280, 16, 14, 2016)
    .merged()
    .whatever_it_says(),
    tower(
        &["pixtral"],
        &["lighton_ocr", "mistral3", "mistral_large4"],
        Scheme::Pixtral,
    )
    .class(1024, 16, 16, 1024),
    tower(
        &["gemma4_vision"],
        &["gemma4", "diffusion_gemma", "embedding_gemma2"],
        Scheme::Gemma4,
    )
    .theta(100.0)
    .class(768, 12, 16, 0),
    tower(&["llama4_vision_model"], &["llama4"], Scheme::Llama4)
        .class(768, 16, 14, 448)
        .tokens(Tokens::Last),
    tower(&["dinov3_vit"], &[], Scheme::Dino)
        .theta(100.0)
        .class(384, 6, 16, 224)
        .tokens(Tokens::Registers(0))
        .own_theta(),
    tower(&["eomt_dinov3"], &[], Scheme::Dino)
        .theta(100.0)
        .class(1024, 16, 16, 640)
        .tokens(Tokens::Registers(4)),
    tower(&["sapiens2"], &[], Scheme::Dino)
        .theta(100.0)
        .class(1024, 16, 16, 224)
        .tokens(Tokens::Registers(8))
        .own_theta(),
    tower(&["sam2_video", "edgetam_video"], &[], Scheme::SamMemory).class(256, 1, 1, 64),
    tower(&["sam3_tracker_video"], &[], Scheme::SamMemory).class(256, 1, 1, 72),
    tower(
        &["sam3_vit_model"],
        &[
            "sam3",
            "sam3_lite_text",
            "sam3_tracker",
            "sam3_video",
            "sam3_vision_model",
        ],
        Scheme::Sam3,
    )
    .class(1024, 16, 14, 1008),
];

fn in_composite(name: &str) -> Option<&'static Tower> {
    TOWERS.iter().find(|tower| tower.composites.contains(&name))
}

/// The tower of a composite model, where its part need not be asked.
pub(super) fn whatever_it_says(composite: &str) -> Option<&'static Tower> {
    in_composite(composite).filter(|tower| tower.whatever_it_says)
}

/// A tower by its own name, or by that of the composite model it stands in.
pub(super) fn find(own: Option<&str>, composite: Option<&str>) -> Option<&'static Tower> {
    let named = |name| TOWERS.iter().find(|tower| tower.names.contains(&name));
    own.and_then(named)
        .or_else(|| own.and_then(in_composite))
        .or_else(|| composite.and_then(in_composite))
}

/// The name of a tower that is known by any of its names.
fn known(tower: &'static Tower, own: Option<&str>) -> &'static str {
    let named = tower.names.iter().find(|name| own == Some(name));
    named.or(tower.names.first()).copied().unwrap_or_default()
}

fn first_of(file: &Object, keys: &[&'static str]) -> Result<Option<u32>> {
    for &key in keys {
        if let Some(value) = whole(file, key)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

impl Tower {
    /// `composite` is the name of the model that the tower is a part of.
    pub(super) fn read(
        &'static self,
        file: &Object,
        composite: Option<&str>,
    ) -> Result<Option<ModelRope>> {
        if let Some(key) = self.only_if {
            if flag(file, key)? != Some(true) {
                return Ok(None);
            }
        }
        let mut defaulted = Vec::new();
        let theta = self.theta_of(file, &mut defaulted)?;
        let head_dim = self.head_dim(file, &mut defaulted)?;
        let mut grid = self.grid(file)?;
        let mut config = RopeConfig::new(head_dim).with_theta(theta);
        let pairs = head_dim / 2;
        let (row, column) = (GridAxis::Row, GridAxis::Column);
        match self.scheme {
            Scheme::Axial => config = config.with_axes(Axes::axial(&[0, 1], pairs)),
            Scheme::AxialFromOne => {
                config = config.with_axes(Axes::axial(&[0, 1], pairs));
                grid.axes = vec![column, row];
                grid.first = 1;
            }
            Scheme::WidthFirst | Scheme::WidthFirstFromOne => {
                config = config
                    .with_axes(Axes::axial(&[1, 0], pairs))
                    .with_pairing(Pairing::Interleaved);
                if self.scheme == Scheme::WidthFirstFromOne {
                    grid.first = 1;
                }
            }
            Scheme::Kimi => {
                config = config
                    .with_axes(Axes::AxialAlternating)
                    .with_pairing(Pairing::Interleaved);
            }
            Scheme::Pixtral => {
                config = config.with_axes(Axes::AxialStrided(2));
                if composite.is_some_and(|name| PIXTRAL_INTERLEAVED.contains(&name)) {
                    config = config.with_pairing(Pairing::Interleaved);
                }
            }
            Scheme::Gemma4 => {
                config = config
                    .with_axes(Axes::axial(&[0, 1], pairs))
                    .with_pairing(Pairing::HalfSplitBlocks(2));
                grid.axes = vec![column, row];
            }
            Scheme::MiniMax => {
                let each = head_dim / 3 / 2;
                let runs = (0..3).map(|axis| AxisRun { axis, pairs: each });
                config = config
                    .with_rotary_dim(6 * each)
                    .with_axes(Axes::Axial(runs.collect()));
                grid.axes = vec![GridAxis::Frame, row, column];
            }
            Scheme::Llama4 => {
                config = config
                    .with_axes(Axes::axial(&[0, 1], pairs))
                    .with_pairing(Pairing::Interleaved);
                grid.axes = vec![column, row];
                grid.first = 1;
            }
            Scheme::Dino => {
                // A coordinate of 1 is a whole turn.
                config = config
                    .with_axes(Axes::axial(&[0, 1], pairs))
                    .with_scaling(Scaling::Linear { factor: 1.0 / TAU });
                grid.centred = true;
            }
            Scheme::SamMemory | Scheme::Sam3 => {
                config = config
                    .with_axes(Axes::axial(&[0, 1], pairs))
                    .with_pairing(Pairing::Interleaved);
                grid.axes = vec![column, row];
            }
        }
        let kind = |name: &str, config: RopeConfig, grid: GridPositions| -> Result<LayerKind> {
            config.validate()?;
            let mut rope = LayerRope::new(config);
            rope.grid = Some(grid);
            Ok(LayerKind {
                name: name.to_owned(),
                rope: Some(rope),
                query_scale: None,
            })
        };
        let (kinds, layers) = if self.scheme == Scheme::Sam3 {
            let window = whole(file, "window_size")?.unwrap_or(24);
            let across = grid.image_size.unwrap_or([1008; 2])[1]
                / grid.patch_size.unwrap_or([14; 2])[1].max(1);
            // Positions of the whole image are squeezed into the window's range.
            let scaling = Scaling::Linear {
                factor: f64::from(across) / f64::from(window.max(1)),
            };
            let in_window = GridPositions {
                patch_size: Some([1; 2]),
                image_size: Some([window; 2]),
                ..grid.clone()
            };
            let kinds = vec![
                kind("window_attention", config.clone(), in_window)?,
                kind("global_attention", config.with_scaling(scaling), grid)?,
            ];
            let global =
                wholes(file, "global_attn_indexes")?.unwrap_or_else(|| vec![7, 15, 23, 31]);
            // Looked up for each layer.
            let global: HashSet<u32> = global.into_iter().collect();
            let count = super::layer_count(file)?.unwrap_or(0);
            let layers = (0..count).map(|layer| usize::from(global.contains(&layer)));
            (kinds, layers.collect())
        } else {
            (vec![kind("full_attention", config, grid)?], Vec::new())
        };
        Ok(Some(ModelRope {
            family: Some(known(self, string(file, "model_type")?)),
            defaulted,
            kinds,
            layers,
        }))
    }

    fn theta_of(&self, file: &Object, defaulted: &mut Vec<&'static str>) -> Result<f64> {
        let set = match object(file, "rope_parameters")? {
            Some(set) => Some(set),
            None => object(file, "rope_scaling")?,
        };
        if let Some(set) = set {
            let name = match string(set, "rope_type")? {
                Some(name) => Some(name),
                None => string(set, "type")?,
            };
            if let Some(name) = name.filter(|name| !["default", "axial", "mrope"].contains(name)) {
                return Err(RopeError::config(
                    "rope_type",
                    "must be default or axial in a vision part",
                    name,
                ));
            }
        }
        if let Some(set) = set.filter(|_| !self.own_theta) {
            if let Some(theta) = positive(set, "rope_theta")? {
                return Ok(theta);
            }
        }
        for key in ["rope_theta", "memory_attention_rope_theta"] {
            if let Some(theta) = positive(file, key)? {
                return Ok(theta);
            }
        }
        note(defaulted, "rope_theta");
        Ok(self.theta)
    }

    fn head_dim(&self, file: &Object, defaulted: &mut Vec<&'static str>) -> Result<u32> {
        if self.scheme == Scheme::SamMemory {
            let key = |key, default| Ok::<_, RopeError>(whole(file, key)?.unwrap_or(default));
            let hidden = key("memory_attention_hidden_size", self.size[0])?;
            let rate = key("memory_attention_downsample_rate", 1)?;
            let heads = key("memory_attention_num_attention_heads", self.size[1])?;
            return super::quotient(
                "memory_attention_num_attention_heads",
                hidden,
                rate.saturating_mul(heads),
            );
        }
        let has_own = !matches!(self.scheme, Scheme::Dino | Scheme::Llama4);
        if let Some(head_dim) = whole(file, "head_dim")?.filter(|_| has_own) {
            return Ok(head_dim);
        }
        let size = first_of(
            file,
            &["embed_dim", "width", "vt_hidden_size", "hidden_size"],
        )?;
        let heads = first_of(
            file,
            &[
                "num_heads",
                "heads",
                "vt_num_attention_heads",
                "num_attention_heads",
            ],
        )?;
        if size.is_none() {
            note(defaulted, "hidden_size");
        }
        if heads.is_none() {
            note(defaulted, "num_attention_heads");
        }
        super::quotient(
            "num_attention_heads",
            size.unwrap_or(self.size[0]),
            heads.unwrap_or(self.size[1]),
        )
    }

    fn grid(&self, file: &Object) -> Result<GridPositions> {
        let patch = match sides(file, "patch_size")? {
            Some(patch) => patch,
            None => sides(file, "native_patch_size")?.unwrap_or([self.patch; 2]),
        };
        let mut image = sides(file, "image_size")?;
        if image.is_none() && self.image > 0 {
            image = Some([self.image; 2]);
        }
        let mut grid = GridPositions {
            merge: match self.merge {
                Merge::Raster => 1,
                Merge::Squares(default) => first_of(
                    file,
                    &["spatial_merge_size", "adapter_merge_size", "hidden_stride"],
                )?
                .unwrap_or(default),
            },
            patch_size: Some(patch),
            image_size: image,
            ..GridPositions::default()
        };
        match self.tokens {
            Tokens::None => {}
            Tokens::Last => grid.suffix_tokens = 1,
            Tokens::First => grid.prefix_tokens = 1,
            Tokens::Registers(default) => {
                let registers = whole(file, "num_register_tokens")?.unwrap_or(default);
                grid.prefix_tokens = registers.saturating_add(1);
            }
        }
        if self.scheme == Scheme::SamMemory {
            // Width first; the grid is one of features, not of pixels.
            let sizes = wholes(file, "memory_attention_rope_feat_sizes")?;
            grid.patch_size = Some([1; 2]);
            grid.image_size = Some(match sizes.as_deref() {
                Some(&[width, height]) => [height, width],
                Some(_) => return Err(missing("memory_attention_rope_feat_sizes")),
                None => [self.image; 2],
            });
        }
        Ok(grid)
    }
}
