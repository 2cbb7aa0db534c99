//! Positions on the host: what the rows of a table stand for, and how batches and images get their ids.

use crate::error::{Result, RopeError};

/// How a list of positions with several axes is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AxisOrder {
    /// `[axes, rows]` (and `[axes, batch, tokens]`, whose rows are `batch * tokens`): so many values for axis 0, then as many for axis 1.
    First {
        /// Values from one axis to the next.
        rows: u32,
    },
    /// `[rows, axes]`: the axes of a row side by side. With one axis it is a plain list.
    Last,
}

impl AxisOrder {
    /// The distance in values from one axis to the next and from one row to the next.
    pub(crate) fn strides(self, axes: u32) -> (u32, u32) {
        match self {
            Self::First { rows } => (rows, 1),
            Self::Last => (1, axes),
        }
    }

    /// How many rows a list of this many values has positions for, all axes considered.
    pub(crate) fn rows(self, axes: u32, values: u64) -> u64 {
        match self {
            Self::First { rows } => {
                let others = u64::from(axes.saturating_sub(1)) * u64::from(rows);
                values.saturating_sub(others).min(rows.into())
            }
            Self::Last => values / u64::from(axes.max(1)),
        }
    }
}

/// The positions of a table's rows, on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RowPositions<'a> {
    /// An id for each row, the same on all axes.
    Ids(&'a [i32]),
    /// An id for each row and axis.
    IdsPerAxis(&'a [i32], AxisOrder),
    /// A coordinate for each row and axis, of vision models whose positions are no whole numbers. They go with
    /// [`Angles::F32`](crate::Angles::F32).
    Coordinates(&'a [f32], AxisOrder),
}

/// The position of one row on one axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Position {
    Id(i32),
    Coordinate(f32),
}

impl<'a> From<&'a [i32]> for RowPositions<'a> {
    fn from(ids: &'a [i32]) -> Self {
        Self::Ids(ids)
    }
}

impl<'a> From<&'a Vec<i32>> for RowPositions<'a> {
    fn from(ids: &'a Vec<i32>) -> Self {
        Self::Ids(ids)
    }
}

impl<'a, const N: usize> From<&'a [i32; N]> for RowPositions<'a> {
    fn from(ids: &'a [i32; N]) -> Self {
        Self::Ids(ids)
    }
}

impl RowPositions<'_> {
    /// How many rows have a position on each of `axes` axes.
    #[must_use]
    pub fn rows(&self, axes: u32) -> u64 {
        match self {
            Self::Ids(ids) => ids.len() as u64,
            Self::IdsPerAxis(ids, order) => order.rows(axes, ids.len() as u64),
            Self::Coordinates(values, order) => order.rows(axes, values.len() as u64),
        }
    }

    /// The position of a row that is there.
    pub(crate) fn at(&self, axes: u32, row: usize, axis: u32) -> Position {
        let index = |order: AxisOrder| {
            let (axis_stride, row_stride) = order.strides(axes);
            axis as usize * axis_stride as usize + row * row_stride as usize
        };
        match self {
            Self::Ids(ids) => Position::Id(ids[row]),
            Self::IdsPerAxis(ids, order) => Position::Id(ids[index(*order)]),
            Self::Coordinates(values, order) => Position::Coordinate(values[index(*order)]),
        }
    }
}

/// Ids of 64 bits, as frameworks keep them, as the i32 that tables take.
///
/// # Errors
/// [`RopeError::Config`] naming the first id that does not fit i32.
pub fn ids_from_i64(ids: &[i64]) -> Result<Vec<i32>> {
    ids.iter()
        .map(|&id| {
            i32::try_from(id).map_err(|_| RopeError::config("position_ids", "must fit i32", id))
        })
        .collect()
}

/// The ids of ragged sequences that stand behind each other: sequence i has the tokens `cu_seqlens[i]..cu_seqlens[i + 1]`
/// (FlashAttention's `cu_seqlens`, FlashInfer's `indptr`, beginning with 0), and its first one the position `offsets[i]`: the length of
/// what is cached of it, 0 for a prefill and for samples packed into one row.
///
/// ```
/// let ids = wgpu_rope::positions::ragged(&[0, 3, 4], &[0, 17])?;
/// assert_eq!(ids, [0, 1, 2, 17]);
/// # Ok::<(), wgpu_rope::RopeError>(())
/// ```
///
/// # Errors
/// [`RopeError::Layout`] where `cu_seqlens` does not begin with 0, descends, or is not one longer than `offsets`;
/// [`RopeError::Overflow`] where a position does not fit i32.
pub fn ragged(cu_seqlens: &[u32], offsets: &[i32]) -> Result<Vec<i32>> {
    let fault = |rule, got: String| Err(RopeError::layout("cu_seqlens", rule, got));
    if cu_seqlens.len() != offsets.len() + 1 {
        let got = format!("{} of {} sequences", cu_seqlens.len(), offsets.len());
        return fault("must have one entry more than there are sequences", got);
    }
    if cu_seqlens.first() != Some(&0) {
        return fault("must begin with 0", format!("{:?}", cu_seqlens.first()));
    }
    if let Some(pair) = cu_seqlens.windows(2).find(|pair| pair[1] < pair[0]) {
        return fault("must not descend", format!("{} after {}", pair[1], pair[0]));
    }
    // Everything is checked before anything is made.
    let ends = cu_seqlens.windows(2).zip(offsets).map(|(pair, &offset)| {
        let end = i64::from(offset) + i64::from(pair[1] - pair[0]);
        (i64::from(offset), end)
    });
    if ends.clone().any(|(_, end)| end > i64::from(i32::MAX) + 1) {
        return Err(RopeError::overflow("positions", "must fit i32"));
    }
    let ids = ends.flat_map(|(start, end)| start..end);
    Ok(ids.filter_map(|id| i32::try_from(id).ok()).collect())
}

