//! Times of candidates that are measured in turn, so that a change of the machine's pace meets all alike.

use std::time::Duration;
#[cfg(not(target_arch = "wasm32"))]
use std::time::Instant;
// The standard one panics in a browser.
#[cfg(target_arch = "wasm32")]
use web_time::Instant;

use wgpu_rope::{GpuContext, Result, RopeError};

/// Something to time, many times in a submission.
pub struct Candidate<'a> {
    pub name: String,
    work: Work<'a>,
}

/// Records the n-th dispatch into the only pass.
type Dispatches<'a> = dyn Fn(&mut wgpu::ComputePass<'_>, u32) -> Result<()> + 'a;

/// Records the n-th copy.
type Copies<'a> = dyn Fn(&mut wgpu::CommandEncoder, u32) + 'a;

enum Work<'a> {
    Pass(Box<Dispatches<'a>>),
    Copies(Box<Copies<'a>>),
}

impl<'a> Candidate<'a> {
    pub fn new(
        name: impl Into<String>,
        record: impl Fn(&mut wgpu::ComputePass<'_>, u32) -> Result<()> + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            work: Work::Pass(Box::new(record)),
        }
    }

    /// The same outside of a pass.
    pub fn copies(
        name: impl Into<String>,
        record: impl Fn(&mut wgpu::CommandEncoder, u32) + 'a,
    ) -> Self {
        Self {
            name: name.into(),
            work: Work::Copies(Box::new(record)),
        }
    }

    /// So many of its dispatches or copies as one.
    pub fn repeated(self, times: u32) -> Self {
        let name = self.name;
        match self.work {
            Work::Pass(record) => Self::new(name, move |pass, _| {
                (0..times).try_for_each(|n| record(pass, n))
            }),
            Work::Copies(record) => Self::copies(name, move |encoder, _| {
                (0..times).for_each(|n| record(encoder, n));
            }),
        }
    }
}

/// What one submission took, divided by its dispatches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// From the pass's first timestamp to its last; none where the device has none, or none that can be believed.
    pub gpu: Option<Duration>,
    /// From the submission to the end of its work.
    pub wall: Duration,
    /// The recording calls on the host.
    pub record: Duration,
    /// Ending the pass and finishing the encoder, on the host.
    pub finish: Duration,
}

/// Times submissions of one pass each.
#[derive(Debug)]
pub struct Clock<'a> {
    context: &'a GpuContext,
    timestamps: Option<Timestamps>,
    rejected: Option<String>,
}

#[derive(Debug)]
struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    nanoseconds: f64,
}

const QUERIES: u64 = 2 * wgpu::QUERY_SIZE as u64;

