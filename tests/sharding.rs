//! A sequence over several ranks, as `src/guides/sharding.md` says: each has tensors and a table of its own, with rows for its own tokens
//! and their global positions, and what is gathered has the bits of the whole sequence rotated at once.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::ops::Range;

use common::{CONTEXTS, NO_USAGE, name, row_bits, values, whole_table};
use wgpu_rope::{
    CosSinTable, ElementType, Frequencies, GpuContext, HeadLayout, Norm, NormWeight, Operand,
    Operands, Positions, RopeConfig, RopePlan, RotateSpec, TableSpec, reference,
};

const RANKS: usize = 4;
const HEADS: usize = 6;
const KV_HEADS: usize = 3;
const DIM: usize = 64;

/// What is done to Q and K.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Rotation,
    /// Norms of each head before the rotation.
    Normed,
    /// The query's is over all heads.
    NormedOverAll,
}

/// How a shard tells its positions.
#[derive(Clone, Copy, Debug)]
enum Told {
    From,
    Start,
    /// Two starts, of chunks that are equally long.
    Starts,
    Ids,
}

/// The tokens of a rank, of so many in all.
type Split = fn(usize, usize) -> Vec<usize>;

/// Chunk c of n.
fn chunk(tokens: usize, c: usize, n: usize) -> Range<usize> {
    c * tokens / n..(c + 1) * tokens / n
}

fn contiguous(tokens: usize, rank: usize) -> Vec<usize> {
    chunk(tokens, rank, RANKS).collect()
}

fn zig_zag(tokens: usize, rank: usize) -> Vec<usize> {
    let last = 2 * RANKS - 1;
    chunk(tokens, rank, 2 * RANKS)
        .chain(chunk(tokens, last - rank, 2 * RANKS))
        .collect()
}

/// Token i is on rank i mod N.
fn striped(tokens: usize, rank: usize) -> Vec<usize> {
    (rank..tokens).step_by(RANKS).collect()
}

/// The tokens of a tensor that are at these places, of so many heads.
fn gathered(tensor: &[f32], tokens: &[usize], heads: usize) -> Vec<f32> {
    let token = heads * DIM;
    let of = |&t: &usize| tensor[t * token..][..token].to_vec();
    tokens.iter().flat_map(of).collect()
}

fn bits(tensor: &[f32]) -> Vec<u32> {
    tensor.iter().map(|x| x.to_bits()).collect()
}

/// A model's layer on a device.
struct Layer<'a> {
    context: &'a GpuContext,
    part: Part,
    table: TableSpec,
    weights: Vec<f32>,
}

impl<'a> Layer<'a> {
    fn new(context: &'a GpuContext, part: Part) -> Self {
        let weights = values(&mut fastrand::Rng::with_seed(5), (HEADS + 1) * DIM);
        let frequencies = Frequencies::new(&Self::config()).unwrap();
        Self {
            context,
            part,
            table: TableSpec::new(&frequencies),
            weights,
        }
    }

    fn config() -> RopeConfig {
        RopeConfig::new(u32::try_from(DIM).unwrap()).with_theta(5e5)
    }

    /// A filled table with rows for these tokens only.
    fn filled(&self, first: i32, tokens: &[usize], told: Told) -> CosSinTable {
        let ids: Vec<i32> = tokens
            .iter()
            .map(|&token| first + i32::try_from(token).unwrap())
            .collect();
        let rows = u32::try_from(ids.len()).unwrap();
        let table = self.context.kernel().table(&self.table, rows).unwrap();
        let upload = |ids: &[i32]| self.context.upload(ids, NO_USAGE).unwrap();
        let fill = match told {
            Told::From => table.bind_positions(Positions::From(ids[0])),
            Told::Start => table.bind_positions(Positions::Start(upload(&ids[..1]).slice(..))),
            Told::Starts => {
                let starts = upload(&[ids[0], ids[ids.len() / 2]]);
                table.bind_positions(Positions::StartPerSequence {
                    starts: starts.slice(..),
                    rows: rows / 2,
                })
            }
            Told::Ids => table.bind_positions(Positions::Ids(upload(&ids).slice(..))),
        };
        let fill = fill.unwrap();
        self.context.run(|pass| fill.record(pass, rows)).unwrap();
        self.check_rows(&table, &ids);
        table
    }

    /// A table has the rows of its own tokens, and no others.
    fn check_rows(&self, table: &CosSinTable, ids: &[i32]) {
        assert_eq!(table.filled_rows() as usize, ids.len());
        assert_eq!(table.plan().rows() as usize, ids.len());
        let expected = reference::table(&self.table, ids.into()).unwrap();
        let made = whole_table(self.context, table);
        assert_eq!(
            made.rows,
            row_bits(&expected, DIM / 2),
            "{}",
            name(self.context)
        );
        assert_eq!(made.rows.len(), ids.len() * DIM / 2);
    }

