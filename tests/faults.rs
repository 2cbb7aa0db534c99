//! Devices that are lost and memory that is out, for real: every call returns an error, none panics or hangs, no handler of the
//! application is called, and a context can be made anew.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use common::{NO_USAGE, name};
use wgpu_rope::{
    CosSinLayout, ElementType, Frequencies, GpuContext, HeadLayout, KernelOptions, Operands,
    Placement, Positions, Result, RopeConfig, RopeError, RopeKernel, RopePlan, RotateSpec,
    TableSpec, checked,
};

const TOKENS: u32 = 12;

/// A device as applications make theirs. It has no handler of errors, so that wgpu panics where one reaches it.
fn applications_own(adapter: &wgpu::Adapter) -> GpuContext {
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..Default::default()
    }))
    .unwrap();
    GpuContext::from_device(&device, &queue).unwrap()
}

fn adapters() -> Vec<wgpu::Adapter> {
    let adapters = pollster::block_on(GpuContext::adapters());
    assert!(!adapters.is_empty(), "no adapter was found");
    adapters
}

#[test]
fn a_lost_device_is_an_error_of_every_call() {
    for adapter in adapters() {
        for own in [false, true] {
            for polled in [false, true] {
                let context = if own {
                    pollster::block_on(GpuContext::from_adapter(&adapter)).unwrap()
                } else {
                    applications_own(&adapter)
                };
                eprintln!("{} own {own} polled {polled}", name(&context));
                lose(&context, polled);
            }
        }
        // The context can be made anew, on the same adapter.
        let anew = pollster::block_on(GpuContext::from_adapter(&adapter)).unwrap();
        assert!(anew.self_test_blocking().unwrap().passed());
    }
}

fn lose(context: &GpuContext, polled: bool) {
    let (device, kernel) = (context.device(), context.kernel());
    let config = RopeConfig::new(64);
    let frequencies = TableSpec::new(&Frequencies::new(&config).unwrap());
    let cache = TableSpec::from_cos_sin(CosSinLayout {
        positions: TOKENS,
        columns: 32,
        pairs: 32,
        element: ElementType::F32,
    });
    let spec = RotateSpec::new(
        &config,
        1,
        TOKENS,
        HeadLayout::bshd(TOKENS, 4, 64),
        ElementType::F32,
    );
    let table = kernel.table(&frequencies, TOKENS).unwrap();
    let cached = kernel.table(&cache, TOKENS).unwrap();
    let fill = table.bind_positions(Positions::From(0)).unwrap();
    let plan = RopePlan::new(&spec, kernel.limits()).unwrap();
    let prepared = kernel.prepare(&plan).unwrap();
    let mut data = vec![1.0_f32; 12 * 4 * 64];
    let tensor = context.upload(&data, NO_USAGE).unwrap();
    let operands = Operands::new(tensor.slice(..));
    let dispatch = prepared.bind(&operands, &table).unwrap();
    context
        .run(|pass| {
            fill.record(pass, TOKENS)?;
            dispatch.record(pass, TOKENS)
        })
        .unwrap();
    let rows = context.upload(&[0.0_f32; 12 * 32], NO_USAGE).unwrap();
    let longer = context
        .upload(&[0.0_f32; 12 * 4 * 64 + 1], NO_USAGE)
        .unwrap();

    device.destroy();
    if polled {
        device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    }

    let is_lost = |what: &str, error: RopeError| match error {
        RopeError::Device { message, .. } => {
            assert!(
                message.contains("the device is lost"),
                "{what} on {}: {message}",
                name(context)
            );
        }
        other => panic!("{what} on {}: {other:?}", name(context)),
    };
    fn failed<T>(result: Result<T>) -> Option<RopeError> {
        result.err()
    }
    let untouched = data.clone();
    let warm = |plan| failed(kernel.warm([(plan, Placement::default())]));
    let other = RopePlan::new(
        &spec.clone().with_heads_per_invocation(2).with_workgroup(8),
        kernel.limits(),
    )
    .unwrap();
    let cached_fill = cached.bind_cos_sin(
        rows.slice(..),
        rows.slice(..),
        Positions::Start(tensor.slice(..4)),
    );
    // Where the tensors lie is known: nothing but a bind group is made, for which no loss is looked for.
    assert!(prepared.bind(&operands, &table).is_ok());
    let calls = [
        (
            "new",
            failed(RopeKernel::new(device, &KernelOptions::default())),
        ),
        ("table", failed(kernel.table(&frequencies, TOKENS))),
        ("table of a cache", failed(kernel.table(&cache, TOKENS))),
        ("prepare", failed(kernel.prepare(&plan))),
        ("warm what is warm", warm(&plan)),
        ("warm", warm(&other)),
        (
            "bind_positions",
            failed(table.bind_positions(Positions::From(1))),
        ),
        ("bind_cos_sin", failed(cached_fill)),
        (
            "bind at another place",
            failed(prepared.bind(&Operands::new(longer.slice(4..)), &table)),
        ),
        ("upload", failed(context.upload(&data, NO_USAGE))),
        ("odd upload", failed(context.upload(&[1_u8; 5], NO_USAGE))),
        (
            "run",
            failed(context.run(|pass| dispatch.record(pass, TOKENS))),
        ),
        ("run nothing", failed(context.run(|_| Ok(())))),
        ("wait", failed(context.wait())),
        ("read", failed(context.read_blocking::<f32>(&tensor, 12))),
        (
            "read_faults",
            failed(pollster::block_on(context.read_faults(&table))),
        ),
        ("self_test", failed(context.self_test_blocking())),
        (
            "rotate",
            failed(context.rotate_blocking(
                &spec,
                &frequencies,
                (&[0; 12]).into(),
                &mut data,
                None,
            )),
        ),
        (
            "from_device",
            failed(GpuContext::from_device(device, context.queue())),
        ),
        (
            "checked",
            failed(pollster::block_on(checked(device, || Ok(())))),
        ),
        (
            "checked table",
            failed(pollster::block_on(checked(device, || {
                kernel.table(&cache, 1)
            }))),
        ),
    ];
    for (what, error) in calls {
        is_lost(
            what,
            error.unwrap_or_else(|| panic!("{what} succeeded on {}", name(context))),
        );
    }
    assert_eq!(data, untouched);

    // What an application records and submits by itself comes to nothing, as all that wgpu does on such a device.
    let mut encoder = device.create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    dispatch.record(&mut pass, TOKENS).unwrap();
    drop(pass);
    context.queue().submit([encoder.finish()]);
}

