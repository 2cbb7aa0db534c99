//! The self-test of a device: does it compute what the CPU computes, bit for bit?

use crate::config::{Pairing, RopeConfig};
use crate::context::GpuContext;
use crate::dispatch::Operands;
use crate::error::{Result, RopeError};
use crate::frequencies::{Frequencies, Pair};
use crate::layout::{Element, ElementType, HeadLayout};
use crate::plan::{
    Norm, NormWeight, Operand, Place, Places, RopePlan, RotateSpec, TableSpec, TensorView,
};
use crate::reference;
use crate::scope::checked;
use crate::table::{Positions, Slots};

/// What a self-test found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfTest {
    /// Entries of a cos/sin table that were made on the device.
    pub table_entries: usize,
    /// Those whose bits differ from the CPU's.
    pub table_differences: usize,
    /// Channels of f32, f16 and bf16 tensors that were rotated on the device.
    pub channels: usize,
    /// Those whose bits differ from the CPU's.
    pub channel_differences: usize,
    /// What a layer in one dispatch did.
    pub layer: LayerTest,
}

/// What a self-test found of a layer in one dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerTest {
    /// It was compared.
    Compared {
        /// Channels of the query and of the pages of K and V, those included that have to stay as they were.
        channels: usize,
        /// Those whose bits differ from the CPU's.
        differences: usize,
    },
    /// It was left out, since this device can run none: it binds fewer than 8 storage buffers, mostly. Rotations in place do without.
    LeftOut {
        /// The limit that is too small, a field of `wgpu::Limits`.
        limit: &'static str,
        /// What a layer needs of it.
        needed: u64,
        /// What the device has.
        allowed: u64,
    },
}

impl SelfTest {
    /// Whether all bits were equal. A layer that was left out has none.
    #[must_use]
    pub fn passed(&self) -> bool {
        let layer = match self.layer {
            LayerTest::Compared { differences, .. } => differences,
            LayerTest::LeftOut { .. } => 0,
        };
        self.table_differences == 0 && self.channel_differences == 0 && layer == 0
    }
}

impl GpuContext {
    /// Makes 1,088 table entries on the device (frequencies of both signs from 2^-64 to 2^16, positions up to the ends of i32,
    /// an attention factor); rotates Q and K of every element type, half-split by 16 bytes, interleaved by words, and from interleaved to
    /// half-split; and runs a layer in one dispatch, with QK-norm, rotation, and K and V to pages in f16, where the device can ([`LayerTest`]).
    /// It compares all bits with the CPU's. An application can call it at start-up: it takes as long as the driver needs to compile twelve
    /// pipelines.
    ///
    /// # Errors
    /// [`RopeError`](crate::RopeError) where something could not be made or run; differing bits are in the result.
    pub async fn self_test(&self) -> Result<SelfTest> {
        const POSITIONS: [i32; 17] = [
            0,
            1,
            -1,
            2,
            3,
            17,
            4095,
            -4096,
            131_071,
            1_048_576,
            16_777_217,
            -16_777_217,
            1_686_629_713,
            2_147_483_646,
            i32::MAX,
            i32::MIN,
            -2_147_483_647,
        ];
        let ladder = (0..64).map(|k| {
            let magnitude = libm::exp2(16.0 - f64::from(k) * 80.0 / 63.0);
            Pair {
                inv_freq: if k % 3 == 2 { -magnitude } else { magnitude },
                axis: 0,
            }
        });
        let frequencies = Frequencies::from_pairs(ladder, 1.190_238_071_161_14)?;
        let rows = u32::try_from(POSITIONS.len()).unwrap_or(0);
        let spec = TableSpec::new(&frequencies);
        let table = checked(self.device(), || {
            let table = self.kernel().table(&spec, rows)?;
            let ids = self.upload(&POSITIONS, wgpu::BufferUsages::empty())?;
            let fill = table.bind_positions(Positions::Ids(ids.slice(..)))?;
            self.run(|pass| fill.record(pass, rows))?;
            Ok(table)
        })
        .await?;
        let expected = reference::table(&spec, (&POSITIONS).into())?;
        let made: Vec<[u32; 2]> = self.read(table.buffer(), expected.len()).await?;
        let table_differences = expected
            .iter()
            .zip(&made)
            .filter(|(expected, made)| expected.map(f32::to_bits) != **made)
            .count();

        let mut found = SelfTest {
            table_entries: expected.len(),
            table_differences,
            channels: 0,
            channel_differences: 0,
            layer: self.self_test_layer(&spec, &POSITIONS, &expected).await?,
        };
        self.self_test_rotation::<f32>(&spec, &POSITIONS, &expected, &mut found)
            .await?;
        self.self_test_rotation::<half::f16>(&spec, &POSITIONS, &expected, &mut found)
            .await?;
        self.self_test_rotation::<half::bf16>(&spec, &POSITIONS, &expected, &mut found)
            .await?;
        Ok(found)
    }

