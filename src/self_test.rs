//! The self-test of a device: does it compute what the CPU computes, bit for bit?

use crate::config::{Pairing, RopeConfig};
use crate::context::GpuContext;
use crate::error::Result;
use crate::frequencies::{Frequencies, Pair};
use crate::layout::{Element, HeadLayout};
use crate::plan::{RotateSpec, TableSpec};
use crate::reference;
use crate::scope::checked;
use crate::table::Positions;

/// What a self-test found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfTest {
    /// Entries of a cos/sin table that were made on the device.
    pub table_entries: usize,
    /// Those whose bits differ from the CPU's.
    pub table_differences: usize,
    /// Channels of f32, f16 and bf16 tensors that were rotated on the device.
    pub channels: usize,
    /// Those whose bits differ from the CPU's.
    pub channel_differences: usize,
}

impl SelfTest {
    /// Whether all bits were equal.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.table_differences == 0 && self.channel_differences == 0
    }
}

impl GpuContext {
    /// Makes 1,088 table entries on the device (frequencies of both signs from 2^-64 to 2^16, positions up to the ends of i32,
    /// an attention factor) and rotates Q and K of every element type, half-split by 16 bytes and interleaved by words, and
    /// compares all bits with the CPU's. An application can call it at start-up: it takes as long as the driver needs to
    /// compile seven pipelines.
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
        };
        self.self_test_rotation::<f32>(&spec, &POSITIONS, &expected, &mut found)
            .await?;
        self.self_test_rotation::<half::f16>(&spec, &POSITIONS, &expected, &mut found)
            .await?;
        self.self_test_rotation::<half::bf16>(&spec, &POSITIONS, &expected, &mut found)
            .await?;
        Ok(found)
    }

    /// Rotates Q and K with the rows of the self-test's table: whole heads by 16 bytes, half-split; and a window of interleaved
    /// pairs that starts off them, by words or, in 16 bits, by heads.
    async fn self_test_rotation<T: Element>(
        &self,
        table: &TableSpec,
        positions: &[i32],
        rows: &[[f32; 2]],
        found: &mut SelfTest,
    ) -> Result<()> {
        let tokens = u32::try_from(positions.len()).unwrap_or(0);
        let mut state = 1_u32;
        let mut noise = |layout: HeadLayout| -> Result<Vec<T>> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // 2^-4 to 2^-2, both signs: no result is denormal in any type.
                T::narrow(f32::from_bits((state & 0x80ff_ffff) | 0x3d80_0000))
            };
            Ok((0..layout.end(1, tokens)?).map(|_| next()).collect())
        };
        let whole = RopeConfig::new(128);
        let window = RopeConfig::new(134)
            .with_rotary_dim(128)
            .with_rotary_offset(3)
            .with_pairing(Pairing::Interleaved);
        for config in [whole, window] {
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

    /// [`GpuContext::self_test`] for programs that are not async.
    ///
    /// # Errors
    /// As for [`GpuContext::self_test`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn self_test_blocking(&self) -> Result<SelfTest> {
        pollster::block_on(self.self_test())
    }
}
