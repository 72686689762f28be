"use strict";
/* Elements, numbers, tables, charts and time lanes. Text from a run only ever becomes text nodes. */

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const known = (value) => value !== null && value !== undefined;
const show = (value, digits = 3) =>
  !known(value) ? "–"
    : typeof value !== "number" ? String(value)
    : Number.isInteger(value) && Math.abs(value) < 1e7 ? String(value)
    : Math.abs(value) >= 1e5 || Math.abs(value) < 0.0005 ? value.toExponential(1)
    : Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(digits);
const signed = (value, digits = 3) => (known(value) ? `${value > 0 ? "+" : ""}${show(value, digits)}` : "–");
const seconds = (span) => `${show(span[0], 1)} – ${show(span[1], 1)} s`;
const percent = (share) => (known(share) ? `${(100 * share).toFixed(share < 0.1 && share > 0 ? 1 : 0)} %` : "–");

/* Rows of values or nodes; a column with a number (or a node of class num) is set to the right. */
function table(head, rows, full = false) {
  const right = head.map((_, i) => rows.some((row) => typeof row[i] === "number" || (row[i] instanceof Element && row[i].className === "num")));
  const cell = (tag) => (value, i) => el(tag, { class: right[i] ? "n" : null }, value instanceof Node ? value : show(value));
  return el("div", { class: "scroll" }, el("table", { class: full ? "full" : null },
    head.some((word) => word !== "") ? el("tr", {}, head.map(cell("th"))) : null,
    rows.map((row) => el("tr", {}, row.map(cell("td"))))));
}
const meter = (share) => el("span", { class: "meter" },
  el("i", { style: `width:${100 * Math.min(1, Math.max(0, share || 0))}%` }));

/* One metric over the steps: thin raw line, thick running mean; the value under the pointer on top. */
function chart(name, steps, values) {
  const [width, height, left, right, bottom] = [300, 132, 42, 8, 18];
  const points = values.map((v, i) => [steps[i], v]).filter((p) => Number.isFinite(p[1]));
  if (!points.length) return null;
  let low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[1]));
  if (high - low < 1e-9) { const pad = Math.abs(high) * 0.1 || 1; high += pad; low -= pad; }
  const first = points[0][0], last = points[points.length - 1][0];
  const x = (s) => (last === first ? (left + width - right) / 2 : left + ((s - first) / (last - first)) * (width - left - right));
  const y = (v) => 8 + (1 - (v - low) / (high - low)) * (height - bottom - 12);
  const reach = Math.max(1, Math.round(points.length / 20));
  const mean = points.map((p, i) => {
    const near = points.slice(Math.max(0, i - reach), i + reach + 1);
    return [p[0], near.reduce((sum, q) => sum + q[1], 0) / near.length];
  });
  const line = (list) => list.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ");
  const text = (tx, ty, words, anchor) =>
    svg("text", { x: tx, y: ty, "text-anchor": anchor, "font-size": 10, fill: "var(--soft)" }, words);
  const rule = (v) => svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), stroke: "var(--line)" });
  const dot = (p) => svg("circle", { cx: x(p[0]), cy: y(p[1]), r: 2.2, fill: "var(--accent)" });
  const cursor = svg("circle", { r: 4, fill: "var(--accent)", visibility: "hidden" });
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${name}, last ${show(points[points.length - 1][1])}` },
    rule(low), rule(high),
    text(left - 5, y(high) + 4, show(high, 2), "end"), text(left - 5, y(low) + 3, show(low, 2), "end"),
    last === first ? text(x(first), height - 4, `step ${first}`, "middle")
      : [text(left, height - 4, show(first), "start"), text(width - right, height - 4, `step ${last}`, "end")],
    svg("polyline", { points: line(points), fill: "none", stroke: "var(--accent)", "stroke-opacity": points.length > 8 ? 0.3 : 1, "stroke-width": 1.3 }),
    points.length > 8 ? svg("polyline", { points: line(mean), fill: "none", stroke: "var(--accent)", "stroke-width": 2.2, "stroke-linejoin": "round" }) : points.map(dot),
    cursor);
  const readout = el("span", { class: "soft" }, show(points[points.length - 1][1]));
  drawing.addEventListener("pointermove", (event) => {
    const frame = drawing.getBoundingClientRect(), at = ((event.clientX - frame.left) / frame.width) * width;
    const p = points.reduce((best, q) => (Math.abs(x(q[0]) - at) < Math.abs(x(best[0]) - at) ? q : best));
    readout.textContent = `step ${p[0]}: ${show(p[1])}`;
    cursor.setAttribute("cx", x(p[0])); cursor.setAttribute("cy", y(p[1])); cursor.setAttribute("visibility", "visible");
  });
  drawing.addEventListener("pointerleave", () => {
    readout.textContent = show(points[points.length - 1][1]); cursor.setAttribute("visibility", "hidden");
  });
  return el("div", { class: "card chart" }, el("div", { class: "head" }, el("span", { class: "name" }, name), readout), drawing);
}

/* Spans on a common axis of seconds; rows of {label, spans, kind, title}. */
function timeLanes(duration, rows, above = null) {
  const lanes = rows.map(({ label, spans, kind, title }) => {
    const lane = el("div", { class: "lane", title: title || spans.map(seconds).join(", ") }, spans.map(([start, end]) => {
      const from = Math.min(1, Math.max(0, start / duration)), to = Math.min(1, Math.max(from, end / duration));
      return el("i", { style: `left:${100 * from}%;width:${100 * (to - from)}%;background:var(--${kind})` });
    }));
    return { label: el("div", { class: `label ${kind}` }, label), lane };
  });
  const box = el("div", { class: "times" },
    above ? [el("div"), above] : null,
    lanes.map(({ label, lane }) => [label, lane]), el("div"),
    el("div", { class: "axis" }, el("span", {}, "0 s"), el("span", {}, `${show(duration / 2, 1)} s`), el("span", {}, `${show(duration, 1)} s`)));
  return { box, lanes: lanes.map((item) => item.lane) };
}

/* A frame with boxes of {box, kind}; returns the element and the rectangles. */
function boxedFrame(frame, boxes) {
  const shapes = boxes.map(({ box, kind, title }) => svg("rect", {
    x: Math.min(box[0], box[2]), y: Math.min(box[1], box[3]),
    width: Math.max(1, Math.abs(box[2] - box[0])), height: Math.max(1, Math.abs(box[3] - box[1])),
    fill: "none", stroke: `var(--${kind})`, "stroke-width": kind === "true" ? 3 : 1.8, "vector-effect": "non-scaling-stroke",
    "stroke-dasharray": kind === "true" ? "7 4" : null,
  }, svg("title", {}, title)));
  const drawing = svg("svg", { viewBox: `0 0 ${frame.width} ${frame.height}` }, shapes);
  const picture = frame.src ? el("img", { src: frame.src, alt: "frame" })
    : el("div", { style: `aspect-ratio:${frame.width}/${frame.height};background:var(--track)` });
  return { figure: el("div", { class: "one" }, picture, drawing), shapes };
}
