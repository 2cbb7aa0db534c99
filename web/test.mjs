// Opens the page in Chromium and holds what it shows against what has to be: `cargo xtask web --test` runs this with all options.
//
//   --url=, --playwright= (its index.mjs), --chromium= (the program), --vectors= (the native file of conformance vectors),
//   --result= (where the page's JSON is written), --screenshots= (a folder), --webgpu=ARGUMENT (of Chromium, any number of them),
//   --fault (nothing but the page with a fault in the WGSL, whose bits have to differ)

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

const text = { type: "string" };
const { values: options } = parseArgs({
  options: {
    url: text,
    playwright: text,
    chromium: text,
    vectors: text,
    result: text,
    screenshots: text,
    fault: { type: "boolean" },
    webgpu: { type: "string", multiple: true, default: ["--use-webgpu-adapter=swiftshader"] },
  },
});
const { chromium } = await import(pathToFileURL(options.playwright));

/** What the native program made: the file's hash, and how many values its answers have. */
async function native() {
  const file = await readFile(options.vectors);
  const length = Number(file.readBigUInt64LE(0));
  const { vectors } = JSON.parse(file.subarray(8, 8 + length));
  const size = { u32: 4, f32: 4, f16: 2, bf16: 2 };
  const written = vectors.flatMap((vector) => vector.buffers.filter((buffer) => buffer.expected !== null));
  return {
    sha256: createHash("sha256").update(file).digest("hex"),
    vectors: vectors.length,
    values: written.reduce((sum, buffer) => sum + buffer.size / size[buffer.values], 0),
  };
}

const browser = await chromium.launch({
  executablePath: options.chromium,
  args: [
    "--enable-unsafe-webgpu",
    ...options.webgpu,
    // What runs as root, in a container, has no sandbox.
    ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
  ],
});

/** A page whose errors, and requests to anywhere else than its own host, are faults. */
async function open(settings, script) {
  const context = await browser.newContext(settings);
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: new URL(options.url).origin });
  const page = await context.newPage();
  const faults = [];
  page.on("console", (said) => {
    if (["error", "warning"].includes(said.type())) faults.push(`${said.type()}: ${said.text()}`);
  });
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("request", (request) => {
    if (!request.url().startsWith(options.url) && !request.url().startsWith("data:")) faults.push(`asks for ${request.url()}`);
  });
  page.on("response", (response) => {
    if (response.status() >= 400) faults.push(`${response.status()} for ${response.url()}`);
  });
  if (script) await page.addInitScript(script);
  return { page, faults, close: () => context.close() };
}

const state = (page, wanted, timeout = 30_000) =>
  page.waitForFunction((names) => names.includes(document.body.dataset.state), wanted, { timeout });

async function picture(page, name) {
  await page.screenshot({ path: path.join(options.screenshots, `${name}.png`), fullPage: true });
}