#[test]
fn checked_reports_what_the_application_makes_too() {
    fn can_be_sent<T: Send>(future: T) -> T {
        future
    }
    for adapter in adapters() {
        let context = applications_own(&adapter);
        let (device, kernel) = (context.device(), context.kernel());
        let frequencies = Frequencies::new(&RopeConfig::new(64)).unwrap();
        let spec = TableSpec::new(&frequencies);
        let make = || kernel.table(&spec, 4);
        let table = pollster::block_on(can_be_sent(checked(device, make))).unwrap();
        assert_eq!(table.plan().rows(), 4);
        // A buffer that cannot be: the device has no handler, so it would panic.
        let refused = || {
            Ok(device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("mine"),
                size: 4,
                usage: wgpu::BufferUsages::empty(),
                mapped_at_creation: false,
            }))
        };
        let error = pollster::block_on(checked(device, refused)).unwrap_err();
        assert!(
            matches!(&error, RopeError::Device { operand: "objects", message } if message.contains("mine")),
            "{error}"
        );
        // The crate's own errors come first, since they say more.
        let error = pollster::block_on(checked(device, || {
            let _ = refused();
            kernel.table(&spec, 0)
        }))
        .unwrap_err();
        assert!(!matches!(error, RopeError::Device { .. }), "{error}");
        // Two at once are told apart: scopes do not outlive the calls that are made in them.
        let (bad, good) = (checked(device, refused), checked(device, make));
        let good = pollster::block_on(async {
            assert!(bad.await.is_err());
            good.await
        });
        good.unwrap();
    }
}

/// Set in a child of this test, to the number of the adapter it is for.
const CHILD: &str = "WGPU_ROPE_OUT_OF_MEMORY_ON";

/// Bytes of a table whose memory is asked for.
const LARGE: u64 = 64 << 20;

