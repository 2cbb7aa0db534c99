// Draws errors by position as an SVG, at the size that there is.

const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Powers of ten as they are written. */
function power(exponent) {
  const digits = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  return exponent === 0 ? "1" : `10${[...String(exponent)].map((digit) => digits[digit]).join("")}`;
}

/** Rows are a position, the crate's error, and that of f32 angles. */
export function chart(rows, width, label) {
  const height = Math.round(Math.min(340, Math.max(240, width * 0.5)));
  const [left, right, top, bottom] = [44, 14, 26, 44];
  const [low, high] = [-8, 0.5];
  const logs = rows.map(([position]) => Math.log2(position));
  const x = (log) => left + ((log - logs[0]) / (logs.at(-1) - logs[0])) * (width - left - right);
  const y = (error) => {
    const log = Math.min(Math.max(Math.log10(error), low), high);
    return top + ((high - log) / (high - low)) * (height - top - bottom);
  };
  const worst = (n) => Math.max(...rows.map((row) => row[n]));
  const first = rows[0];
  const last = rows.at(-1);
  const title = make("title", { id: "chart-title" }, "Largest error of cos and sin by position");
  const words = make(
    "desc",
    { id: "chart-words" },
    `This crate: at most ${worst(1).toExponential(1)} everywhere. f32 angle with the driver's cos and sin: ` +
      `${first[2].toExponential(1)} up to position ${first[0]}, growing to ${last[2].toExponential(1)} up to position ${last[0]}. ` +
      "All figures are in the table behind the picture.",
  );
  const parts = [title, words];
  for (let exponent = low; exponent <= 0; exponent += 2) {
    const level = y(10 ** exponent);
    parts.push(make("line", { class: "grid", x1: left, x2: width - right, y1: level, y2: level }));
    parts.push(make("text", { class: "tick", x: left - 6, y: level + 4, "text-anchor": "end" }, power(exponent)));
  }
  // In a narrow window two labels side by side would touch.
  let free = -Infinity;
  rows.forEach(([position], n) => {
    const middle = x(logs[n]);
    parts.push(make("line", { class: "grid", x1: middle, x2: middle, y1: height - bottom, y2: height - bottom + 4 }));
    const half = n === rows.length - 1 ? 0 : 18;
    if (middle - half < free) return;
    free = middle + 24;
    const anchor = n === rows.length - 1 ? "end" : "middle";
    const end = anchor === "end" ? width - right + 8 : middle;
    parts.push(make("text", { class: "tick", x: end, y: height - bottom + 18, "text-anchor": anchor }, label(position)));
  });
  parts.push(make("text", { class: "tick", x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, "positions up to"));
  parts.push(make("text", { class: "tick", x: 0, y: 12 }, "largest error"));
  for (const [name, column, above] of [["usual", 2, true], ["ours", 1, true]]) {
    const points = rows.map((row, n) => [x(logs[n]), y(row[column])]);
    parts.push(make("polyline", { class: `${name} line`, points: points.map((point) => point.join(",")).join(" ") }));
    for (const [px, py] of points) {
      // Marks differ in shape, too.
      parts.push(
        name === "ours"
          ? make("circle", { class: name, cx: px, cy: py, r: 4 })
          : make("rect", { class: name, x: px - 3.5, y: py - 3.5, width: 7, height: 7 }),
      );
    }
    const text = name === "ours" ? "this crate" : "f32 angle, the driver's cos and sin";
    const place = name === "ours" ? [x(logs[0]) + 8, points[0][1] - 10] : [x(logs[0]) + 8, points[0][1] + 22];
    parts.push(make("text", { class: name, x: place[0], y: place[1] }, text));
  }
  return make(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-labelledby": "chart-title chart-words" },
    ...parts,
  );
}