impl<'a> Clock<'a> {
    pub fn new(context: &'a GpuContext) -> Self {
        let device = context.device();
        let timestamps = device
            .features()
            .contains(wgpu::Features::TIMESTAMP_QUERY)
            .then(|| Timestamps {
                queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("measure timestamps"),
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                }),
                resolved: device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("measure timestamps"),
                    size: QUERIES,
                    usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                    mapped_at_creation: false,
                }),
                nanoseconds: f64::from(context.queue().get_timestamp_period()),
            });
        let rejected = timestamps
            .is_none()
            .then(|| "the device has no timestamps".to_owned());
        Self {
            context,
            timestamps,
            rejected,
        }
    }

    /// Why samples have no time of the GPU: all of them, once one could not be believed.
    pub fn rejected(&self) -> Option<&str> {
        self.rejected.as_deref()
    }

    /// [`Clock::sample_async`] for programs that are not async.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn sample(&mut self, candidate: &Candidate<'_>, count: u32) -> Result<Sample> {
        pollster::block_on(self.sample_async(candidate, count))
    }

    /// Records `count` dispatches into one pass (or so many copies), submits and waits.
    pub async fn sample_async(&mut self, candidate: &Candidate<'_>, count: u32) -> Result<Sample> {
        let context = self.context;
        done(context).await?;
        let mut encoder =
            context
                .device()
                .create_command_encoder(&wgpu::CommandEncoderDescriptor {
                    label: Some("measure"),
                });
        let (start, record) = match &candidate.work {
            Work::Pass(recorded) => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: Some("measure"),
                    timestamp_writes: self.timestamps.as_ref().map(|timestamps| {
                        wgpu::ComputePassTimestampWrites {
                            query_set: &timestamps.queries,
                            beginning_of_pass_write_index: Some(0),
                            end_of_pass_write_index: Some(1),
                        }
                    }),
                });
                let start = Instant::now();
                (0..count).try_for_each(|n| recorded(&mut pass, n))?;
                (start, start.elapsed())
            }
            Work::Copies(recorded) => {
                let start = Instant::now();
                (0..count).for_each(|n| recorded(&mut encoder, n));
                (start, start.elapsed())
            }
        };
        let is_pass = matches!(candidate.work, Work::Pass(_));
        let timestamps = self.timestamps.as_ref().filter(|_| is_pass);
        if let Some(timestamps) = timestamps {
            encoder.resolve_query_set(&timestamps.queries, 0..2, &timestamps.resolved, 0);
        }
        let commands = encoder.finish();
        let finish = start.elapsed() - record;
        let start = Instant::now();
        context.queue().submit([commands]);
        done(context).await?;
        let wall = start.elapsed();
        let gpu = if is_pass { self.gpu(wall).await? } else { None };
        Ok(Sample {
            gpu: gpu.map(|gpu| gpu / count),
            wall: wall / count,
            record: record / count,
            finish: finish / count,
        })
    }

    /// What the timestamps of the last pass say, if that is possible in a submission that took `wall`.
    async fn gpu(&mut self, wall: Duration) -> Result<Option<Duration>> {
        let (Some(timestamps), None) = (&self.timestamps, &self.rejected) else {
            return Ok(None);
        };
        let ticks: Vec<u64> = self.context.read(&timestamps.resolved, 2).await?;
        match believed([ticks[0], ticks[1]], timestamps.nanoseconds, wall) {
            Ok(gpu) => Ok(Some(gpu)),
            Err(reason) => {
                self.rejected = Some(reason);
                Ok(None)
            }
        }
    }

    /// [`Clock::rounds_async`] for programs that are not async.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn rounds(
        &mut self,
        rounds: u32,
        candidates: &[Candidate<'_>],
        count: u32,
        done: impl FnMut(),
    ) -> Result<Vec<Vec<Sample>>> {
        pollster::block_on(self.rounds_async(rounds, candidates, count, done))
    }

    /// Samples of candidates, one of each in every round, the first round of all thrown away. `done` is called after each.
    pub async fn rounds_async(
        &mut self,
        rounds: u32,
        candidates: &[Candidate<'_>],
        count: u32,
        mut done: impl FnMut(),
    ) -> Result<Vec<Vec<Sample>>> {
        let mut samples = vec![Vec::new(); candidates.len()];
        for round in 0..=rounds {
            for (candidate, samples) in candidates.iter().zip(&mut samples) {
                let sample = self.sample_async(candidate, count).await?;
                if round > 0 {
                    samples.push(sample);
                }
                done();
            }
        }
        if self.rejected.is_some() {
            samples
                .iter_mut()
                .flatten()
                .for_each(|sample| sample.gpu = None);
        }
        Ok(samples)
    }
}

/// Waits until everything submitted is done.
#[cfg(not(target_arch = "wasm32"))]
async fn done(context: &GpuContext) -> Result<()> {
    context.wait()
}

/// Waits until everything submitted is done: in a browser nothing may block.
#[cfg(target_arch = "wasm32")]
async fn done(context: &GpuContext) -> Result<()> {
    let (sender, receiver) = futures_intrusive::channel::shared::oneshot_channel();
    context.queue().on_submitted_work_done(move || {
        // The receiver is gone only where nobody waits any more.
        let _ = sender.send(());
    });
    receiver.receive().await;
    context.wait()
}

/// The time between two timestamps, if it can be that of the only pass of a submission that took `wall`; else what is wrong with it.
pub fn believed(
    [begin, end]: [u64; 2],
    nanoseconds: f64,
    wall: Duration,
) -> std::result::Result<Duration, String> {
    if begin == 0 || end == 0 {
        return Err("a timestamp is 0".to_owned());
    }
    if end <= begin {
        return Err(format!("timestamps go from {begin} to {end}"));
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "nanoseconds of a run are far below 2^53"
    )]
    let gpu = Duration::try_from_secs_f64((end - begin) as f64 * nanoseconds / 1e9)
        .unwrap_or(Duration::MAX);
    if gpu > wall || (wall > LONG && gpu < wall / 4) {
        return Err(format!(
            "timestamps claim {gpu:?} of a submission of {wall:?}"
        ));
    }
    Ok(gpu)
}

/// What submitting costs is far below this, so most of a longer submission is its pass.
const LONG: Duration = Duration::from_millis(20);

/// The middle one of some times; an error where there is none.
pub fn median(times: impl IntoIterator<Item = Duration>) -> Result<Duration> {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().ok_or(RopeError::Count {
        operand: "rounds",
        rule: "must be at least 1".into(),
        got: 0,
    })
}