/// The ids of a batch padded to rows of `tokens`, from its attention mask `[batch, tokens]` (0: padding, on either side): tokens that
/// count are numbered from 0 in each row, and padding has position 0, which leaves it unrotated.
///
/// ```
/// let ids = wgpu_rope::positions::padded(&[0, 0, 1, 1, /**/ 1, 1, 1, 0], 4)?;
/// assert_eq!(ids, [0, 0, 0, 1, /**/ 0, 1, 2, 0]);
/// # Ok::<(), wgpu_rope::RopeError>(())
/// ```
///
/// # Errors
/// [`RopeError::Layout`] where the mask is not whole rows, or a row longer than i32 can number.
pub fn padded(attention_mask: &[u8], tokens: u32) -> Result<Vec<i32>> {
    let row = tokens as usize;
    if row == 0 || !attention_mask.len().is_multiple_of(row) || i32::try_from(tokens).is_err() {
        return Err(RopeError::layout(
            "attention_mask",
            format!("must be whole rows of {tokens} tokens, from 1 to 2^31 - 1"),
            attention_mask.len(),
        ));
    }
    let mut ids = Vec::with_capacity(attention_mask.len());
    for row in attention_mask.chunks_exact(row) {
        let mut next = 0;
        ids.extend(row.iter().map(|&counts| {
            let id = if counts == 0 { 0 } else { next };
            next += i32::from(counts != 0);
            id
        }));
    }
    Ok(ids)
}

/// A grid of the patches of an image, or of a video's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PatchGrid {
    /// Frames, 1 for an image.
    pub frames: u32,
    /// Rows of patches.
    pub height: u32,
    /// Patches of a row.
    pub width: u32,
    /// Patches stand in squares of this side, one square behind the other, as Qwen's merger takes them
    /// (`spatial_merge_size`); 1 for rows behind each other.
    pub merge: u32,
}

impl PatchGrid {
    /// The patches of one image, row by row.
    #[must_use]
    pub fn new(height: u32, width: u32) -> Self {
        Self {
            frames: 1,
            height,
            width,
            merge: 1,
        }
    }

    /// Of so many frames.
    #[must_use]
    pub fn with_frames(self, frames: u32) -> Self {
        Self { frames, ..self }
    }

    /// In squares of this side.
    #[must_use]
    pub fn with_merge(self, merge: u32) -> Self {
        Self { merge, ..self }
    }

    /// How many patches there are.
    ///
    /// # Errors
    /// [`RopeError::Layout`] for a grid that is empty, has more patches than i32 can number, or is not whole squares.
    pub fn patches(&self) -> Result<u32> {
        let product = u64::from(self.frames)
            .checked_mul(u64::from(self.height) * u64::from(self.width))
            .filter(|&patches| patches > 0 && patches <= 1 << 31);
        let squares = self.merge > 0
            && self.height.is_multiple_of(self.merge)
            && self.width.is_multiple_of(self.merge);
        match product.and_then(|patches| u32::try_from(patches).ok()) {
            Some(patches) if squares => Ok(patches),
            _ => Err(RopeError::layout(
                "grid",
                format!(
                    "must have from 1 to 2^31 patches, whole squares of {}",
                    self.merge
                ),
                format!("{} x {} x {}", self.frames, self.height, self.width),
            )),
        }
    }

    /// Frame, row and column of every patch, in the order in which patches stand.
    ///
    /// # Errors
    /// Those of [`PatchGrid::patches`].
    pub fn places(&self) -> Result<Vec<[i32; 3]>> {
        let patches = self.patches()?;
        let id = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let square = self.merge * self.merge;
        let (across, each) = (self.width / self.merge, self.height * self.width);
        Ok((0..patches)
            .map(|patch| {
                let (frame, within) = (patch / each, patch % each);
                let (at, inside) = (within / square, within % square);
                let row = at / across * self.merge + inside / self.merge;
                let column = at % across * self.merge + inside % self.merge;
                [id(frame), id(row), id(column)]
            })
            .collect())
    }

