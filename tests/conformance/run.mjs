// Runs vectors on WebGPU as JavaScript has it: in Node on Dawn, whose WGSL compiler is Tint.
//
//     node run.mjs VECTORS ANSWERS PACKAGES [BACKEND=vulkan]
//
// PACKAGES is the folder of node_modules with npm's package `webgpu`. The files are described in src/vectors.rs.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [vectorsFile, answersFile, packages, backend = "vulkan"] = process.argv.slice(2);
const { create, globals } = await import(createRequire(resolve(packages) + "/").resolve("webgpu"));
Object.assign(globalThis, globals);

const file = readFileSync(vectorsFile);
const headLength = Number(file.readBigUInt64LE(0));
const { modules, vectors } = JSON.parse(file.subarray(8, 8 + headLength).toString());
const contents = file.subarray(8 + headLength);

const gpu = create([`backend=${backend}`]);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error(`no adapter for the backend ${backend}`);
const device = await adapter.requestDevice();
const { vendor, architecture, device: name, description } = adapter.info;
const about = `${[name || description, architecture || vendor].filter(Boolean).join(", ")}; Dawn ${backend}`;

const shaders = Object.fromEntries(
    Object.entries(modules).map(([label, code]) => [label, device.createShaderModule({ label, code })]),
);

// All pipelines at once, so that Dawn compiles them on all processors; one that fails is reported where it is used.
const pipelines = new Map();
const keyOf = ({ module, entry_point, constants }) => JSON.stringify([module, entry_point, constants]);

async function compile({ module, entry_point, constants, bindings }) {
    const entries = bindings.map(({ binding, access }) => ({
        binding,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type: access },
    }));
    const group = device.createBindGroupLayout({ entries });
    const pipeline = await device.createComputePipelineAsync({
        layout: device.createPipelineLayout({ bindGroupLayouts: [group] }),
        compute: { module: shaders[module], entryPoint: entry_point, constants },
    });
    return { pipeline, group };
}

for (const dispatch of vectors.flatMap(({ dispatches }) => dispatches)) {
    const key = keyOf(dispatch);
    if (!pipelines.has(key)) pipelines.set(key, compile(dispatch).catch((error) => ({ error })));
}

// The contents of the buffers that a vector's dispatches write, one behind the other.
async function run({ buffers, dispatches }) {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    const made = buffers.map(({ size, initial }) => {
        const buffer = device.createBuffer({ size, usage });
        device.queue.writeBuffer(buffer, 0, contents, initial, size);
        return buffer;
    });
    const encoder = device.createCommandEncoder();
    const bound = [];
    for (const dispatch of dispatches) {
        const { pipeline, group, error } = await pipelines.get(keyOf(dispatch));
        if (error) throw error;
        const entries = dispatch.bindings.map(({ binding, buffer, offset, size }) => ({
            binding,
            resource: { buffer: made[buffer], offset, size },
        }));
        bound.push([pipeline, device.createBindGroup({ layout: group, entries }), dispatch.workgroups]);
    }
    const pass = encoder.beginComputePass();
    for (const [pipeline, group, workgroups] of bound) {
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, group);
        pass.dispatchWorkgroups(...workgroups);
    }
    pass.end();
    const copies = buffers.flatMap(({ size, expected }, index) => {
        if (expected === null) return [];
        const copy = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
        encoder.copyBufferToBuffer(made[index], 0, copy, 0, size);
        return [copy];
    });
    device.queue.submit([encoder.finish()]);
    const answers = [];
    for (const copy of copies) {
        await copy.mapAsync(GPUMapMode.READ);
        answers.push(Buffer.from(copy.getMappedRange().slice(0)));
        copy.destroy();
    }
    made.forEach((buffer) => buffer.destroy());
    return Buffer.concat(answers);
}

const failures = {};
const answers = [];
for (const vector of vectors) {
    device.pushErrorScope("validation");
    let failure;
    try {
        answers.push(await run(vector));
    } catch (error) {
        failure = String(error);
        const size = vector.buffers.reduce((sum, { size, expected }) => sum + (expected === null ? 0 : size), 0);
        answers.push(Buffer.alloc(size));
    }
    const reported = await device.popErrorScope();
    if (failure || reported) failures[`${vector.group}/${vector.name}`] = failure ?? reported.message;
}

const head = Buffer.from(JSON.stringify({ about, failures }));
const length = Buffer.alloc(8);
length.writeBigUInt64LE(BigInt(head.length));
writeFileSync(answersFile, Buffer.concat([length, head, ...answers]));
// Dawn's threads do not end by themselves.
process.exit(0);
