//! Where the positions of a tensor's tokens come from.

use safetensors::SafeTensors;
use wgpu_rope::positions::{GridPositions, GridRows, PatchGrid};
use wgpu_rope::{AxisOrder, RowPositions};

use crate::Failure;
use crate::args::{Args, AxesAt, Numbers};
use crate::tensors::{Heads, Values, find};

/// The positions of a tensor's rows, `[rows, axes]` (or one for all axes), and which tokens they belong to.
#[derive(Debug, Clone)]
pub struct Rows {
    pub values: Values,
    /// One value for all axes of a row.
    pub single: bool,
    /// Every batch entry has its own rows.
    pub batched: bool,
    /// Tokens before those that have rows, and behind them.
    pub prefix: u32,
    pub suffix: u32,
}

impl Rows {
    pub fn as_positions(&self) -> RowPositions<'_> {
        match (&self.values, self.single) {
            (Values::Ids(ids), true) => RowPositions::Ids(ids),
            (Values::Ids(ids), false) => RowPositions::IdsPerAxis(ids, AxisOrder::Last),
            (Values::Coordinates(values), _) => RowPositions::Coordinates(values, AxisOrder::Last),
        }
    }

    /// The same for frequencies that may read any axis: a coordinate has to be there for each.
    fn spread(mut self, axes: u32) -> Self {
        if let (Values::Coordinates(values), true) = (&self.values, self.single) {
            let each = |&value: &f32| std::iter::repeat_n(value, axes as usize);
            self.values = Values::Coordinates(values.iter().flat_map(each).collect());
            self.single = false;
        }
        self
    }
}

/// How many tokens stay unrotated, before the others and behind them.
fn unrotated(args: &Args, grid: Option<&GridPositions>) -> (u32, u32) {
    let own = grid.map_or((0, 0), |grid| (grid.prefix_tokens, grid.suffix_tokens));
    match args.prefix_tokens {
        None => own,
        // They stand where the model puts them.
        Some(count) if own.1 > 0 && own.0 == 0 => (0, count),
        Some(count) => (count, own.1),
    }
}

/// How many tokens rotate.
fn rotated(heads: &Heads, prefix: u32, suffix: u32) -> Result<u32, Failure> {
    let unrotated = u64::from(prefix) + u64::from(suffix);
    let rotated = u64::from(heads.tokens).checked_sub(unrotated);
    rotated
        .and_then(|count| u32::try_from(count).ok())
        .ok_or_else(|| {
            format!(
                "{}: has {} tokens, fewer than the {unrotated} that stay unrotated",
                heads.name, heads.tokens
            )
            .into()
        })
}

/// The rows of a tensor: from `--image` or `--grid`, from the tensor of positions, or from the config's image size.
pub fn of_tensor(
    args: &Args,
    file: &SafeTensors<'_>,
    heads: &Heads,
    axes: u32,
    grid: Option<&GridPositions>,
) -> Result<Rows, Failure> {
    let (prefix, suffix) = unrotated(args, grid);
    let asked = !args.image.is_empty() || !args.grid.is_empty();
    // Ids that are given count for more than a grid.
    if file.tensor(&args.positions).is_ok() {
        return listed(args, file, heads, axes, [prefix, suffix]);
    }
    let Some(grid) = grid else {
        return Err(if asked {
            "--image and --grid make positions for a vision part; this one has none".into()
        } else {
            format!(
                "{}: no such tensor in the input; name one with --positions",
                args.positions
            )
            .into()
        });
    };
    let patches = rotated(heads, prefix, suffix)?;
    // Counted before anything is made of them.
    let grids = grids(args, grid)?;
    let mut count = 0;
    for patch_grid in &grids {
        count += u64::from(patch_grid.patches()?);
    }
    let mut values = None;
    let grids = grids.iter().filter(|_| count == u64::from(patches));
    for patch_grid in grids {
        values = Some(match (values, grid.rows(patch_grid)?) {
            (None, GridRows::Ids(ids)) => Values::Ids(ids),
            (None, GridRows::Coordinates(values)) => Values::Coordinates(values),
            (Some(Values::Ids(mut all)), GridRows::Ids(more)) => {
                all.extend(more);
                Values::Ids(all)
            }
            (Some(Values::Coordinates(mut all)), GridRows::Coordinates(more)) => {
                all.extend(more);
                Values::Coordinates(all)
            }
            _ => return Err("a model's positions are ids or coordinates".into()),
        });
    }
    match values {
        Some(values) => Ok(Rows {
            values,
            single: false,
            batched: false,
            prefix,
            suffix,
        }),
        None => Err(format!(
            "{}: has {patches} tokens beside {} that stay unrotated, and the grid has {count} patches",
            heads.name,
            heads.tokens - patches
        )
        .into()),
    }
}