/** What screen readers and keyboards need, as far as it can be told from the document. */
async function usable(page) {
  const faults = await page.evaluate(() => {
    const found = [];
    const named = (element) =>
      element.labels?.length || element.ariaLabel || element.getAttribute("aria-labelledby") || element.textContent.trim();
    for (const element of document.querySelectorAll("button, input, select, textarea, progress, svg")) {
      if (!named(element)) found.push(`${element.id || element.tagName} has no name`);
    }
    for (const element of document.querySelectorAll("[aria-labelledby]")) {
      for (const id of element.getAttribute("aria-labelledby").split(" ")) {
        if (!document.getElementById(id)) found.push(`nothing has the id ${id}`);
      }
    }
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`${id} is there twice`);
    const levels = [...document.querySelectorAll("h1, h2, h3")].map((heading) => Number(heading.tagName[1]));
    levels.forEach((level, n) => {
      if (level > (levels[n - 1] ?? 0) + 1) found.push("a level of headings is left out");
    });
    if (!document.documentElement.lang) found.push("no language");
    if (document.querySelectorAll("main").length !== 1) found.push("not one main");
    if (document.querySelectorAll("th:not([scope])").length > 0) found.push("a th without a scope");
    if (document.querySelector("[tabindex]:not([tabindex='0'])")) found.push("a tabindex that changes the order");

    // Contrast of all texts with the background that they stand on, by WCAG's formula.
    const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => {
      const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!node.data.trim() || !element.checkVisibility() || element.closest("button:disabled, title, desc, noscript")) continue;
      const style = getComputedStyle(element);
      const ink = luminance(channels(element instanceof SVGElement ? style.fill : style.color));
      let behind = element;
      while (behind && (channels(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
      const paper = luminance(channels(behind ? getComputedStyle(behind).backgroundColor : "rgb(255, 255, 255)"));
      const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      if (contrast < 4.5) found.push(`contrast of ${contrast.toFixed(2)}: ${node.data.trim().slice(0, 40)}`);
    }
    if (document.documentElement.scrollWidth > document.documentElement.clientWidth) found.push("wider than the window");
    return found;
  });
  assert.deepEqual(faults, []);
}

/** The ids (or names) of what Tab reaches, from the top of the page. */
async function reached(page) {
  const found = [];
  // Tab goes on from where the focus was last, also when what had it is gone.
  await page.evaluate(() => {
    const first = document.createElement("span");
    first.tabIndex = -1;
    document.body.prepend(first);
    first.focus();
    first.remove();
  });
  for (let n = 0; n < 20; n += 1) {
    await page.keyboard.press("Tab");
    const name = await page.evaluate(() => {
      const element = document.activeElement;
      return element === document.body ? "" : element.id || element.textContent;
    });
    if (name === "" || found.includes(name)) break;
    found.push(name);
  }
  return found;
}

/** Most of a run is the driver's compiling; SwiftShader on a busy machine takes minutes. */
const RUN = 900_000;

const near = (a, b) => Math.abs(a - b) <= 1e-9 * Math.abs(b);

function judge(result, expected) {
  assert.deepEqual(result.errors, []);
  assert.match(result.user_agent, /Chrome/);
  assert.ok(Math.abs(Date.parse(result.date) - Date.now()) < 600_000, result.date);
  assert.match(result.versions["wgpu-rope"], /^\d+\.\d+\.\d+$/);
  assert.ok(result.device.adapter.vendor, "the adapter has a vendor");

  assert.equal(result.self_test.passed, true);
  assert.equal(result.self_test.table_entries, 1088);
  assert.ok(result.self_test.channels > 10_000);

  const { conformance } = result;
  assert.equal(conformance.equal, true, conformance.verdict.examples.join("\n"));
  assert.equal(conformance.vectors_sha256, expected.sha256, "the twin makes the same bytes in wasm as natively");
  assert.equal(conformance.total.vectors, expected.vectors);
  assert.equal(conformance.total.values, expected.values);
  assert.match(conformance.verdict.about, /^\w.*; wgpu/);
  assert.equal(conformance.total.failed + conformance.total.within + conformance.total.wrong, 0);

  for (const stage of ["prefill", "decode"]) {
    const speed = result[stage];
    assert.equal(speed.bits_equal, true);
    for (const name of ["ratio_to_floor", "fill_to_32_rotations", "rotation_us", "floor_us", "fill_us", "gigabytes_per_second"]) {
      assert.ok(Number.isFinite(speed[name]) && speed[name] > 0, `${stage} ${name} is ${speed[name]}`);
    }
    assert.ok(near(speed.ratio_to_floor, speed.rotation_us / speed.floor_us));
    assert.ok(near(speed.fill_to_32_rotations, speed.fill_us / (32 * speed.rotation_us)));
    assert.ok(speed.rounds >= 10);
  }
  assert.equal(result.decode.tokens, 1);
  assert.ok(result.prefill.tokens >= 128);

  // Half a unit in the last place of what is at most 1, and the rounding of the truth.
  const bound = 2 ** -25 * (1 + 2 ** -20);
  assert.equal(result.accuracy.bound, bound);
  assert.equal(result.accuracy.largest_errors.length, 7);
  for (const { positions_up_to: position, this_crate: exact, f32_angles: float } of result.accuracy.largest_errors) {
    assert.ok(exact > bound / 2 && exact <= bound, `${exact} up to ${position}`);
    assert.ok(float > 10 * exact, `f32 angles: ${float} up to ${position}`);
  }
}

/** All steps in a wide window, with the keyboard alone. */
async function wide(expected) {
  const { page, faults, close } = await open({ viewport: { width: 1100, height: 900 }, colorScheme: "light" });
  await page.goto(options.url);
  await state(page, ["ready", "refused"]);
  assert.equal(await page.evaluate(() => document.body.dataset.state), "ready", await page.textContent("#missing"));
  await picture(page, "ready");
  await usable(page);
  assert.deepEqual(await reached(page), ["run"]);
  await page.focus("#run");
  await page.keyboard.press("Enter");
  await state(page, ["done"], RUN);
  assert.equal(await page.evaluate(() => document.activeElement.id), "run", "the focus stays where it was");
  assert.match(await page.textContent("#status"), /all bits are equal/);
  assert.equal(await page.getAttribute("#status", "aria-live"), "polite");

  const result = JSON.parse(await page.inputValue("#json"));
  await writeFile(options.result, `${JSON.stringify(result, null, 2)}\n`);
  judge(result, expected);
  // What is shown is what is in the JSON.
  assert.match(await page.textContent("#conformance"), new RegExp(expected.values.toLocaleString("en")));
  assert.match(await page.textContent("#conformance"), new RegExp(expected.sha256));
  for (const stage of ["prefill", "decode"]) {
    assert.ok((await page.textContent(`#${stage}`)).includes(result[stage].ratio_to_floor.toFixed(2)));
  }
  assert.equal(await page.locator("#accuracy svg circle").count(), 7);
  assert.equal(await page.locator("#accuracy svg rect").count(), 7);
  assert.match(await page.textContent("#accuracy svg desc"), /This crate: at most 3\.0e-8/);
  assert.equal(await page.locator("#accuracy tbody tr").count(), 7);

  await usable(page);
  assert.deepEqual(await reached(page), ["run", "Show the figures", "copy", "Show the JSON"]);
  await page.focus("#copy");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.getElementById("copied").textContent !== "");
  assert.equal(await page.textContent("#copied"), "Copied.");
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.deepEqual(JSON.parse(copied), result);
  await page.evaluate(() => document.activeElement.blur());
  await picture(page, "wide");

  // Opened by the keyboard, and the text in it is reached.
  await page.focus("#result summary");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "json");
  await page.focus("#accuracy summary");
  await page.keyboard.press("Enter");
  assert.ok(await page.isVisible("#accuracy tbody"));
  await page.emulateMedia({ colorScheme: "dark" });
  await usable(page);
  await picture(page, "wide-dark");
  await page.setViewportSize({ width: 360, height: 740 });
  await page.waitForTimeout(200);
  await usable(page);
  await picture(page, "narrow-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await usable(page);
  await picture(page, "narrow");
  assert.deepEqual(faults, []);
  await close();
  return result;
}

