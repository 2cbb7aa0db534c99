//! Rows of results, and how they are written.

use std::error::Error;
use std::time::Duration;

use serde_json::{Value, json};
use wgpu_rope::{ElementType, Pairing};

use crate::args::Output;
use crate::measure::{Case, Layout, Sample, Workload, median};

/// One workload on one adapter.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) adapter: String,
    pub(crate) backend: String,
    pub(crate) driver: String,
    pub(crate) is_cpu: bool,
    pub(crate) workload: Workload,
    /// Entry point, heads per thread of Q and K, threads of a workgroup, for each dispatch of a rotation.
    pub(crate) kernel: Vec<Kernel>,
    /// Rotations of a submission.
    pub(crate) dispatches: u32,
    pub(crate) bit_equal: bool,
    pub(crate) samples: Vec<Sample>,
    /// Of a fill of as many rows as there are tokens.
    pub(crate) fill: Vec<Sample>,
    /// The fill to 32 rotations, as medians: what a step's one fill adds to the layers of a common model.
    pub(crate) fill_share: f64,
    pub(crate) floor: (String, Vec<Sample>),
    pub(crate) floor_ratio: f64,
    /// Why there is no time of the GPU.
    pub(crate) rejected: Option<String>,
}

/// What the crate chose, or was told.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) entry_point: &'static str,
    pub(crate) heads_per_thread: [u32; 2],
    pub(crate) heads_at_once: [u32; 2],
    pub(crate) workgroup: u32,
}

impl Row {
    pub(crate) fn new(
        case: &Case<'_>,
        dispatches: u32,
        bit_equal: bool,
        samples: Vec<Sample>,
        fill: Vec<Sample>,
        floors: Vec<(String, Vec<Sample>)>,
        rejected: Option<&str>,
    ) -> wgpu_rope::Result<Self> {
        let info = case.context.info();
        let kernel = case.rotations[0]
            .planned()
            .map(|planned| {
                let constant = |name| planned.constant(name).unwrap_or(0);
                Kernel {
                    entry_point: planned.entry_point,
                    heads_per_thread: [constant("QUERY_HEADS"), constant("KEY_HEADS")],
                    heads_at_once: [constant("QUERY_AT_ONCE"), constant("KEY_AT_ONCE")],
                    workgroup: constant("WORKGROUP"),
                }
            })
            .collect();
        let time = |samples: &[Sample]| {
            median(
                samples
                    .iter()
                    .map(|sample| sample.gpu.unwrap_or(sample.wall)),
            )
        };
        let mut best: Option<(Duration, (String, Vec<Sample>))> = None;
        for floor in floors {
            let time = time(&floor.1)?;
            if best.as_ref().is_none_or(|(least, _)| time < *least) {
                best = Some((time, floor));
            }
        }
        let (least, floor) = best.unwrap_or_default();
        Ok(Self {
            adapter: info.name.clone(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info)
                .trim()
                .to_owned(),
            is_cpu: info.device_type == wgpu::DeviceType::Cpu,
            workload: case.workload.clone(),
            kernel,
            dispatches,
            bit_equal,
            floor_ratio: time(&samples)?.as_secs_f64() / least.as_secs_f64(),
            fill_share: time(&fill)?.as_secs_f64() / (32.0 * time(&samples)?.as_secs_f64()),
            samples,
            fill,
            floor,
            rejected: rejected.map(str::to_owned),
        })
    }

    /// Times of the GPU; none where one is missing.
    fn gpu(&self) -> Option<Spread> {
        let times: Option<Vec<_>> = self.samples.iter().map(|sample| sample.gpu).collect();
        times.map(Spread::of)
    }

    fn spread(&self, time: impl Fn(&Sample) -> Duration) -> Spread {
        Spread::of(self.samples.iter().map(time).collect())
    }

    /// Bytes read and written in a second.
    fn gigabytes(&self) -> f64 {
        let bytes: u64 = self.workload.rotated_bytes().iter().sum();
        let time = self
            .gpu()
            .unwrap_or_else(|| self.spread(|sample| sample.wall));
        2.0 * bytes as f64 / (time.mean * 1e3)
    }

    fn kernels(&self) -> String {
        let texts: Vec<_> = self
            .kernel
            .iter()
            .map(|kernel| {
                let [query, key] = kernel.heads_per_thread;
                format!(
                    "{} {query}+{key} x {}",
                    kernel.entry_point, kernel.workgroup
                )
            })
            .collect();
        texts.join(", ")
    }

    fn json(&self) -> Value {
        let workload = &self.workload;
        let samples = |samples: &[Sample]| -> Vec<Value> {
            samples
                .iter()
                .map(|sample| {
                    json!({
                        "gpu_us": sample.gpu.map(us),
                        "wall_us": us(sample.wall),
                        "record_us": us(sample.record),
                        "finish_us": us(sample.finish),
                    })
                })
                .collect()
        };
        let kernel: Vec<_> = self
            .kernel
            .iter()
            .map(|kernel| {
                json!({
                    "entry_point": kernel.entry_point,
                    "heads_per_thread": kernel.heads_per_thread,
                    "heads_at_once": kernel.heads_at_once,
                    "workgroup": kernel.workgroup,
                })
            })
            .collect();
        json!({
            "adapter": self.adapter,
            "backend": self.backend,
            "driver": self.driver,
            "device_type": if self.is_cpu { "cpu" } else { "gpu" },
            "wgpu": WGPU,
            "workload": workload.name,
            "batch": workload.batch,
            "tokens": workload.tokens,
            "heads": workload.heads,
            "kv_heads": workload.kv_heads,
            "head_dim": workload.head_dim,
            "rotary_dim": workload.rotary_dim,
            "layout": layout_name(workload.layout),
            "type": type_name(workload.element),
            "pairing": pairing_name(workload.pairing),
            "kernel": kernel,
            "dispatches": self.dispatches,
            "gpu_us": self.gpu().map(|gpu| gpu.mean),
            "gpu_us_sd": self.gpu().map(|gpu| gpu.deviation),
            "timestamps_rejected": self.rejected,
            "wall_us": self.spread(|sample| sample.wall).mean,
            "wall_us_sd": self.spread(|sample| sample.wall).deviation,
            "record_us": self.spread(|sample| sample.record).mean,
            "gbps": self.gigabytes(),
            "floor_ratio": self.floor_ratio,
            "floor": self.floor.0,
            "bit_equal": self.bit_equal,
            "fill_to_32_rotations": self.fill_share,
            "samples": samples(&self.samples),
            "fill_samples": samples(&self.fill),
            "floor_samples": samples(&self.floor.1),
        })
    }
}