/// Rows from the tensor of positions: of all tokens, or of those that rotate.
fn listed(
    args: &Args,
    file: &SafeTensors<'_>,
    heads: &Heads,
    axes: u32,
    [prefix, suffix]: [u32; 2],
) -> Result<Rows, Failure> {
    let name = &args.positions;
    let tensor = find(file, name)?;
    let values = Values::of(name, &tensor)?;
    let rest = rotated(heads, prefix, suffix)?;
    let fitted = |tokens: u32| {
        let shape = tensor.shape();
        (tokens > 0)
            .then(|| fit(args, shape, heads.batch, tokens, axes))
            .flatten()
    };
    // Ids of all tokens rotate all of them, unless the command line says otherwise.
    let (fit, left, covered) = match (fitted(heads.tokens), fitted(rest)) {
        (Some(fit), _) if args.prefix_tokens.is_none() => (fit, [0, 0], heads.tokens),
        (Some(fit), _) => (fit, [prefix, suffix], heads.tokens),
        (None, Some(fit)) => (fit, [prefix, suffix], rest),
        (None, None) => return Err(misfit(name, tensor.shape(), heads, axes)),
    };
    let values = match fit.order {
        Order::Start => match values {
            Values::Ids(ids) => count_on(name, ids[0], covered)?,
            Values::Coordinates(_) => {
                return Err(format!("{name}: a start must be a whole number").into());
            }
        },
        Order::Indices(indices) => values.gather(&indices),
    };
    // Rows of tokens that stay unrotated are left out.
    let (per_row, rows) = (if fit.single { 1 } else { axes as usize }, covered as usize);
    let kept = if covered == rest {
        0..rows
    } else {
        left[0] as usize..rows - left[1] as usize
    };
    let entries = if fit.batched { heads.batch as usize } else { 1 };
    let indices = (0..entries).flat_map(|entry| {
        let row = kept.clone().map(move |row| entry * rows + row);
        row.flat_map(move |row| row * per_row..(row + 1) * per_row)
    });
    Ok(Rows {
        values: values.gather(&indices.collect::<Vec<_>>()),
        single: fit.single,
        batched: fit.batched,
        prefix: left[0],
        suffix: left[1],
    }
    .spread(axes))
}

/// The grids that were asked for, or that of the config's image.
fn grids(args: &Args, positions: &GridPositions) -> Result<Vec<PatchGrid>, Failure> {
    let of_image = |height, width| positions.grid(height, width).map_err(Failure::from);
    if let [_, ..] = &args.image[..] {
        let sizes = args.image.iter().map(|Numbers(size)| match size[..] {
            [height, width] => of_image(height, width),
            _ => Err("--image: must be height and width".into()),
        });
        return sizes.collect();
    }
    if let [_, ..] = &args.grid[..] {
        let grids = args.grid.iter().map(|Numbers(numbers)| match numbers[..] {
            [height, width] => PatchGrid::new(height, width),
            [frames, height, width] => PatchGrid::new(height, width).with_frames(frames),
            _ => PatchGrid::new(0, 0),
        });
        return Ok(grids.map(|grid| grid.with_merge(positions.merge)).collect());
    }
    match positions.image_size {
        Some([height, width]) => Ok(vec![of_image(height, width)?]),
        None => Err(format!(
            "{}: no such tensor in the input, and the config has no image_size: give --image or --grid",
            args.positions
        )
        .into()),
    }
}