#[test]
fn memory_that_is_out_is_an_error() {
    if let Ok(number) = std::env::var(CHILD) {
        return use_up_memory(&adapters()[number.parse::<usize>().unwrap()]);
    }
    if !cfg!(target_os = "linux") {
        eprintln!("SKIPPED: the memory of a process is limited by prlimit, which Linux has");
        return;
    }
    for (number, adapter) in adapters().iter().enumerate() {
        let info = adapter.get_info();
        if info.device_type != wgpu::DeviceType::Cpu {
            eprintln!("SKIPPED on {}: its memory is not the process's", info.name);
            continue;
        }
        // A process of its own: its address space is going to be limited.
        let out = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory_that_is_out_is_an_error", "--nocapture"])
            .env(CHILD, number.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        eprintln!("{} ({}): {}\n{text}", info.name, info.backend, out.status);
        assert!(out.status.success(), "{} ({})", info.name, info.backend);
        assert!(text.contains("memory was out and came back"));
    }
}

/// Limits the address space of this process. The shell is started before there is no memory to start it with.
struct Limiter(Child);

impl Limiter {
    fn new() -> Self {
        let id = std::process::id();
        let script =
            format!("while read -r limit; do prlimit --pid {id} --as=$limit: && echo done; done");
        let shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(shell.unwrap())
    }

    /// To so many bytes more than it has now.
    fn leave(&mut self, more: u64) {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
        // Pages of more than 4 KiB make it a looser limit.
        self.set(&(pages * 4096 + more).to_string());
    }

    fn set(&mut self, limit: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{limit}").unwrap();
        let mut answer = [0; 5];
        let answered = self.0.stdout.as_mut().unwrap().read_exact(&mut answer);
        answered.expect("prlimit of util-linux");
        assert_eq!(answer, *b"done\n");
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn use_up_memory(adapter: &wgpu::Adapter) {
    let context = applications_own(adapter);
    let frequencies = Frequencies::new(&RopeConfig::new(64)).unwrap();
    let spec = TableSpec::new(&frequencies);
    let rows = u32::try_from(LARGE / (32 * 8)).unwrap() - 1;
    assert!(context.self_test_blocking().unwrap().passed());

    let mut limiter = Limiter::new();
    limiter.leave(10 * LARGE);
    let mut tables = Vec::new();
    let error = &loop {
        match context.kernel().table(&spec, rows) {
            Ok(table) => tables.push(table),
            Err(error) => break Some(error),
        }
        // More than the limit allows: nobody said so.
        if tables.len() == 11 {
            break None;
        }
    };
    eprintln!("{} tables, then: {error:?}", tables.len());
    let bytes = tables[0].plan().bytes();
    let read = |context: &GpuContext| {
        let words = usize::try_from(bytes / 4).unwrap();
        context.read_blocking::<u32>(tables[0].buffer(), words)
    };
    let out_of_memory = |operand, bytes| RopeError::OutOfMemory {
        operand,
        bytes: Some(bytes),
    };
    // Staging is memory too.
    limiter.leave(LARGE / 2);
    match error {
        Some(error) => {
            assert_eq!(*error, out_of_memory("table", bytes));
            assert_eq!(
                read(&context).unwrap_err(),
                out_of_memory("read-back", bytes)
            );
        }
        None => {
            assert_eq!(context.info().backend, wgpu::Backend::Gl);
            eprintln!("NOT REPORTED: wgpu's GL backend does not ask the driver for errors");
            // But staging that is not there cannot be mapped, and then the device is lost.
            let error = read(&context).unwrap_err();
            assert!(
                matches!(&error, RopeError::Device { message, .. } if message.contains("lost")),
                "{error}"
            );
        }
    }
    let is_lost = error.is_none();

    limiter.set("unlimited");
    drop(tables);
    // Natively wgpu loses no device for a buffer that there is no memory for.
    match context.self_test_blocking() {
        Ok(found) => assert!(found.passed() && !is_lost),
        Err(error) => assert!(is_lost, "{error}"),
    }
    let anew = pollster::block_on(GpuContext::from_adapter(adapter)).unwrap();
    let table = anew.kernel().table(&spec, rows).unwrap();
    assert!(anew.self_test_blocking().unwrap().passed());
    drop(table);
    eprintln!("memory was out and came back");
}
