// Runs the steps of the crate's wasm one after the other, shows what each finds, and gathers it all as one JSON object. A step that
// fails is shown as failed; the others go on.

import init, { Session, versions } from "./rope.js";
import { chart } from "./chart.js";

const at = (id) => document.getElementById(id);
const shown = (id) => at(id).querySelector(".shown") ?? at(id);

/** An element with attributes and children; texts are never read as HTML. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const count = (n) => n.toLocaleString("en");
const percent = (x) => `${(100 * x).toPrecision(2)} %`;

function time(us) {
  return us >= 1000 ? `${(us / 1000).toPrecision(3)} ms` : `${us.toPrecision(3)} µs`;
}

function state(name) {
  document.body.dataset.state = name;
}

function list(rows) {
  const terms = rows.filter(([, value]) => value !== undefined && value !== "");
  return make("dl", {}, ...terms.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
}

function table(caption, headings, rows) {
  const line = (cells, first) =>
    make("tr", {}, ...cells.map((cell, n) => (n === 0 || first ? make("th", { scope: first ? "col" : "row" }, cell) : make("td", {}, cell))));
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make("thead", {}, line(headings, true)),
    make("tbody", {}, ...rows.map((row) => line(row, false))),
  );
}

/** A verdict that does not rest on its colour. */
function verdict(good, text) {
  return make("p", { class: good ? "good" : "bad" }, `${good ? "✓" : "✗"} ${text}`);
}

function message(error) {
  return error instanceof Error ? error.message : String(error);
}

/** Says why nothing can be run here, and what would help. */
function refuse(title, ...paragraphs) {
  at("missing").replaceChildren(make("h2", {}, title), ...paragraphs.map((text) => make("p", {}, text)));
  at("missing").hidden = false;
  at("status").textContent = "";
  state("refused");
}

const BROWSERS =
  "Chrome and Edge have it from version 113 on (on Android 121), Safari from 26 on, Firefox from 141 on Windows and from 145 on Macs with " +
  "Apple's processors. On Linux, Chrome needs the flag chrome://flags/#enable-unsafe-webgpu (or the option --enable-unsafe-webgpu), and " +
  "Firefox dom.webgpu.enabled in about:config.";

/** The browser's own adapter, or none, with a message then. */
async function found() {
  if (!isSecureContext) {
    refuse("No WebGPU here", "Browsers offer WebGPU to pages from https and from localhost alone, and this one is from neither.");
    return null;
  }
  if (!navigator.gpu) {
    refuse("This browser does not offer WebGPU", BROWSERS);
    return null;
  }
  // An adapter that was lost is told like one that never was.
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter) {
    refuse(
      "The browser offers WebGPU, but no GPU for it",
      "Its driver may be missing, too old or on the browser's list of faulty ones: chrome://gpu or about:support says more.",
      BROWSERS,
    );
    return null;
  }
  return adapter;
}

function describe(adapter) {
  const info = adapter.info ?? {};
  return {
    vendor: info.vendor ?? "",
    architecture: info.architecture ?? "",
    device: info.device ?? "",
    description: info.description ?? "",
    fallback: info.isFallbackAdapter ?? adapter.isFallbackAdapter ?? false,
  };
}

/** A name in one line. */
function nameOf({ vendor, architecture, device, description }) {
  return description || device || [vendor, architecture].filter(Boolean).join(" ") || "a GPU without a name";
}

function showAdapter({ adapter, limits }) {
  const mebibytes = (bytes) => `${count(Math.floor(bytes / 2 ** 20))} MiB`;
  shown("adapter").replaceChildren(
    list([
      ["vendor", adapter.vendor],
      ["architecture", adapter.architecture],
      ["device", adapter.device],
      ["description", adapter.description],
      ["software", adapter.fallback ? "yes: it runs on the CPU" : "no, or not told"],
      ["largest binding", mebibytes(limits.max_storage_buffer_binding_size)],
      ["timestamps", limits.timestamps ? "yes" : "no"],
    ]),
  );
}

function showSelfTest(test) {
  const text = test.passed
    ? `The self-test passes: ${count(test.table_entries)} table entries, ${count(test.channels)} channels and ${count(test.layer_channels)} of a layer are equal.`
    : `The self-test fails: ${count(test.table_differences)} of ${count(test.table_entries)} table entries, ` +
      `${count(test.channel_differences)} of ${count(test.channels)} channels and ` +
      `${count(test.layer_differences)} of ${count(test.layer_channels)} of a layer differ.`;
  at("self-test").replaceChildren(verdict(test.passed, text));
}

