//! The host API as an application meets it: recorded into its own pass, re-bound, indirect, from several threads; and every
//! fault a typed error with nothing recorded.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test stops where something is not as it has to be, and says on what it ran"
)]

mod common;

use common::{CONTEXTS, NO_USAGE, attempts_with, contexts_with, name, values};
use wgpu_rope::{
    CosSinTable, ElementType, Frequencies, GpuContext, HeadLayout, KernelOptions, LayerTest,
    Limits, Operands, Placement, Positions, PreparedRope, RopeConfig, RopeError, RopeKernel,
    RopePlan, RotateSpec, Rows, SelfTest, TableSpec, reference,
};

const TOKENS: u32 = 12;

fn config() -> RopeConfig {
    RopeConfig::new(64)
}

fn spec() -> RotateSpec {
    RotateSpec::new(
        &config(),
        2,
        TOKENS,
        HeadLayout::bshd(TOKENS, 4, 64),
        ElementType::F32,
    )
    .with_key(HeadLayout::bshd(TOKENS, 2, 64), ElementType::F32)
}

fn prepared(kernel: &RopeKernel, spec: &RotateSpec) -> PreparedRope {
    kernel
        .prepare(&RopePlan::new(spec, kernel.limits()).unwrap())
        .unwrap()
}

fn table(context: &GpuContext, rows: u32) -> CosSinTable {
    let frequencies = Frequencies::new(&config()).unwrap();
    context
        .kernel()
        .table(&TableSpec::new(&frequencies), rows)
        .unwrap()
}

fn filled(context: &GpuContext, rows: u32) -> CosSinTable {
    let table = table(context, rows);
    let fill = table.bind_positions(Positions::From(5)).unwrap();
    context.run(|pass| fill.record(pass, rows)).unwrap();
    table
}

fn rows() -> Vec<[f32; 2]> {
    let frequencies = Frequencies::new(&config()).unwrap();
    let positions: Vec<_> = (5..5 + i32::try_from(TOKENS).unwrap()).collect();
    reference::table(&TableSpec::new(&frequencies), (&positions).into()).unwrap()
}

/// Query and key as they were and as they have to become.
fn tensors(seed: u64) -> [Vec<f32>; 4] {
    let mut random = fastrand::Rng::with_seed(seed);
    let (query, key) = (
        values(&mut random, 2 * 12 * 4 * 64),
        values(&mut random, 2 * 12 * 2 * 64),
    );
    let (mut q, mut k) = (query.clone(), key.clone());
    reference::rotate(&spec(), &rows(), &mut q, Some(&mut k)).unwrap();
    [query, key, q, k]
}

#[test]
fn everything_is_recorded_into_the_applications_own_pass() {
    // The application's own kernel: adds 1 to every element of a tensor.
    let text = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            if (id.x < arrayLength(&x)) { x[id.x] += 1.0; } }";
    let [query, key, ..] = tensors(1);
    let (mut q, mut k) = (query.clone(), key.clone());
    let add = |x: &mut Vec<f32>| x.iter_mut().for_each(|x| *x += 1.0);
    add(&mut q);
    reference::rotate(&spec(), &rows(), &mut q, Some(&mut k)).unwrap();
    add(&mut q);
    for context in &*CONTEXTS {
        let device = context.device();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: None,
                source: wgpu::ShaderSource::Wgsl(text.into()),
            }),
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let (qb, kb) = (
            context.upload(&query, NO_USAGE).unwrap(),
            context.upload(&key, NO_USAGE).unwrap(),
        );
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: qb.as_entire_binding(),
            }],
        });
        let table = table(context, TOKENS);
        let fill = table.bind_positions(Positions::From(5)).unwrap();
        let dispatch = prepared(context.kernel(), &spec())
            .bind(&Operands::new(qb.slice(..)).with_key(kb.slice(..)), &table)
            .unwrap();
        let own = |pass: &mut wgpu::ComputePass<'_>| {
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(u32::try_from(query.len()).unwrap().div_ceil(64), 1, 1);
        };
        // One pass: fill, rotation and the application's dispatches see each other's results.
        context
            .run(|pass| {
                own(pass);
                fill.record(pass, TOKENS)?;
                dispatch.record(pass, TOKENS)?;
                own(pass);
                Ok(())
            })
            .unwrap();
        assert_eq!(
            context.read_blocking::<f32>(&qb, q.len()).unwrap(),
            q,
            "{}",
            name(context)
        );
        assert_eq!(
            context.read_blocking::<f32>(&kb, k.len()).unwrap(),
            k,
            "{}",
            name(context)
        );
    }
}