    /// Rotates Q and K with the rows of the self-test's table: whole heads by 16 bytes, half-split; a window of interleaved pairs that
    /// starts off them, by words or, in 16 bits, by heads; and whole heads whose pairs move, all of which are read before any is written.
    async fn self_test_rotation<T: Element>(
        &self,
        table: &TableSpec,
        positions: &[i32],
        rows: &[[f32; 2]],
        found: &mut SelfTest,
    ) -> Result<()> {
        let tokens = u32::try_from(positions.len()).unwrap_or(0);
        let mut values = noise();
        let mut noise = |layout: HeadLayout| -> Result<Vec<T>> {
            let mut next = || T::narrow(f32::from_bits(values()));
            Ok((0..layout.end(1, tokens)?).map(|_| next()).collect())
        };
        let whole = RopeConfig::new(128);
        let window = RopeConfig::new(134)
            .with_rotary_dim(128)
            .with_rotary_offset(3)
            .with_pairing(Pairing::Interleaved);
        let moving = RopeConfig::new(128).with_pairing(Pairing::InterleavedToHalfSplit);
        for config in [whole, window, moving] {
            let layout = |heads| HeadLayout::bshd(tokens, heads, config.head_dim());
            let spec = RotateSpec::new(&config, 1, tokens, layout(2), T::TYPE)
                .with_key(layout(1), T::TYPE);
            let (mut query, mut key) = (noise(layout(2))?, noise(layout(1))?);
            let (mut expected_query, mut expected_key) = (query.clone(), key.clone());
            reference::rotate(&spec, rows, &mut expected_query, Some(&mut expected_key))?;
            self.rotate(&spec, table, positions.into(), &mut query, Some(&mut key))
                .await?;
            for (made, expected) in [(&query, &expected_query), (&key, &expected_key)] {
                found.channels += expected.len();
                found.channel_differences += made
                    .iter()
                    .zip(expected)
                    .filter(|(a, b)| bytemuck::bytes_of(*a) != bytemuck::bytes_of(*b))
                    .count();
            }
        }
        Ok(())
    }

    /// Runs a layer with the rows of the self-test's table.
    async fn self_test_layer(
        &self,
        table: &TableSpec,
        positions: &[i32],
        rows: &[[f32; 2]],
    ) -> Result<LayerTest> {
        let tokens = u32::try_from(positions.len()).unwrap_or(0);
        let spec = layer_spec(tokens);
        let plan = match RopePlan::new(&spec, self.kernel().limits()) {
            Err(RopeError::Limit {
                limit,
                needed,
                allowed,
                ..
            }) => {
                return Ok(LayerTest::LeftOut {
                    limit,
                    needed,
                    allowed,
                });
            }
            plan => plan?,
        };
        // A slot for each token but one, in no order: 7 and the number of slots have no common divisor.
        let slots: Vec<i32> = (0..positions.len())
            .map(|token| match token {
                5 => -1,
                _ => i32::try_from((7 * token + 3) % SLOTS as usize).unwrap_or(-1),
            })
            .collect();

        // All buffers as words. Pages hold something before, to be seen where they are written and should not be.
        let places = layer_places();
        let mut buffers: [Vec<u32>; LAYER_BUFFERS] = Default::default();
        let mut values = noise();
        for (operand, bytes) in spec.operands()? {
            let place = places.get(operand)?;
            let words = usize::try_from((place.offset + bytes) / 4)
                .map_err(|_| RopeError::overflow(operand.name(), "words must fit usize"))?;
            let buffer = &mut buffers[place.buffer as usize];
            while buffer.len() < words {
                buffer.push(values());
            }
        }
        let mut expected = buffers.clone();
        let twin_table = reference::LayerTable {
            rows,
            slots: &slots,
            scales: &[],
        };
        reference::layer(&spec, twin_table, places.clone(), &mut expected)?;

        let uploaded = checked(self.device(), || {
            let none = wgpu::BufferUsages::empty();
            let table = self
                .kernel()
                .table(&table.clone().with_slots(tokens), tokens)?;
            let ids = self.upload(positions, none)?;
            let fill = table.bind_positions(Positions::Ids(ids.slice(..)))?;
            let slot_mapping = self.upload(&slots, none)?;
            let slot_fill = table.bind_slots(Slots::Listed {
                slot_mapping: slot_mapping.slice(..),
                batch: 1,
                tokens,
                capacity: SLOTS,
            })?;
            let uploaded: Vec<_> = buffers
                .iter()
                .map(|words| self.upload(words, none))
                .collect::<Result<_>>()?;
            let slice = |place: Place| uploaded[place.buffer as usize].slice(place.offset..);
            let operands = places.iter().fold(
                Operands::new(slice(places.get(Operand::Query)?)),
                |operands, (operand, place)| operands.with(operand, slice(place)),
            );
            let layer = self.kernel().prepare(&plan)?.bind(&operands, &table)?;
            self.run(|pass| {
                fill.record(pass, tokens)?;
                slot_fill.record(pass, tokens)?;
                layer.record(pass, tokens)
            })?;
            Ok(uploaded)
        })
        .await?;

        let (mut channels, mut differences) = (0, 0);
        for operand in [Operand::Query, Operand::KeyTo, Operand::ValueTo] {
            let buffer = places.get(operand)?.buffer as usize;
            let expected = &expected[buffer];
            let made: Vec<u32> = self.read(&uploaded[buffer], expected.len()).await?;
            // A word is a channel of the query, and two of a page.
            let masks: &[u32] = match operand {
                Operand::Query => &[u32::MAX],
                _ => &[0xffff, 0xffff << 16],
            };
            channels += expected.len() * masks.len();
            let differ = |mask: &u32| {
                let words = made.iter().zip(expected);
                words.filter(|(a, b)| (**a ^ **b) & mask != 0).count()
            };
            differences += masks.iter().map(differ).sum::<usize>();
        }
        Ok(LayerTest::Compared {
            channels,
            differences,
        })
    }