function showConformance({ equal, total, verdict: judged, vectors_sha256: sha256 }) {
  const wrong = total.within + total.wrong;
  const text = equal
    ? `All ${count(total.values)} values of ${count(total.vectors)} conformance vectors have equal bits.`
    : `Of ${count(total.vectors)} conformance vectors ${count(total.failed)} did not run; of ${count(total.values)} values ${count(wrong)} differ.`;
  const bits = ({ failed, within, wrong: more }) => {
    const parts = [];
    if (failed > 0) parts.push(`${count(failed)} did not run`);
    if (within > 0) parts.push(`${count(within)} rounded otherwise`);
    if (more > 0) parts.push(`${count(more)} wrong`);
    return parts.length === 0 ? "equal" : parts.join(", ");
  };
  const rows = Object.entries(judged.groups).map(([group, tally]) => [group, count(tally.vectors), count(tally.values), bits(tally)]);
  at("conformance").replaceChildren(
    verdict(equal, text),
    table("Conformance vectors by group", ["group", "vectors", "values", "bits"], rows),
    ...(judged.examples.length > 0 ? [make("ul", {}, ...judged.examples.map((example) => make("li", {}, make("code", {}, example))))] : []),
    make("p", { class: "note" }, "SHA-256 of the vectors, which this page made itself: ", make("code", {}, sha256)),
  );
}

function showSpeed(id, found) {
  const tokens = `${count(found.tokens)} ${found.tokens === 1 ? "token" : "tokens"}`;
  at(id).replaceChildren(
    make(
      "div",
      { class: "card" },
      make("h3", {}, `${id === "prefill" ? "Prefill" : "Decode"}, ${tokens}`),
      make("p", { class: "figure" }, make("strong", {}, found.ratio_to_floor.toFixed(2)), "times the floor"),
      verdict(found.bits_equal, found.bits_equal ? "bits equal" : "bits differ"),
      list([
        ["one rotation", `${time(found.rotation_us)}, ${found.gigabytes_per_second.toPrecision(3)} GB/s`],
        ["the floor", time(found.floor_us)],
        ["a fill to 32 rotations", percent(found.fill_to_32_rotations)],
        ["times", `medians of ${found.rounds} rounds, ${found.clock}`],
      ]),
    ),
  );
}

/** 16,777,216 as 16M. */
function short(position) {
  return position >= 2 ** 20 ? `${position / 2 ** 20}M` : `${position / 2 ** 10}k`;
}

/** Draws the picture for the width that there is. */
let draw = null;

function showAccuracy(found) {
  const rows = found.largest_errors;
  const place = make("div");
  const caption = "Lower is better; both scales are logarithmic. This crate's line is the same on every device.";
  let width = 0;
  draw = () => {
    // A new picture changes the height of the page alone, which is no reason for another one.
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    place.replaceChildren(chart(rows.map((row) => [row.positions_up_to, row.this_crate, row.f32_angles]), width, short));
  };
  shown("accuracy").replaceChildren(
    make("figure", {}, place, make("figcaption", {}, caption)),
    make(
      "details",
      {},
      make("summary", {}, "Show the figures"),
      table(
        "Largest errors of cos and sin",
        ["positions up to", "this crate", "f32 angle"],
        rows.map((row) => [count(row.positions_up_to), row.this_crate.toExponential(1), row.f32_angles.toExponential(1)]),
      ),
    ),
  );
  draw();
}

new ResizeObserver(() => draw?.()).observe(document.body);

/**
 * Where the wasm panics, or wgpu meets an exception, the promise of the step never ends, and the window alone hears of it. Nothing can be
 * called afterwards.
 */
const crash = new Promise((_, reject) => {
  addEventListener("error", (event) => {
    if (event.error) reject(event.error);
  });
  addEventListener("unhandledrejection", (event) => reject(event.reason));
});
crash.catch(() => {});

// For the test of the test: one wrong digit in the WGSL.
const fault = new URLSearchParams(location.search).has("fault");

const loaded = init({ module_or_path: "./rope_bg.wasm" });
// Whoever waits for it says so.
loaded.catch(() => {});