#[test]
fn one_preparation_serves_all_layers_and_all_places() {
    let layers: Vec<_> = (0..6).map(tensors).collect();
    for context in &*CONTEXTS {
        let table = filled(context, TOKENS);
        let prepared = prepared(context.kernel(), &spec());
        let mut bound = Vec::new();
        for (layer, [query, key, ..]) in layers.iter().enumerate() {
            // Each layer behind some other data of its own length, in words.
            let shift = [0, 64, 1, 3, 4, 256][layer];
            let place = |data: &[f32]| {
                let mut moved = vec![9.0; shift];
                moved.extend(data);
                context.upload(&moved, NO_USAGE).unwrap()
            };
            let (q, k) = (place(query), place(key));
            let from = shift as u64 * 4;
            let dispatch = prepared
                .bind(
                    &Operands::new(q.slice(from..)).with_key(k.slice(from..)),
                    &table,
                )
                .unwrap();
            bound.push((shift, q, k, dispatch));
        }
        context
            .run(|pass| {
                bound
                    .iter()
                    .try_for_each(|(.., dispatch)| dispatch.record(pass, TOKENS))
            })
            .unwrap();
        for ((shift, q, k, _), [_, _, query, key]) in bound.iter().zip(&layers) {
            for (buffer, expected) in [(q, query), (k, key)] {
                let made: Vec<f32> = context
                    .read_blocking(buffer, shift + expected.len())
                    .unwrap();
                assert_eq!(made[*shift..], *expected, "{} {shift}", name(context));
                assert!(made[..*shift].iter().all(|x| *x == 9.0));
            }
        }
    }
}

#[test]
fn workgroup_counts_may_come_from_a_buffer() {
    let [query, key, q, k] = tensors(3);
    for context in &*CONTEXTS {
        let table = filled(context, TOKENS);
        let prepared = prepared(context.kernel(), &spec());
        for tokens in [0, 5, TOKENS, TOKENS + 9] {
            let (qb, kb) = (
                context.upload(&query, NO_USAGE).unwrap(),
                context.upload(&key, NO_USAGE).unwrap(),
            );
            let dispatch = prepared
                .bind(&Operands::new(qb.slice(..)).with_key(kb.slice(..)), &table)
                .unwrap();
            let [x, _, z] = dispatch.workgroups(1).unwrap();
            // More workgroups than planned, in every dimension: the shader's guards cut them off.
            let extra = u32::from(tokens > TOKENS);
            let arguments = context
                .upload(
                    &[7, x + extra, tokens, z + extra],
                    wgpu::BufferUsages::INDIRECT,
                )
                .unwrap();
            context
                .run(|pass| dispatch.record_indirect(pass, &arguments, 4))
                .unwrap();
            for (buffer, before, after, heads) in [(&qb, &query, &q, 4), (&kb, &key, &k, 2)] {
                let made: Vec<f32> = context.read_blocking(buffer, before.len()).unwrap();
                let token = heads * 64;
                for (at, made) in made.chunks(token).enumerate() {
                    let turned = at % (TOKENS as usize) < tokens as usize;
                    let expected = if turned { after } else { before };
                    assert_eq!(
                        *made,
                        expected[at * token..][..token],
                        "{} {tokens}",
                        name(context)
                    );
                }
            }
        }
    }
}