/** `?run` starts by itself. What a step throws is shown, and the others go on; so is what breaks the wasm itself, which is the last step's. */
async function withFaults() {
  const script = () => {
    const read = GPUBuffer.prototype.mapAsync;
    let reads = 0;
    // Among the first read-backs, which are those of the self-test.
    GPUBuffer.prototype.mapAsync = function (...rest) {
      reads += 1;
      return reads === 2 ? Promise.reject(new DOMException("made up by the test", "OperationError")) : read.apply(this, rest);
    };
    const module = GPUDevice.prototype.createShaderModule;
    GPUDevice.prototype.createShaderModule = function (descriptor) {
      if (descriptor.label === "rotate") throw new Error("a crash that the test made up");
      return module.call(this, descriptor);
    };
  };
  const { page, faults, close } = await open({ viewport: { width: 700, height: 900 } }, script);
  await page.goto(`${options.url}?run`);
  await state(page, ["done"], RUN);
  const result = JSON.parse(await page.inputValue("#json"));
  assert.deepEqual(result.errors.map(({ step }) => step), ["self_test", "conformance"]);
  assert.match(await page.textContent("#self-test"), /✗ Self-test failed/);
  assert.match(await page.textContent("#conformance"), /✗ Conformance vectors failed: a crash that the test made up/);
  assert.match(await page.textContent("#status"), /2 steps failed/);
  assert.ok(result.accuracy.bound > 0 && result.prefill.bits_equal && result.decode.bits_equal);
  await picture(page, "failed-steps");
  assert.deepEqual(faults, ["a crash that the test made up"]);
  await close();
}