async function run() {
  // A button that is disabled would lose the focus of who pressed it.
  if (at("run").ariaDisabled === "true") return;
  at("run").ariaDisabled = "true";
  at("result").hidden = true;
  at("copied").textContent = "";
  document.querySelectorAll(".shown").forEach((place) => place.replaceChildren());
  draw = null;
  state("running");
  const result = { date: new Date().toISOString(), user_agent: navigator.userAgent, errors: [] };
  const bar = at("bar");
  const progress = (done, all) => {
    bar.max = all;
    bar.value = done;
  };

  /** Returns whether the step succeeded. `place` shows what came of it. */
  const step = async (name, title, place, work, show) => {
    at("status").textContent = `${title} …`;
    bar.removeAttribute("value");
    bar.hidden = false;
    try {
      result[name] = await Promise.race([work(), crash]);
      show(result[name]);
      return true;
    } catch (error) {
      result.errors.push({ step: name, message: message(error) });
      place.replaceChildren(make("p", { class: "bad" }, `✗ ${title} failed: ${message(error)}`));
      return false;
    }
  };

  const started = performance.now();
  let session = null;
  const opened = await step(
    "device",
    "Asking for a GPU",
    shown("adapter"),
    async () => {
      await loaded;
      const adapter = await found();
      if (!adapter) throw new Error("there is no adapter");
      Object.assign(result, { versions: JSON.parse(versions()) });
      session = await Session.open();
      return { adapter: describe(adapter), limits: JSON.parse(session.limits()) };
    },
    showAdapter,
  );
  if (opened) {
    await step("self_test", "Self-test", at("self-test"), async () => JSON.parse(await session.selfTest()), showSelfTest);
    await step("accuracy", "Accuracy", shown("accuracy"), async () => JSON.parse(await session.accuracy()), showAccuracy);
    for (const stage of ["prefill", "decode"]) {
      await step(
        stage,
        stage === "prefill" ? "Prefill" : "Decode",
        at(stage),
        async () => {
          const made = JSON.parse(await session.speed(stage, progress));
          // What matters comes first.
          const { workload, ratio_to_floor, fill_to_32_rotations } = made;
          return { workload, ratio_to_floor, fill_to_32_rotations, ...made };
        },
        (made) => showSpeed(stage, made),
      );
    }
    // At the end, since it takes the longest: some hundred pipelines have to be compiled.
    await step(
      "conformance",
      "Conformance vectors",
      at("conformance"),
      async () => {
        const made = JSON.parse(await session.conformance(fault, progress));
        // wgpu knows less of the adapter than the page.
        made.verdict.about = `${nameOf(result.device.adapter)}; ${made.verdict.about}`;
        return made;
      },
      showConformance,
    );
  }
  try {
    session?.free();
  } catch {
    // What crashed is in use for ever.
  }
  result.seconds = Math.round((performance.now() - started) / 100) / 10;
  bar.hidden = true;
  at("json").value = JSON.stringify(result, null, 2);
  at("result").hidden = false;
  at("run").ariaDisabled = "false";
  at("run").textContent = "Run again";
  if (document.body.dataset.state === "refused") return;
  const failed = result.errors.length;
  const equal = result.self_test?.passed && result.conformance?.equal && result.prefill?.bits_equal && result.decode?.bits_equal;
  at("status").textContent =
    failed > 0
      ? `Done in ${result.seconds} s; ${failed} ${failed === 1 ? "step" : "steps"} failed.`
      : `Done in ${result.seconds} s: ${equal ? "all bits are equal." : "bits differ."}`;
  state("done");
}

at("run").addEventListener("click", run);

at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("json").value);
    at("copied").textContent = "Copied.";
  } catch {
    // A browser may refuse; then the text is there to be copied by hand.
    at("result").querySelector("details").open = true;
    at("json").select();
    at("copied").textContent = "The browser does not allow it: the text is selected, copy it with Ctrl+C or ⌘C.";
  }
});

try {
  if (await found()) {
    await loaded;
    at("run").disabled = false;
    at("status").textContent = "Ready. Most of the time goes into compiling by the driver: seconds to minutes.";
    state("ready");
    if (new URLSearchParams(location.search).has("run")) await run();
  }
} catch (error) {
  refuse("The page could not be loaded", message(error));
}