#[test]
fn faults_of_a_binding_are_named_and_nothing_is_bound() {
    for context in &*CONTEXTS {
        let kernel = context.kernel();
        let table = filled(context, TOKENS);
        let [query, key, ..] = tensors(4);
        let (q, k) = (
            context.upload(&query, NO_USAGE).unwrap(),
            context.upload(&key, NO_USAGE).unwrap(),
        );
        let prepared = prepared(kernel, &spec());
        let fault =
            |operands: Operands<'_>| prepared.bind(&operands, &table).unwrap_err().to_string();
        let good = Operands::new(q.slice(..));
        assert_eq!(
            fault(good),
            "key: is planned and must be given (Operands::with), got none"
        );
        assert_eq!(
            fault(good.with_key(k.slice(4..))),
            "key: must hold 12288 bytes from byte 4 on, got 12284 bytes"
        );
        assert_eq!(
            fault(Operands::new(q.slice(..24_572)).with_key(k.slice(..))),
            "query: must hold 24576 bytes from byte 0 on, got 24572 bytes"
        );
        assert_eq!(
            fault(Operands::new(q.slice(2..)).with_key(k.slice(..))),
            "query: byte offset must be a multiple of 4, got 2"
        );
        let unusable = context.device().create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 1 << 16,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        assert_eq!(
            fault(good.with_key(unusable.slice(..))),
            "key: must have the usage STORAGE, got BufferUsages(COPY_SRC | COPY_DST)"
        );
        assert_eq!(
            fault(good.with_key(q.slice(..))),
            "key: must not share an element with the query in the same buffer, got views at elements 0 and 0 from bytes 0 and 0 on"
        );
        let rows_buffer = CosSinTable::clone(&filled(context, 1 << 10));
        let own_table = Operands::new(rows_buffer.buffer().slice(..)).with_key(k.slice(..));
        assert_eq!(
            prepared
                .bind(&own_table, &rows_buffer)
                .unwrap_err()
                .to_string(),
            "query: must not be the buffer of the table, got that buffer"
        );

        let both = good.with_key(k.slice(..));
        let short = filled(context, TOKENS - 1);
        assert_eq!(
            prepared.bind(&both, &short).unwrap_err().to_string(),
            "table: must have at least 12 rows for the planned tokens, got 11"
        );
        let narrow = kernel
            .table(
                &TableSpec::new(&Frequencies::new(&RopeConfig::new(32)).unwrap()),
                TOKENS,
            )
            .unwrap();
        assert_eq!(
            prepared.bind(&both, &narrow).unwrap_err().to_string(),
            "table: must have 32 pairs, rotary_dim / 2, got 16"
        );
        let alone = prepared_alone(kernel);
        assert_eq!(
            alone.bind(&both, &table).unwrap_err().to_string(),
            "key: is not planned (RotateSpec::operands) and must not be given, got one"
        );
        // Nothing of all this has changed a tensor.
        assert_eq!(
            context.read_blocking::<f32>(&q, query.len()).unwrap(),
            query
        );
        assert_eq!(context.read_blocking::<f32>(&k, key.len()).unwrap(), key);
    }
}

fn prepared_alone(kernel: &RopeKernel) -> PreparedRope {
    let spec = RotateSpec::new(
        &config(),
        1,
        TOKENS,
        HeadLayout::bshd(TOKENS, 4, 64),
        ElementType::F32,
    );
    prepared(kernel, &spec)
}

