//! The crate on the GPU of who visits a web page: `main.js` calls these steps, and shows what they return (JSON texts).

mod accuracy;
#[path = "../../benches/measure/mod.rs"]
mod measure;
mod speed;

use conformance::vectors::Failure;
use conformance::{cases, device, verdict};
use serde_json::{Value, json};
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;
use wgpu_rope::{Frequencies, GpuContext, LayerTest, RopeConfig, TableSpec};

/// Lets the page know why, where something panics.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|panic| {
        wasm_bindgen::throw_str(&panic.to_string())
    }));
}

/// What the page was built from.
#[wasm_bindgen]
#[must_use]
pub fn versions() -> String {
    json!({ "wgpu-rope": env!("CARGO_PKG_VERSION"), "wgpu": "30" }).to_string()
}

/// A device of the browser, and what can be tried on it.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Session {
    context: GpuContext,
}

#[wasm_bindgen]
impl Session {
    /// A device on the adapter that the browser gives.
    ///
    /// # Errors
    /// Where it gives none.
    pub async fn open() -> Result<Self, JsError> {
        let adapters = GpuContext::adapters().await;
        let Some(adapter) = adapters.first() else {
            return Err(JsError::new("the browser gives no adapter"));
        };
        let context = GpuContext::from_adapter(adapter).await.map_err(js_error)?;
        Ok(Self { context })
    }

    /// What the device allows.
    #[must_use]
    pub fn limits(&self) -> String {
        let limits = self.context.device().limits();
        let timestamps = wgpu::Features::TIMESTAMP_QUERY;
        json!({
            "max_buffer_size": limits.max_buffer_size,
            "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
            "max_compute_workgroup_size_x": limits.max_compute_workgroup_size_x,
            "timestamps": self.context.device().features().contains(timestamps),
        })
        .to_string()
    }

    /// The crate's own self-test.
    ///
    /// # Errors
    /// Where something cannot be made or run.
    #[wasm_bindgen(js_name = selfTest)]
    pub async fn self_test(&self) -> Result<String, JsError> {
        let test = self.context.self_test().await.map_err(js_error)?;
        // WebGPU's limits suffice for a layer, so none is left out.
        let (layer_channels, layer_differences) = match test.layer {
            LayerTest::Compared {
                channels,
                differences,
            } => (channels, differences),
            LayerTest::LeftOut { .. } => (0, 0),
        };
        Ok(json!({
            "passed": test.passed(),
            "table_entries": test.table_entries,
            "table_differences": test.table_differences,
            "channels": test.channels,
            "channel_differences": test.channel_differences,
            "layer_channels": layer_channels,
            "layer_differences": layer_differences,
        })
        .to_string())
    }

    /// The conformance vectors, which the CPU twin makes here and now. `progress` is called with how many are done, and of how many. With a
    /// `fault` in the WGSL, which has to be found, they are fewer.
    ///
    /// # Errors
    /// Where they cannot be made; one that cannot be run is in the result.
    pub async fn conformance(
        &self,
        fault: bool,
        progress: js_sys::Function,
    ) -> Result<String, JsError> {
        let value = conformance_of(&self.context, fault, &Progress(progress)).await;
        Ok(value.map_err(js_error)?.to_string())
    }

    /// Prefill or decode of a layer against the best plain in-place pass.
    ///
    /// # Errors
    /// Where something cannot be made or run.
    pub async fn speed(
        &self,
        stage: String,
        progress: js_sys::Function,
    ) -> Result<String, JsError> {
        let value = match &*stage {
            "prefill" => speed::prefill(&self.context, &Progress(progress)).await,
            "decode" => speed::decode(&self.context, &Progress(progress)).await,
            other => Err(format!("there is no {other}").into()),
        };
        Ok(value.map_err(js_error)?.to_string())
    }

    /// Makes a table as large as the device allows, which may be more than it has memory for, and returns its bytes. For the page's
    /// test: visitors want their memory for something else.
    ///
    /// # Errors
    /// The crate's, where there is no memory for it.
    #[wasm_bindgen(js_name = largestTable)]
    pub async fn largest_table(&self) -> Result<f64, JsError> {
        largest_table(&self.context).await.map_err(js_error)
    }

    /// Loses the device, as a driver does that is restarted. For the page's test.
    pub fn lose(&self) {
        self.context.device().destroy();
    }

    /// Errors of cos and sin by position.
    ///
    /// # Errors
    /// Where something cannot be made or run.
    pub async fn accuracy(&self) -> Result<String, JsError> {
        let value = accuracy::table(&self.context).await;
        Ok(value.map_err(js_error)?.to_string())
    }
}

async fn conformance_of(
    context: &GpuContext,
    fault: bool,
    progress: &Progress,
) -> Result<Value, Failure> {
    let vectors = if fault {
        cases::faulty()?
    } else {
        cases::vectors()?
    };
    let file = verdict::sha256(&vectors.to_file()?);
    let (mut done, all) = (0, vectors.vectors.len());
    let answers = device::answer(context, &vectors, || {
        done += 1;
        progress.tell(done, all);
    })
    .await?;
    let verdict = verdict::judge(&vectors, &answers)?;
    Ok(json!({
        "equal": verdict.is_equal(),
        "vectors_sha256": file,
        "total": verdict.total(),
        "verdict": verdict,
    }))
}

async fn largest_table(context: &GpuContext) -> Result<f64, Failure> {
    let limits = context.device().limits();
    let bytes = limits
        .max_buffer_size
        .min(limits.max_storage_buffer_binding_size);
    // Rows of 6 pairs and what stands behind them can be exactly 2^30 bytes and other powers of 4.
    let spec = TableSpec::new(&Frequencies::new(&RopeConfig::new(12))?);
    let rows = u32::try_from((bytes - 16) / 48)?;
    let make = || context.kernel().table(&spec, rows);
    let table = wgpu_rope::checked(context.device(), make).await?;
    Ok(table.buffer().size() as f64)
}

/// A function of the page that shows how far a step is.
struct Progress(js_sys::Function);

impl Progress {
    fn tell(&self, done: usize, all: usize) {
        // What the page makes of it is no part of the step.
        let _ = self
            .0
            .call2(&wasm_bindgen::JsValue::NULL, &done.into(), &all.into());
    }
}

fn js_error(error: impl std::fmt::Display) -> JsError {
    JsError::new(&error.to_string())
}