/**
 * Memory that is out and a lost device give errors, on which nothing waits for ever; and a new device can be had afterwards. What the
 * page calls is called here directly.
 */
async function lossAndLack() {
  const { page, faults, close } = await open({ viewport: { width: 700, height: 600 } });
  await page.goto(options.url);
  await state(page, ["ready"]);
  const found = await page.evaluate(async () => {
    const { Session } = await import("./rope.js");
    const outcome = (promise) =>
      Promise.race([
        promise.then((value) => value, (error) => `error: ${error.message}`),
        new Promise((resolve) => setTimeout(resolve, 120_000, "nothing for two minutes")),
      ]);
    const passes = async (session) => JSON.parse(await session.selfTest()).passed;
    const full = await Session.open();
    const lack = await outcome(full.largestTable());
    const fullAfterwards = await outcome(passes(full));
    const lost = await Session.open();
    lost.lose();
    const loss = await outcome(lost.selfTest());
    const anew = await outcome(Session.open().then(passes));
    return { lack, fullAfterwards, loss, anew };
  });
  assert.match(found.lack, /^error: .*the device has no memory for/);
  assert.equal(found.fullAfterwards, true, "tables that could not be made are no harm to the device");
  assert.match(found.loss, /^error: .*lost/);
  assert.equal(found.anew, true, "a new device passes the self-test");
  assert.deepEqual(faults, []);
  await close();
  return found;
}

/** Without WebGPU, and without an adapter, the page says so. */
async function without() {
  for (const [name, script, message] of [
    ["no-webgpu", () => delete Navigator.prototype.gpu, /does not offer WebGPU/],
    ["no-adapter", () => (GPU.prototype.requestAdapter = async () => null), /no GPU for it/],
  ]) {
    const { page, faults, close } = await open({ viewport: { width: 700, height: 600 } }, script);
    await page.goto(`${options.url}?run`);
    await state(page, ["refused", "ready"]);
    assert.match(await page.textContent("#missing"), message);
    assert.match(await page.textContent("#missing"), /--enable-unsafe-webgpu/);
    assert.ok(await page.isVisible("#missing"));
    assert.ok(await page.isDisabled("#run"));
    assert.equal(await page.getAttribute("#missing", "role"), "alert");
    await usable(page);
    await picture(page, name);
    assert.deepEqual(faults, []);
    await close();
  }
}

/** The page with one wrong digit in the WGSL. */
async function faulty() {
  const { page, close } = await open({});
  await page.goto(`${options.url}?run&fault`);
  await state(page, ["done"], RUN);
  assert.match(await page.textContent("#status"), /bits differ/);
  await writeFile(options.result, await page.inputValue("#json"));
  await close();
}

/** Everything else. */
async function whole() {
  await mkdir(options.screenshots, { recursive: true });
  const expected = await native();
  await without();
  const result = await wide(expected);
  await withFaults();
  const { lack, loss } = await lossAndLack();
  const [name] = result.conformance.verdict.about.split(";");
  console.log(`${name} in Chromium ${browser.version()}, ${result.seconds} s:`);
  console.log(`  self-test passed; ${expected.vectors} vectors, ${expected.values} values: all bits equal; the vectors' file is the native one`);
  for (const stage of ["prefill", "decode"]) {
    const { workload, ratio_to_floor: ratio, clock } = result[stage];
    console.log(`  ${workload}: ${ratio.toFixed(2)} times the floor (${clock})`);
  }
  console.log(`  no memory: ${lack}\n  lost: ${loss}`);
}

try {
  await (options.fault ? faulty() : whole());
} finally {
  await browser.close();
}