    /// The centre of every patch, row and column, as coordinates from -1 to 1 over the image: `[patches, 2]` (DINOv3's
    /// positions), in f32 steps as its model takes them: `2 (i + 0.5) / n - 1`.
    ///
    /// # Errors
    /// Those of [`PatchGrid::patches`].
    pub fn centres(&self) -> Result<Vec<[f32; 2]>> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "grids are far below 2^24 patches a side, and rounded as the model does past that"
        )]
        let centre = |i: i32, n: u32| 2.0 * ((i as f32 + 0.5) / n as f32) - 1.0;
        Ok(self
            .places()?
            .into_iter()
            .map(|[_, row, column]| [centre(row, self.height), centre(column, self.width)])
            .collect())
    }
}

/// What an axis of a patch's position counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GridAxis {
    /// Frames of a video.
    Frame,
    /// Rows of patches from the top.
    Row,
    /// Patches of a row from the left.
    Column,
}

/// How a vision model numbers its patches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GridPositions {
    /// What each axis of a position counts.
    pub axes: Vec<GridAxis>,
    /// The number of the first frame, row and column: 0, or 1 in models whose class token has 0.
    pub first: i32,
    /// Positions are no numbers but coordinates: the patch's centre, from -1 to 1 over the image ([`PatchGrid::centres`]).
    pub centred: bool,
    /// Side of the squares in which patches stand ([`PatchGrid::merge`]).
    pub merge: u32,
    /// Height and width of a patch in pixels, where the file has them.
    pub patch_size: Option<[u32; 2]>,
    /// Height and width of the image that the model is made for, where the file has them.
    pub image_size: Option<[u32; 2]>,
    /// Tokens before the patches that stay unrotated: class and register tokens.
    pub prefix_tokens: u32,
    /// Tokens behind the patches that stay unrotated.
    pub suffix_tokens: u32,
}

/// Positions of several axes, with their order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GridRows {
    /// Whole numbers `[patches, axes]`.
    Ids(Vec<i32>),
    /// Coordinates `[patches, axes]`.
    Coordinates(Vec<f32>),
}

impl GridRows {
    /// As the positions of a table's rows.
    #[must_use]
    pub fn as_rows(&self) -> RowPositions<'_> {
        match self {
            Self::Ids(ids) => RowPositions::IdsPerAxis(ids, AxisOrder::Last),
            Self::Coordinates(values) => RowPositions::Coordinates(values, AxisOrder::Last),
        }
    }
}

impl Default for GridPositions {
    /// Rows and columns from 0, patches row by row.
    fn default() -> Self {
        Self {
            axes: vec![GridAxis::Row, GridAxis::Column],
            first: 0,
            centred: false,
            merge: 1,
            patch_size: None,
            image_size: None,
            prefix_tokens: 0,
            suffix_tokens: 0,
        }
    }
}

impl GridPositions {
    /// The grid of an image of this many pixels: whole patches, in the order in which this model has them.
    ///
    /// # Errors
    /// [`RopeError::Config`] where the file has no patch size; [`RopeError::Layout`] where not one patch fits.
    pub fn grid(&self, height: u32, width: u32) -> Result<PatchGrid> {
        let [patch_height, patch_width] = self
            .patch_size
            .filter(|size| size.iter().all(|&side| side > 0))
            .ok_or_else(|| RopeError::config("patch_size", "must be given", "none"))?;
        let grid = PatchGrid::new(height / patch_height, width / patch_width);
        let grid = grid.with_merge(self.merge);
        grid.patches()?;
        Ok(grid)
    }

    /// The positions of all patches of a grid, in the order in which patches stand.
    ///
    /// # Errors
    /// Those of [`PatchGrid::patches`]; [`RopeError::Overflow`] where a position does not fit i32.
    pub fn rows(&self, grid: &PatchGrid) -> Result<GridRows> {
        let grid = grid.with_merge(self.merge);
        if self.centred {
            let centres = grid.centres()?;
            let of = |[row, column]: [f32; 2]| {
                self.axes.iter().map(move |axis| match axis {
                    GridAxis::Frame => 0.0,
                    GridAxis::Row => row,
                    GridAxis::Column => column,
                })
            };
            return Ok(GridRows::Coordinates(
                centres.into_iter().flat_map(of).collect(),
            ));
        }
        let mut ids = Vec::new();
        for [frame, row, column] in grid.places()? {
            for axis in &self.axes {
                let id = match axis {
                    GridAxis::Frame => frame,
                    GridAxis::Row => row,
                    GridAxis::Column => column,
                };
                let id = id
                    .checked_add(self.first)
                    .ok_or_else(|| RopeError::overflow("positions", "must fit i32"))?;
                ids.push(id);
            }
        }
        Ok(GridRows::Ids(ids))
    }
}