    /// Q and K of some tokens and heads, by a table of these tokens' rows.
    fn rotated(
        &self,
        table: &CosSinTable,
        [query, key]: [&[f32]; 2],
        [heads, kv_heads]: [usize; 2],
    ) -> [Vec<u32>; 2] {
        let (context, kernel) = (self.context, self.context.kernel());
        let tokens = table.plan().rows();
        let layout = |heads: usize| {
            let [heads, dim] = [heads, DIM].map(|n| u32::try_from(n).unwrap());
            HeadLayout::bshd(tokens, heads, dim)
        };
        let f32 = ElementType::F32;
        let plain = RotateSpec::new(&Self::config(), 1, tokens, layout(heads), f32)
            .with_key(layout(kv_heads), f32);
        let norm = Norm::rms(1e-6, NormWeight::Scale(f32));
        let spec = match self.part {
            Part::Rotation => plain,
            Part::Normed => plain.with_query_norm(norm).with_key_norm(norm),
            Part::NormedOverAll => plain
                .with_query_norm(norm.over_all_heads())
                .with_key_norm(norm),
        };
        let upload = |values: &[f32]| context.upload(values, NO_USAGE).unwrap();
        let (q, k, weights) = (upload(query), upload(key), upload(&self.weights));
        // The key's weight is the first head's, the query's begins behind it.
        let of_key = DIM as u64 * 4;
        let mut operands = Operands::new(q.slice(..)).with_key(k.slice(..));
        if self.part != Part::Rotation {
            operands = operands
                .with(Operand::KeyWeight, weights.slice(..of_key))
                .with(Operand::QueryWeight, weights.slice(of_key..));
        }
        let plan = RopePlan::new(&spec, kernel.limits()).unwrap();
        let dispatch = kernel
            .prepare(&plan)
            .unwrap()
            .bind(&operands, table)
            .unwrap();
        context.run(|pass| dispatch.record(pass, tokens)).unwrap();
        [(&q, query.len()), (&k, key.len())]
            .map(|(buffer, count)| context.read_blocking::<u32>(buffer, count).unwrap())
    }
}

/// Rotates a sequence whole, and by ranks; compares their bits. Returns the channels that were compared.
fn check(layer: &Layer<'_>, tokens: usize, first: i32, (split, told): (Split, Told)) -> usize {
    let mut random = fastrand::Rng::with_seed(tokens as u64);
    let query = values(&mut random, tokens * HEADS * DIM);
    let key = values(&mut random, tokens * KV_HEADS * DIM);
    let all: Vec<usize> = (0..tokens).collect();
    let table = layer.filled(first, &all, Told::Ids);
    let both = [HEADS, KV_HEADS];
    let whole = layer.rotated(&table, [&query, &key], both);
    assert_ne!(whole[0], bits(&query));
    assert_ne!(whole[1], bits(&key));

    // What was not written stays a value that no rotation of these makes.
    let mut made = [&query, &key].map(|tensor| vec![f32::NAN.to_bits(); tensor.len()]);
    for rank in 0..RANKS {
        let own = split(tokens, rank);
        if own.is_empty() {
            continue;
        }
        let table = layer.filled(first, &own, told);
        let shard = [
            gathered(&query, &own, HEADS),
            gathered(&key, &own, KV_HEADS),
        ];
        let rotated = layer.rotated(&table, [&shard[0], &shard[1]], both);
        for ((made, rotated), heads) in made.iter_mut().zip(rotated).zip(both) {
            for (&token, head) in own.iter().zip(rotated.chunks(heads * DIM)) {
                made[token * heads * DIM..][..heads * DIM].copy_from_slice(head);
            }
        }
    }
    assert!(
        made == whole,
        "{tokens} tokens from {first}, {:?} {told:?} on {}",
        layer.part,
        name(layer.context)
    );
    made.iter().map(Vec::len).sum()
}

#[test]
fn shards_have_the_bits_of_the_whole() {
    let mut compared = 0;
    for context in &*CONTEXTS {
        for part in [Part::Rotation, Part::Normed, Part::NormedOverAll] {
            let layer = Layer::new(context, part);
            // Odd lengths, chunks of unequal length, fewer tokens than chunks, and a chunk of a prefill far into the context.
            for (tokens, first) in [(61, 0), (3, 9), (35, 131_066)] {
                compared += check(&layer, tokens, first, (contiguous, Told::From));
                compared += check(&layer, tokens, first, (contiguous, Told::Start));
                compared += check(&layer, tokens, first, (zig_zag, Told::Ids));
                compared += check(&layer, tokens, first, (striped, Told::Ids));
            }
            // Chunks of equal length.
            compared += check(&layer, 40, 7, (zig_zag, Told::Starts));
        }
    }
    eprintln!("{compared} channels compared");
}

#[test]
fn heads_of_a_rank_have_the_bits_of_all_heads() {
    for context in &*CONTEXTS {
        for part in [Part::Rotation, Part::Normed] {
            let layer = Layer::new(context, part);
            let tokens = 29;
            let mut random = fastrand::Rng::with_seed(17);
            let query = values(&mut random, tokens * HEADS * DIM);
            let key = values(&mut random, tokens * KV_HEADS * DIM);
            let all: Vec<usize> = (0..tokens).collect();
            let table = layer.filled(0, &all, Told::From);
            let whole = layer.rotated(&table, [&query, &key], [HEADS, KV_HEADS]);
            // A head of K and the two heads of Q that read it.
            let own = |tensor: &[u32], rank: usize, heads: usize, of: usize| -> Vec<u32> {
                let token = |token: &[u32]| token[rank * heads * DIM..][..heads * DIM].to_vec();
                tensor.chunks(of * DIM).flat_map(token).collect()
            };
            for rank in 0..KV_HEADS {
                let of = |tensor: &[f32], heads: usize, all: usize| -> Vec<f32> {
                    let bits = own(&bits(tensor), rank, heads, all);
                    bits.into_iter().map(f32::from_bits).collect()
                };
                let shard = [of(&query, 2, HEADS), of(&key, 1, KV_HEADS)];
                let made = layer.rotated(&table, [&shard[0], &shard[1]], [2, 1]);
                let expected = [
                    own(&whole[0], rank, 2, HEADS),
                    own(&whole[1], rank, 1, KV_HEADS),
                ];
                assert!(
                    made == expected,
                    "{part:?}, rank {rank} on {}",
                    name(context)
                );
            }
        }
    }
}