/// The version of wgpu that this was built with.
const WGPU: &str = "30";

/// Mean and standard deviation in microseconds.
#[derive(Debug, Clone, Copy)]
struct Spread {
    mean: f64,
    deviation: f64,
}

impl Spread {
    fn of(times: Vec<Duration>) -> Self {
        let n = times.len() as f64;
        let mean = times.iter().copied().map(us).sum::<f64>() / n;
        let squares = times
            .iter()
            .map(|time| (us(*time) - mean).powi(2))
            .sum::<f64>();
        Self {
            mean,
            deviation: (squares / (n - 1.0).max(1.0)).sqrt(),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ± {:.2}", self.mean, self.deviation)
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub(crate) fn type_name(element: ElementType) -> &'static str {
    match element {
        ElementType::F16 => "f16",
        ElementType::Bf16 => "bf16",
        _ => "f32",
    }
}

pub(crate) fn pairing_name(pairing: Pairing) -> &'static str {
    match pairing {
        Pairing::Interleaved => "interleaved",
        Pairing::InterleavedToHalfSplit => "interleaved-to-half-split",
        _ => "half-split",
    }
}

fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::Bshd => "bshd",
        Layout::Bhsd => "bhsd",
    }
}

pub(crate) fn written(output: Output, rows: &[Row]) -> Result<String, Box<dyn Error>> {
    match output {
        Output::Md => Ok(markdown(rows)),
        Output::Csv => csv(rows),
        Output::Json => {
            let rows: Vec<_> = rows.iter().map(Row::json).collect();
            Ok(format!("{}\n", serde_json::to_string_pretty(&rows)?))
        }
    }
}

const HEADINGS: [&str; 14] = [
    "adapter",
    "backend",
    "driver",
    "workload",
    "type",
    "pairing",
    "kernel, heads per thread x threads",
    "GPU us",
    "wall us",
    "record us",
    "GB/s",
    "ratio to floor",
    "fill to 32 rotations",
    "bits = CPU",
];

fn markdown(rows: &[Row]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&HEADINGS.map(str::to_owned));
    text += "|---|---|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---|\n";
    for row in rows {
        let workload = &row.workload;
        let layout = if workload.layout == Layout::Bhsd {
            ", bhsd"
        } else {
            ""
        };
        text += &line(&[
            row.adapter.clone(),
            row.backend.clone(),
            row.driver.clone(),
            format!("{}{layout}", workload.name),
            type_name(workload.element).to_owned(),
            pairing_name(workload.pairing).to_owned(),
            row.kernels(),
            row.gpu().map_or("-".to_owned(), |gpu| gpu.to_string()),
            row.spread(|sample| sample.wall).to_string(),
            format!("{:.2}", row.spread(|sample| sample.record).mean),
            format!("{:.2}", row.gigabytes()),
            format!("{:.2}", row.floor_ratio),
            format!("{:.3}", row.fill_share),
            if row.bit_equal { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    let mut notes = Vec::new();
    for row in rows {
        let adapter = format!("{}, {}", row.adapter, row.backend);
        if row.is_cpu {
            let note = "a driver that runs on the CPU: of its figures only ratios mean anything";
            notes.push(format!("{adapter}: {note}."));
        }
        if let Some(reason) = &row.rejected {
            notes.push(format!(
                "{adapter}, {}: no GPU time, {reason}.",
                row.workload.name
            ));
        }
    }
    let mut told = std::collections::BTreeSet::new();
    notes.retain(|note| told.insert(note.clone()));
    for note in notes {
        text += &format!("\n{note}\n");
    }
    text
}

fn csv(rows: &[Row]) -> Result<String, Box<dyn Error>> {
    // The keys of the JSON in its order, without the samples.
    let mut writer = csv::Writer::from_writer(Vec::new());
    let keys = [
        "adapter",
        "backend",
        "driver",
        "device_type",
        "wgpu",
        "workload",
        "batch",
        "tokens",
        "heads",
        "kv_heads",
        "head_dim",
        "rotary_dim",
        "layout",
        "type",
        "pairing",
        "dispatches",
        "gpu_us",
        "gpu_us_sd",
        "wall_us",
        "wall_us_sd",
        "record_us",
        "gbps",
        "floor_ratio",
        "fill_to_32_rotations",
        "bit_equal",
        "timestamps_rejected",
    ];
    writer.write_record(keys.iter().chain(&["kernel"]))?;
    for row in rows {
        let value = row.json();
        let cells = keys.iter().map(|key| match &value[*key] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        writer.write_record(cells.chain([row.kernels()]))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}