#[test]
fn faults_of_a_recording_are_named_and_nothing_is_recorded() {
    for context in &*CONTEXTS {
        let [query, key, ..] = tensors(5);
        let (q, k) = (
            context.upload(&query, NO_USAGE).unwrap(),
            context.upload(&key, NO_USAGE).unwrap(),
        );
        let prepared = prepared(context.kernel(), &spec());
        let operands = Operands::new(q.slice(..)).with_key(k.slice(..));
        let empty = table(context, TOKENS);
        let dispatch = prepared.bind(&operands, &empty).unwrap();
        // A pass that carries on after each fault and is submitted.
        context
            .run(|pass| {
                let mut fault = |tokens| dispatch.record(pass, tokens).unwrap_err().to_string();
                assert_eq!(fault(13), "tokens: must not exceed the planned 12, got 13");
                assert_eq!(fault(1), "table: must have the 1 rows that 1 tokens read filled by the last recorded TableFill, got 0");
                empty.bind_positions(Positions::From(0))?.record(pass, 3)?;
                let mut fault = |tokens| dispatch.record(pass, tokens).unwrap_err().to_string();
                assert_eq!(fault(4), "table: must have the 4 rows that 4 tokens read filled by the last recorded TableFill, got 3");
                let arguments = context.upload(&[1, 1, 1, 0], wgpu::BufferUsages::INDIRECT)?;
                let mut fault = |buffer: &wgpu::Buffer, offset| {
                    dispatch.record_indirect(pass, buffer, offset).unwrap_err().to_string()
                };
                assert_eq!(
                    fault(&q, 0),
                    "indirect arguments: must have the usage INDIRECT, got BufferUsages(COPY_SRC | COPY_DST | STORAGE)"
                );
                assert_eq!(fault(&arguments, 2), "indirect arguments: byte offset must be a multiple of 4, got 2");
                assert_eq!(fault(&arguments, 8), "indirect arguments: must hold 12 bytes at byte 8, got 16 bytes");
                assert!(fault(&arguments, u64::MAX - 3).starts_with("indirect arguments: must hold 12 bytes"));
                assert_eq!(fault(&arguments, 0), "table: must have the 12 rows that 12 tokens read filled by the last recorded TableFill, got 3");
                Ok(())
            })
            .unwrap();
        assert_eq!(
            context.read_blocking::<f32>(&q, query.len()).unwrap(),
            query
        );
        assert_eq!(context.read_blocking::<f32>(&k, key.len()).unwrap(), key);
    }
}