    /// [`GpuContext::self_test`] for programs that are not async.
    ///
    /// # Errors
    /// As for [`GpuContext::self_test`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn self_test_blocking(&self) -> Result<SelfTest> {
        pollster::block_on(self.self_test())
    }
}

/// The bits of f32 values from 2^-4 to 2^-3 of both signs: no result is denormal in any type.
fn noise() -> impl FnMut() -> u32 {
    let mut state = 1_u32;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state & 0x807f_ffff) | 0x3d80_0000
    }
}

/// Places of a page of the layer's caches, and slots of a cache.
const PAGE: u32 = 4;
const SLOTS: u32 = 5 * PAGE;

/// A layer as models have it: QK-norm, rotation, K and V to pages in f16. Q stays where it is.
fn layer_spec(tokens: u32) -> RotateSpec {
    let config = RopeConfig::new(128);
    let layout = |heads| HeadLayout::bshd(tokens, heads, config.head_dim());
    let page = HeadLayout::bshd(PAGE, 1, config.head_dim());
    let pages = TensorView::cache(page, SLOTS / PAGE, PAGE, ElementType::F16);
    let norm = Norm::rms(1e-6, NormWeight::Scale(ElementType::F32));
    RotateSpec::new(&config, 1, tokens, layout(2), ElementType::F32)
        .with_key(layout(1), ElementType::F32)
        .with_value(layout(1), ElementType::F32)
        .with_query_norm(norm)
        .with_key_norm(norm)
        .with_key_to(pages)
        .with_value_to(pages)
}

/// Buffers of the layer.
const LAYER_BUFFERS: usize = 6;

/// Where its operands are: weights of norms lie together.
fn layer_places() -> Places {
    [
        (Operand::Query, 0, 0),
        (Operand::Key, 1, 0),
        (Operand::Value, 2, 0),
        (Operand::KeyTo, 3, 0),
        (Operand::ValueTo, 4, 0),
        (Operand::QueryWeight, 5, 0),
        (Operand::KeyWeight, 5, 512),
    ]
    .into_iter()
    .map(|(operand, buffer, offset)| (operand, Place { buffer, offset }))
    .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where it has to")]

    use super::*;
    use crate::plan::Limits;

    #[test]
    fn the_layer_is_one_dispatch_of_octets() {
        let plan = RopePlan::new(&layer_spec(17), &Limits::default()).unwrap();
        let places =
            [Operand::Slots, Operand::RowFactors].map(|operand| (operand, Place::default()));
        let places: Places = layer_places().iter().chain(places).collect();
        let dispatches = plan.dispatches(places).unwrap();
        let entry_points: Vec<_> = dispatches.iter().map(|each| each.entry_point).collect();
        assert_eq!(entry_points, ["octets"]);
    }
}