/// Positions from a start on.
pub fn count_on(name: &str, start: i32, tokens: u32) -> Result<Values, Failure> {
    let end = i64::from(start) + i64::from(tokens);
    if end > i64::from(i32::MAX) + 1 {
        return Err(format!("{name}: positions must fit i32, got {}", end - 1).into());
    }
    let ids = (i64::from(start)..end).filter_map(|id| i32::try_from(id).ok());
    Ok(Values::Ids(ids.collect()))
}

/// Which values a shape gives to the rows.
struct Fit {
    order: Order,
    single: bool,
    batched: bool,
}

enum Order {
    /// One start, counted on.
    Start,
    /// For each row and axis, the index of its value.
    Indices(Vec<usize>),
}

/// Fits a shape to `[A, B, S]`, `[A, S]`, `[B, S, A]`, `[S, A]`, then `[S]`, `[B, S]` and one start, in this order. A batch of one serves every
/// batch entry.
fn fit(args: &Args, shape: &[usize], batch: u32, tokens: u32, axes: u32) -> Option<Fit> {
    let (a, b, s) = (axes as usize, batch as usize, tokens as usize);
    let first = args.axes != Some(AxesAt::Last);
    let last = args.axes != Some(AxesAt::First);
    let is_batch = |n: usize| n == b || n == 1;
    // For axes: (entries of the batch, axis stride, row stride within all rows).
    let per_axis = |rows: usize, entries: usize, axis_stride: usize, row_stride: usize| {
        let indices = (0..rows)
            .flat_map(move |row| (0..a).map(move |axis| axis * axis_stride + row * row_stride));
        Some(Fit {
            order: Order::Indices(indices.collect()),
            single: false,
            batched: entries > 1,
        })
    };
    let plain = |rows: usize, entries: usize| {
        Some(Fit {
            order: Order::Indices((0..rows).collect()),
            single: true,
            batched: entries > 1,
        })
    };
    // Time, height and width behind a row of text positions, as transformers has them; or before one that ggml keeps for others.
    let four_rows = |rows: usize, entries: usize| {
        let skipped = usize::from(args.gguf.is_none());
        let axes = skipped..skipped + 3;
        let indices = (0..rows).flat_map(|row| axes.clone().map(move |axis| axis * rows + row));
        Some(Fit {
            order: Order::Indices(indices.collect()),
            single: false,
            batched: entries > 1,
        })
    };
    let with_axes = || match *shape {
        [4, n, y] if first && a == 3 && is_batch(n) && y == s => four_rows(n * s, n),
        [4, y] if first && a == 3 && y == s => four_rows(s, 1),
        [x, n, y] if first && x == a && is_batch(n) && y == s => per_axis(n * s, n, n * s, 1),
        [x, y] if first && x == a && y == s => per_axis(s, 1, s, 1),
        [n, x, y] if last && is_batch(n) && x == s && y == a => per_axis(n * s, n, 1, a),
        [x, y] if last && x == s && y == a => per_axis(s, 1, 1, a),
        _ => None,
    };
    let without = || match *shape {
        [] => Some(Fit {
            order: Order::Start,
            single: true,
            batched: false,
        }),
        [x] if x == s => plain(s, 1),
        [1] => Some(Fit {
            order: Order::Start,
            single: true,
            batched: false,
        }),
        [n, x] if is_batch(n) && x == s => plain(n * s, n),
        _ => None,
    };
    if a > 1 {
        with_axes().or_else(without)
    } else {
        without().or_else(with_axes)
    }
}

fn misfit(name: &str, shape: &[usize], heads: &Heads, axes: u32) -> Failure {
    let (batch, tokens) = (heads.batch, heads.tokens);
    let wanted = if axes > 1 {
        format!(
            "[{axes}, {batch}, {tokens}], [{axes}, {tokens}], [{batch}, {tokens}, {axes}], [{tokens}, {axes}], [{tokens}] or [{batch}, {tokens}]"
        )
    } else {
        format!("[{tokens}], [{batch}, {tokens}] or one start")
    };
    format!("{name}: must be {wanted} for {}, got {shape:?}", heads.name).into()
}
