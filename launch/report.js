"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const show = (value, digits = 3) =>
  value === null || value === undefined ? "–"
    : typeof value !== "number" ? String(value)
    : Number.isInteger(value) ? String(value)
    : Math.abs(value) >= 1000 || (Math.abs(value) < 0.001 && value !== 0) ? value.toExponential(2)
    : value.toFixed(digits);

function table(head, rows) {
  const cell = (tag) => (value) =>
    el(tag, typeof value === "number" ? { class: "n" } : {}, value instanceof Node ? value : show(value));
  return el("table", {}, el("tr", {}, ...head.map(cell("th"))),
    ...rows.map((row) => el("tr", {}, ...row.map(cell("td")))));
}

/* One metric over the steps: thin raw line, thick running mean. */
function chart(name, steps, values) {
  const [width, height, left, bottom] = [300, 130, 38, 18];
  const points = values.map((v, i) => [steps[i], v]).filter((p) => Number.isFinite(p[1]));
  if (!points.length) return null;
  let low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[1]));
  if (high - low < 1e-9) { const pad = Math.abs(high) * 0.1 || 1; high += pad; low -= pad; }
  const first = points[0][0], last = points[points.length - 1][0];
  const x = (s) => left + ((s - first) / Math.max(last - first, 1)) * (width - left - 6);
  const y = (v) => 6 + (1 - (v - low) / (high - low)) * (height - bottom - 6);
  const mean = points.map((p, i) => {
    const near = points.slice(Math.max(0, i - 2), i + 3);
    return [p[0], near.reduce((sum, q) => sum + q[1], 0) / near.length];
  });
  const line = (list) => list.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ");
  const text = (tx, ty, words, anchor) =>
    svg("text", { x: tx, y: ty, "text-anchor": anchor, "font-size": 10, fill: "var(--soft)" }, words);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}` },
    svg("line", { x1: left, x2: width - 6, y1: y(low), y2: y(low), stroke: "var(--line)" }),
    svg("line", { x1: left, x2: width - 6, y1: y(high), y2: y(high), stroke: "var(--line)" }),
    text(left - 4, y(high) + 4, show(high, 2), "end"), text(left - 4, y(low) + 3, show(low, 2), "end"),
    text(left, height - 4, show(first), "start"), text(width - 6, height - 4, `step ${last}`, "end"),
    svg("polyline", { points: line(points), fill: "none", stroke: "var(--accent)", "stroke-opacity": 0.35 }),
    svg("polyline", { points: line(mean), fill: "none", stroke: "var(--accent)", "stroke-width": 2 }));
  return el("div", { class: "card chart" },
    el("span", { class: "name" }, name), el("span", { class: "last soft" }, show(points[points.length - 1][1])), drawing);
}

function spanBar(duration, spans, cls, label) {
  const [width, height] = [560, 16];
  const bar = svg("svg", { viewBox: `0 0 ${width} ${height}`, style: "width:100%;max-width:560px;display:block" },
    svg("rect", { x: 0, y: 5, width, height: 6, fill: "var(--line)", rx: 3 }));
  for (const [start, end] of spans) {
    bar.append(svg("rect", {
      x: (start / duration) * width, y: 3, width: Math.max(3, ((end - start) / duration) * width),
      height: 10, rx: 3, fill: `var(--${cls})`,
    }));
  }
  bar.append(svg("title", {}, `${label}: ${spans.map((s) => `${show(s[0], 1)}s to ${show(s[1], 1)}s`).join(", ")}`));
  return bar;
}

function boxedFrame(frame, boxes) {
  const drawing = svg("svg", { viewBox: `0 0 ${frame.width} ${frame.height}` });
  for (const { box, cls } of boxes) {
    drawing.append(svg("rect", {
      x: box[0], y: box[1], width: Math.max(1, box[2] - box[0]), height: Math.max(1, box[3] - box[1]),
      fill: "none", stroke: `var(--${cls})`, "stroke-width": cls === "true" ? 2.4 : 1.4,
      "vector-effect": "non-scaling-stroke", "stroke-opacity": cls === "true" ? 1 : 0.8,
    }));
  }
  return el("div", { class: "one" }, el("img", { src: frame.src, alt: "" }), drawing);
}

function group(item) {
  const card = el("div", { class: "card wide" },
    el("div", {}, el("b", {}, item.question), el("span", { class: "soft" }, `  step ${item.step} · ${item.prompt_id}`)));
  if (item.kind === "video") {
    card.append(el("div", { class: "strip" }, ...item.frames.map((f) =>
      el("figure", {}, el("img", { src: f.src, alt: "" }), el("figcaption", {}, `${show(f.time_s, 1)}s`)))));
    if (item.true_spans) card.append(el("span", { class: "true" }, "true span"), spanBar(item.duration_s, item.true_spans, "true", "true"));
    const spans = item.completions.filter((c) => c.span_s);
    if (spans.length) card.append(el("span", { class: "pred" }, "predicted spans"));
    for (const c of spans) card.append(spanBar(item.duration_s, [c.span_s], "pred", `reward ${show(c.reward)}`));
  } else if (item.frames.length) {
    const boxes = item.completions.filter((c) => c.box_px).map((c) => ({ box: c.box_px, cls: "pred" }));
    if (item.true_box) boxes.push({ box: item.true_box, cls: "true" });
    card.append(boxedFrame(item.frames[0], boxes),
      el("div", { class: "soft" }, el("span", { class: "true" }, "true box"), " · ", el("span", { class: "pred" }, "predicted boxes")));
  }
  const names = [...new Set(item.completions.flatMap((c) => Object.keys(c.rewards)))];
  card.append(el("details", {}, el("summary", { class: "soft" }, `${item.completions.length} completions`),
    table(["completion", ...names, "reward", "advantage"], item.completions.map((c) => [
      el("div", {}, el("pre", {}, c.completion), c.parse_error ? el("span", { class: "bad" }, c.parse_error) : null),
      ...names.map((n) => c.rewards[n] ?? null), c.reward, c.advantage]))));
  return card;
}

function runSection(run) {
  const section = el("section", { id: run.name }, el("h2", {}, run.name), el("div", { class: "soft" }, run.about));
  if (run.evals.length)
    section.append(el("h3", {}, "Held-out samples"), table(["", ...run.eval_keys], run.evals.map((e) => [e.name, ...run.eval_keys.map((k) => e.values[k] ?? null)])));
  for (const part of run.charts) {
    const cards = part.keys.map((key) => chart(key, run.steps, run.series[key])).filter(Boolean);
    if (cards.length) section.append(el("h3", {}, part.title), el("div", { class: "grid" }, ...cards));
  }
  if (run.diagnostics.length) section.append(el("h3", {}, "Diagnostics"), table(["what", "count", "share"], run.diagnostics));
  if (run.groups.length) section.append(el("h3", {}, "Sample rollouts"), ...run.groups.map(group));
  section.append(el("details", {}, el("summary", {}, "resolved configuration"), el("pre", {}, run.config)));
  return section;
}

/* A point cloud and two boxes, turned with the mouse: plain WebGL, no library. */
function cloud(answer) {
  const canvas = el("canvas", { class: "cloud" });
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const points = new Float32Array(bytes(answer.points).buffer), colors = bytes(answer.colors);
  const state = { yaw: 0.6, pitch: 0.45, zoom: 1, drawn: false };
  const middle = answer.center, radius = answer.radius || 1;
  function edges(box) {
    const corner = (i) => [0, 1, 2].map((a) => box[((i >> a) & 1) * 3 + a]);
    const list = [];
    for (let i = 0; i < 8; i++) for (let a = 0; a < 3; a++) if (!((i >> a) & 1)) list.push(...corner(i), ...corner(i | (1 << a)));
    return new Float32Array(list);
  }
  function start() {
    const gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
    if (!gl) { canvas.replaceWith(el("p", { class: "soft" }, "WebGL is not available; open the PLY file instead.")); return null; }
    const compile = (type, source) => { const s = gl.createShader(type); gl.shaderSource(s, source); gl.compileShader(s); return s; };
    const program = gl.createProgram();
    gl.attachShader(program, compile(gl.VERTEX_SHADER, `attribute vec3 p; attribute vec3 c; uniform mat4 m; uniform float size;
      varying vec3 v; void main() { gl_Position = m * vec4(p, 1.0); gl_PointSize = size; v = c; }`));
    gl.attachShader(program, compile(gl.FRAGMENT_SHADER, "precision mediump float; varying vec3 v; void main() { gl_FragColor = vec4(v, 1.0); }"));
    gl.linkProgram(program); gl.useProgram(program); gl.enable(gl.DEPTH_TEST);
    const buffer = (array) => { const b = gl.createBuffer(); gl.bindBuffer(gl.ARRAY_BUFFER, b); gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW); return b; };
    const shapes = [{ mode: gl.POINTS, at: buffer(points), tint: buffer(colors), count: points.length / 3 }];
    for (const [box, rgb] of [[answer.true_box, [0.25, 0.8, 0.45]], [answer.box, [0.4, 0.6, 1]]])
      if (box) shapes.push({ mode: gl.LINES, at: buffer(edges(box)), rgb, count: 24 });
    return { gl, program, shapes };
  }
  let scene = null;
  function draw() {
    scene = scene || start();
    if (!scene) return;
    const { gl, program, shapes } = scene, ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio; canvas.height = canvas.clientHeight * ratio;
    gl.viewport(0, 0, canvas.width, canvas.height); gl.clearColor(0.063, 0.067, 0.078, 1); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const up = answer.up, ahead = (up + 1) % 3, side = (up + 2) % 3;
    const [cy, sy, cp, sp] = [Math.cos(state.yaw), Math.sin(state.yaw), Math.cos(state.pitch), Math.sin(state.pitch)];
    const rows = [[0, 0, 0], [0, 0, 0], [0, 0, 0]];  // right, up, toward the eye
    rows[0][ahead] = cy; rows[0][side] = sy;
    rows[1][ahead] = sy * sp; rows[1][side] = -cy * sp; rows[1][up] = cp;
    rows[2][ahead] = sy * cp; rows[2][side] = -cy * cp; rows[2][up] = -sp;
    const scale = state.zoom / radius, aspect = canvas.width / canvas.height;
    const m = new Float32Array(16);
    rows.forEach((row, i) => {
      const s = i === 0 ? scale / aspect : i === 1 ? scale : -scale * 0.3 / state.zoom;
      row.forEach((value, a) => { m[a * 4 + i] = value * s * (i === 2 ? -1 : 1); });
      m[12 + i] = -row.reduce((sum, value, a) => sum + value * middle[a], 0) * s * (i === 2 ? -1 : 1);
    });
    m[15] = 1;
    gl.uniformMatrix4fv(gl.getUniformLocation(program, "m"), false, m);
    gl.uniform1f(gl.getUniformLocation(program, "size"), 2.2 * ratio);
    const p = gl.getAttribLocation(program, "p"), c = gl.getAttribLocation(program, "c");
    gl.enableVertexAttribArray(p);
    for (const shape of shapes) {
      gl.bindBuffer(gl.ARRAY_BUFFER, shape.at); gl.vertexAttribPointer(p, 3, gl.FLOAT, false, 0, 0);
      if (shape.tint) { gl.enableVertexAttribArray(c); gl.bindBuffer(gl.ARRAY_BUFFER, shape.tint); gl.vertexAttribPointer(c, 3, gl.UNSIGNED_BYTE, true, 0, 0); }
      else { gl.disableVertexAttribArray(c); gl.vertexAttrib3f(c, ...shape.rgb); }
      gl.drawArrays(shape.mode, 0, shape.count);
    }
  }
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    state.yaw += event.movementX * 0.01;
    state.pitch = Math.min(1.55, Math.max(-1.55, state.pitch + event.movementY * 0.01));
    draw();
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); state.zoom *= Math.exp(-event.deltaY * 0.001); draw(); }, { passive: false });
  new IntersectionObserver((entries) => { if (entries[0].isIntersecting) draw(); }).observe(canvas);
  return canvas;
}

function chainSection(chain) {
  const section = el("section", { id: chain.name }, el("h2", {}, chain.title), el("div", { class: "soft" }, chain.about));
  if (chain.oracle.length)
    section.append(el("h3", {}, "Where the error comes from"),
      el("div", { class: "soft" }, "Each row replaces one more stage by the truth; the step between two rows is what that stage loses."),
      table(["stages", "mean 3D IoU", "Acc@0.25", "Acc@0.5"], chain.oracle));
  if (chain.diagnostics.length) section.append(el("h3", {}, "Queries without an answer"), table(["reason", "count"], chain.diagnostics));
  if (chain.answers.length) section.append(el("h3", {}, "Answers in 3D"), el("div", { class: "soft" },
    "Drag to turn, wheel to zoom. ", el("span", { class: "true" }, "true box"), ", ", el("span", { class: "pred" }, "lifted box"), "."));
  for (const answer of chain.answers) {
    section.append(el("div", { class: "card wide" },
      el("div", {}, el("b", {}, answer.query), el("span", { class: "soft" }, `  ${answer.about}`)),
      el("div", { class: "pair" }, el("div", {}, answer.picture ? el("img", { src: answer.picture, alt: "frames with box and mask" }) : null,
        table([], answer.facts)), answer.points ? cloud(answer) : el("p", { class: "soft" }, "no points"))));
  }
  return section;
}

const sections = [...data.runs.map(runSection), ...data.chains.map(chainSection)];
main.replaceChildren(
  el("h1", {}, data.title), el("div", { class: "soft" }, data.about),
  el("div", { class: "tiles" }, ...data.tiles.map((t) => el("div", { class: "tile" }, el("div", { class: "soft" }, t.label),
    el("div", {}, t.before === null ? null : el("span", { class: "from" }, `${show(t.before)} → `), el("b", {}, show(t.value)))))),
  el("nav", {}, ...sections.map((s) => el("a", { href: `#${s.id}` }, s.querySelector("h2").textContent))), ...sections);