#[test]
fn plans_for_other_devices_are_refused() {
    for context in contexts_with(|limits| {
        limits.max_storage_buffer_binding_size = 1 << 16;
        limits.max_compute_workgroups_per_dimension = 64;
    }) {
        let own = *context.kernel().limits();
        let fault = |limits: &Limits| {
            let plan = RopePlan::new(&spec(), limits).unwrap();
            match context.kernel().prepare(&plan) {
                Err(RopeError::Limit { limit, .. }) => limit,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            fault(&Limits {
                max_storage_buffer_binding_size: 1 << 20,
                ..own
            }),
            "max_storage_buffer_binding_size"
        );
        assert_eq!(
            fault(&Limits {
                max_compute_workgroups_per_dimension: 100,
                ..own
            }),
            "max_compute_workgroups_per_dimension"
        );
        assert_eq!(
            fault(&Limits {
                max_compute_workgroup_storage_size: 1 << 20,
                ..own
            }),
            "max_compute_workgroup_storage_size"
        );
        assert_eq!(
            fault(&Limits {
                min_storage_buffer_offset_alignment: 4,
                ..own
            }),
            "min_storage_buffer_offset_alignment"
        );
    }
    for attempt in attempts_with(|limits| limits.max_storage_buffers_per_shader_stage = 3) {
        assert_eq!(
            attempt.unwrap_err().to_string(),
            "kernel: needs max_storage_buffers_per_shader_stage of 4, the device has 3; request it in required_limits"
        );
    }
    for context in contexts_with(|limits| limits.max_storage_buffers_per_shader_stage = 4) {
        assert!(context.self_test_blocking().unwrap().passed());
    }
}

#[test]
fn tables_of_another_device_are_refused() {
    for (context, other) in CONTEXTS.iter().zip(contexts_with(|_| {})) {
        let [query, key, ..] = tensors(6);
        let (q, k) = (
            context.upload(&query, NO_USAGE).unwrap(),
            context.upload(&key, NO_USAGE).unwrap(),
        );
        let prepared = prepared(context.kernel(), &spec());
        let operands = Operands::new(q.slice(..)).with_key(k.slice(..));
        let foreign = filled(&other, TOKENS);
        assert_eq!(
            prepared.bind(&operands, &foreign).unwrap_err().to_string(),
            "table: must be of the plan's device, got another device"
        );
        // A tensor of another device shows only when wgpu is asked, and comes back as an error.
        let foreign = other.upload(&query, NO_USAGE).unwrap();
        let operands = Operands::new(foreign.slice(..)).with_key(k.slice(..));
        let error = prepared
            .bind(&operands, &filled(context, TOKENS))
            .unwrap_err();
        assert!(
            matches!(
                error,
                RopeError::Device {
                    operand: "operands",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn indirect_counts_are_those_of_where_the_tensors_lie() {
    // 512 pairs: off 16 bytes they take four times the invocations, and so more workgroups.
    let config = RopeConfig::new(1024);
    let spec = RotateSpec::new(
        &config,
        1,
        3,
        HeadLayout::bshd(3, 1, 1024),
        ElementType::F32,
    );
    let frequencies = Frequencies::new(&config).unwrap();
    let rows = reference::table(&TableSpec::new(&frequencies), (&[0, 1, 2]).into()).unwrap();
    for context in &*CONTEXTS {
        let kernel = context.kernel();
        let table = kernel.table(&TableSpec::new(&frequencies), 3).unwrap();
        let fill = table.bind_positions(Positions::From(0)).unwrap();
        context.run(|pass| fill.record(pass, 3)).unwrap();
        let prepared = prepared(kernel, &spec);
        let mut counts = Vec::new();
        for words in [0, 1] {
            let mut expected = values(&mut fastrand::Rng::with_seed(1), 3 * 1024 + words);
            let buffer = context.upload(&expected, NO_USAGE).unwrap();
            let dispatch = prepared
                .bind(&Operands::new(buffer.slice(4 * words as u64..)), &table)
                .unwrap();
            let count = dispatch.workgroups(3).unwrap();
            let arguments = context
                .upload(&count, wgpu::BufferUsages::INDIRECT)
                .unwrap();
            context
                .run(|pass| dispatch.record_indirect(pass, &arguments, 0))
                .unwrap();
            reference::rotate(&spec, &rows, &mut expected[words..], None).unwrap();
            let made: Vec<f32> = context.read_blocking(&buffer, expected.len()).unwrap();
            assert!(made == expected, "{} {words}", name(context));
            counts.push(count);
            assert_eq!(
                dispatch.workgroups(4).unwrap_err().to_string(),
                "tokens: must not exceed the planned 3, got 4"
            );
        }
        assert_ne!(counts[0], counts[1]);
    }
}

#[test]
fn several_dispatches_take_any_count_but_no_indirect_one() {
    for context in contexts_with(|limits| limits.max_compute_workgroups_per_dimension = 7) {
        let [query, key, q, k] = tensors(7);
        let (qb, kb) = (
            context.upload(&query, NO_USAGE).unwrap(),
            context.upload(&key, NO_USAGE).unwrap(),
        );
        let table = filled(&context, TOKENS);
        let prepared = prepared(context.kernel(), &spec());
        let dispatch = prepared
            .bind(&Operands::new(qb.slice(..)).with_key(kb.slice(..)), &table)
            .unwrap();
        assert_eq!(dispatch.planned().len(), 4);
        let arguments = context
            .upload(&[1, 1, 1], wgpu::BufferUsages::INDIRECT)
            .unwrap();
        context
            .run(|pass| {
                assert!(matches!(
                    dispatch.record_indirect(pass, &arguments, 0),
                    Err(RopeError::Count {
                        operand: "dispatches",
                        got: 4,
                        ..
                    })
                ));
                dispatch.record(pass, 9)
            })
            .unwrap();
        for (buffer, before, after, heads) in [(&qb, &query, &q, 4), (&kb, &key, &k, 2)] {
            let made: Vec<f32> = context.read_blocking(buffer, before.len()).unwrap();
            for (at, made) in made.chunks(heads * 64).enumerate() {
                let expected = if at % (TOKENS as usize) < 9 {
                    after
                } else {
                    before
                };
                assert_eq!(
                    *made,
                    expected[at * heads * 64..][..heads * 64],
                    "{}",
                    name(&context)
                );
            }
        }
    }
}

const THREADS: usize = 8;

#[test]
fn handles_are_shared_between_threads() {
    fn shared<T: Clone + std::fmt::Debug + Send + Sync>(_: &T) {}
    for context in &*CONTEXTS {
        let table = filled(context, TOKENS);
        let prepared = prepared(context.kernel(), &spec());
        shared(context);
        shared(context.kernel());
        shared(&table);
        shared(&prepared);
        let packed = Placement {
            key: 1 << 16,
            shared: true,
            ..Placement::default()
        };
        context
            .kernel()
            .warm([Placement::default(), packed].map(|placement| (prepared.plan(), placement)))
            .unwrap();
        // One tensor that all threads turn in turn, each with an encoder of its own.
        let [query, key, mut q, mut k] = tensors(90);
        let (qb, kb) = (
            context.upload(&query, NO_USAGE).unwrap(),
            context.upload(&key, NO_USAGE).unwrap(),
        );
        let fill = table.bind_positions(Positions::From(5)).unwrap();
        let dispatch = prepared
            .bind(&Operands::new(qb.slice(..)).with_key(kb.slice(..)), &table)
            .unwrap();
        shared(&fill);
        shared(&dispatch);
        let start = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (context, kernel) = (context.clone(), context.kernel().clone());
                let (table, prepared) = (table.clone(), prepared.clone());
                let (fill, dispatch, start) = (fill.clone(), dispatch.clone(), &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 0..3 {
                        let [query, key, q, k] = tensors((thread * 3 + round) as u64);
                        // Some threads meet at a place, others bind to places that no thread has bound to before.
                        let shift = (thread / 2 + round) % 4;
                        let shifted = |data: &[f32]| [&vec![9.0; shift], data].concat();
                        let (qb, kb) = (
                            context.upload(&shifted(&query), NO_USAGE).unwrap(),
                            context.upload(&shifted(&key), NO_USAGE).unwrap(),
                        );
                        let from = 4 * shift as u64..;
                        let operands =
                            Operands::new(qb.slice(from.clone())).with_key(kb.slice(from));
                        let own = prepared.bind(&operands, &table).unwrap();
                        let (own_q, own_k) = (shifted(&q), shifted(&k));
                        // Pipelines that no thread has made yet, or that others are making.
                        let rare = spec().with_workgroup(8 + 8 * (round as u32));
                        let rare = self::prepared(&kernel, &rare);
                        let (rare_q, rare_k) = (
                            context.upload(&query, NO_USAGE).unwrap(),
                            context.upload(&key, NO_USAGE).unwrap(),
                        );
                        let operands = Operands::new(rare_q.slice(..)).with_key(rare_k.slice(..));
                        let rare = rare.bind(&operands, &table).unwrap();
                        let mut encoder = kernel
                            .device()
                            .create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                        {
                            let mut pass =
                                encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                            fill.record(&mut pass, TOKENS).unwrap();
                            own.record(&mut pass, TOKENS).unwrap();
                            rare.record(&mut pass, TOKENS).unwrap();
                            if round == 0 {
                                dispatch.record(&mut pass, TOKENS).unwrap();
                            }
                        }
                        context.queue().submit([encoder.finish()]);
                        for (buffer, expected) in
                            [(&qb, &own_q), (&kb, &own_k), (&rare_q, &q), (&rare_k, &k)]
                        {
                            let made: Vec<f32> =
                                context.read_blocking(buffer, expected.len()).unwrap();
                            assert!(made == *expected, "{} {thread}", name(&context));
                        }
                    }
                });
            }
        });
        for _ in 1..THREADS {
            reference::rotate(&spec(), &rows(), &mut q, Some(&mut k)).unwrap();
        }
        for (buffer, expected) in [(&qb, &q), (&kb, &k)] {
            let made: Vec<f32> = context.read_blocking(buffer, expected.len()).unwrap();
            assert!(made == *expected, "{}", name(context));
        }
    }
}

#[test]
fn convenience_checks_its_element_types_and_positions() {
    let context = &CONTEXTS[0];
    let frequencies = Frequencies::new(&config()).unwrap();
    let mut query = vec![1.0_f32; 12 * 4 * 64];
    let layout = HeadLayout::bshd(TOKENS, 4, 64);
    let half = RotateSpec::new(&config(), 1, TOKENS, layout, ElementType::F16);
    let rotate = |spec: &RotateSpec, positions: &[i32], query: &mut [f32]| {
        context
            .rotate_blocking(
                spec,
                &TableSpec::new(&frequencies),
                positions.into(),
                query,
                None,
            )
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        rotate(&half, &[0; 12], &mut query),
        "query: elements are planned as f16, got f32"
    );
    let spec = RotateSpec::new(&config(), 1, TOKENS, layout, ElementType::F32);
    assert_eq!(
        rotate(&spec, &[0; 3], &mut query),
        "table: must have at least 12 rows for the planned tokens, got 3"
    );
    assert_eq!(
        rotate(&spec, &[0; 12], &mut query[1..]),
        "query: must hold 12288 bytes from byte 0 on, got 12284 bytes"
    );
    assert_eq!(query, vec![1.0; 12 * 4 * 64]);
    let error = reference::rotate(
        &spec.clone().with_rows(Rows::PerToken),
        &rows()[1..],
        &mut query,
        None,
    );
    assert!(matches!(error, Err(RopeError::Table { .. })));
    for count in [2, usize::MAX / 4, usize::MAX] {
        let buffer = context.upload(&[1_u32], NO_USAGE).unwrap();
        assert!(context.read_blocking::<u32>(&buffer, count).is_err());
        assert!(context.read_blocking::<u8>(&buffer, count.max(5)).is_err());
    }
    assert!(
        context
            .read_blocking::<u32>(&context.upload(&[1_u32], NO_USAGE).unwrap(), 2)
            .is_err()
    );
}

#[test]
fn the_self_test_passes_and_counts() {
    for context in &*CONTEXTS {
        let found = context.self_test_blocking().unwrap();
        assert!(found.passed(), "{} {found:?}", name(context));
        assert_eq!(
            (found.table_entries, found.channels),
            (1088, 3 * 17 * 3 * (128 + 134 + 128))
        );
        // Two heads of 17 tokens, and two caches of 20 slots.
        let channels = (17 * 2 + 2 * 20) * 128;
        let compared = |differences| LayerTest::Compared {
            channels,
            differences,
        };
        assert_eq!(found.layer, compared(0));
        // Any difference is a failure.
        let of_table: fn(&mut SelfTest) = |found| found.table_differences = 1;
        let of_channels: fn(&mut SelfTest) = |found| found.channel_differences = 1;
        for change in [of_table, of_channels] {
            let mut failed = found;
            change(&mut failed);
            assert!(!failed.passed(), "{failed:?}");
        }
        let mut failed = found;
        failed.layer = compared(1);
        assert!(!failed.passed(), "{failed:?}");
        // On an application's own kernel as well.
        let own = RopeKernel::new(context.device(), &KernelOptions::default()).unwrap();
        assert!(
            GpuContext::from_kernel(&own, context.queue())
                .self_test_blocking()
                .unwrap()
                .passed()
        );
    }
    // A device of four bindings is tested without.
    for context in contexts_with(|limits| limits.max_storage_buffers_per_shader_stage = 4) {
        let found = context.self_test_blocking().unwrap();
        assert!(found.passed(), "{} {found:?}", name(&context));
        assert_eq!(
            found.layer,
            LayerTest::LeftOut {
                limit: "max_storage_buffers_per_shader_stage",
                needed: 8,
                allowed: 4,
            }
        );
    }
}

#[test]
fn counts_beyond_the_plan_touch_nothing_inside_the_binding() {
    // The plan's heads, batch entries and tokens are the first ones of a larger tensor [6, 3, 3, 64], so that those behind each
    // lie between those of the plan, inside the binding.
    let layout = HeadLayout::bshd(5, 2, 64).with_strides(3 * 64, 9 * 64, 64);
    let spec = RotateSpec::new(&config(), 2, 5, layout, ElementType::F32);
    let before = values(&mut fastrand::Rng::with_seed(8), 6 * 9 * 64);
    let mut after = before.clone();
    let rows = &rows()[..5 * 32];
    reference::rotate(&spec, rows, &mut after, None).unwrap();
    // The same with heads and tokens the other way round, so that tokens too lie between.
    let turned_layout = HeadLayout::bhsd(5, 2, 64).with_strides(6 * 64, 64, 18 * 64);
    let turned_spec = RotateSpec::new(&config(), 2, 5, turned_layout, ElementType::F32);
    let mut turned_after = before.clone();
    reference::rotate(&turned_spec, rows, &mut turned_after, None).unwrap();
    for context in &*CONTEXTS {
        let table = filled(context, 6);
        for (spec, after) in [(&spec, &after), (&turned_spec, &turned_after)] {
            let buffer = context.upload(&before, NO_USAGE).unwrap();
            let dispatch = prepared(context.kernel(), spec)
                .bind(&Operands::new(buffer.slice(..)), &table)
                .unwrap();
            let [x, y, z] = dispatch.workgroups(5).unwrap();
            let arguments = context
                .upload(&[x + 1, y + 1, z + 1], wgpu::BufferUsages::INDIRECT)
                .unwrap();
            context
                .run(|pass| dispatch.record_indirect(pass, &arguments, 0))
                .unwrap();
            let made: Vec<f32> = context.read_blocking(&buffer, before.len()).unwrap();
            assert!(made == *after, "{}", name(context));
        }
    }
}

#[test]
fn a_step_that_fills_too_few_rows_is_told_so() {
    // Two sequences planned for 12 tokens each: their first tokens read rows 0 and 12.
    let spec = spec().with_rows(Rows::PerToken);
    assert_eq!(spec.rows_needed(1), 13);
    for context in &*CONTEXTS {
        let [query, key, ..] = tensors(9);
        let (q, k) = (
            context.upload(&query, NO_USAGE).unwrap(),
            context.upload(&key, NO_USAGE).unwrap(),
        );
        let table = filled(context, 2 * TOKENS);
        let fill = table.bind_positions(Positions::From(0)).unwrap();
        let dispatch = prepared(context.kernel(), &spec)
            .bind(&Operands::new(q.slice(..)).with_key(k.slice(..)), &table)
            .unwrap();
        context
            .run(|pass| {
                dispatch.record(pass, TOKENS)?;
                // Rows of the step before do not count.
                fill.record(pass, 2)?;
                assert_eq!(
                    dispatch.record(pass, 1).unwrap_err().to_string(),
                    "table: must have the 13 rows that 1 tokens read filled by the last recorded TableFill, got 2"
                );
                fill.record(pass, 13)?;
                dispatch.record(pass, 1)
            })
            .unwrap();
    }
}
