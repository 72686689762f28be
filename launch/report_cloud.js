"use strict";
/* Points and two boxes, turned with the mouse. One WebGL context draws for all clouds of the page,
   since browsers allow few of them; each view is a plain canvas that the drawing is copied to. */

const webgl = { canvas: null, gl: null, tried: false };

function openWebGL() {
  if (webgl.tried) return webgl.gl;
  webgl.tried = true;
  webgl.canvas = document.createElement("canvas");
  const gl = webgl.canvas.getContext("webgl", { antialias: true, alpha: false });
  if (!gl) return null;
  const compile = (type, source) => {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source); gl.compileShader(shader);
    return shader;
  };
  const program = gl.createProgram();
  gl.attachShader(program, compile(gl.VERTEX_SHADER, `attribute vec3 point; attribute vec3 tint; uniform mat4 place;
    uniform float size; varying vec3 shade; void main() { gl_Position = place * vec4(point, 1.0); gl_PointSize = size; shade = tint; }`));
  gl.attachShader(program, compile(gl.FRAGMENT_SHADER,
    "precision mediump float; varying vec3 shade; void main() { gl_FragColor = vec4(shade, 1.0); }"));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program); gl.enable(gl.DEPTH_TEST);
  webgl.at = gl.getAttribLocation(program, "point"); webgl.tint = gl.getAttribLocation(program, "tint");
  webgl.place = gl.getUniformLocation(program, "place"); webgl.size = gl.getUniformLocation(program, "size");
  webgl.canvas.addEventListener("webglcontextlost", () => { webgl.gl = null; });
  webgl.gl = gl;
  return gl;
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const mix = (a, s, b, t) => a.map((value, i) => value * s + b[i] * t);
const unit = (a) => mix(a, 1 / Math.hypot(...a), a, 0);

/* Where the eye is: unit vectors to the right, up the screen, and toward the eye (right-handed). */
function eyeAxes(up, yaw, pitch) {
  const least = [0, 1, 2].reduce((best, i) => (Math.abs(up[i]) < Math.abs(up[best]) ? i : best));
  const side = unit(cross(up, [0, 1, 2].map((i) => (i === least ? 1 : 0)))), ahead = cross(up, side);
  const right = mix(side, Math.cos(yaw), ahead, Math.sin(yaw)), level = cross(right, up);
  const eye = mix(level, Math.cos(pitch), up, Math.sin(pitch));
  return { right, high: cross(eye, right), eye };
}

function cloudView(cloud, boxes) {
  const canvas = el("canvas", { class: "cloud", tabindex: 0, "aria-label": "point cloud: drag to turn" });
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const state = { yaw: 0.7, pitch: 0.6, zoom: 1 };
  const middle = cloud.low.map((v, i) => v + cloud.size[i] / 2), radius = Math.hypot(...cloud.size) / 2;
  let buffers = null;

  function upload(gl) {
    const buffer = (data) => {
      const made = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, made); gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      return made;
    };
    return { points: buffer(bytes(cloud.points)), colors: buffer(bytes(cloud.colors)) };
  }

  function draw() {
    const gl = openWebGL();
    if (!gl) {
      canvas.replaceWith(el("p", { class: "soft" }, "This browser has no WebGL; the PLY file beside the answers holds the points."));
      return;
    }
    buffers = buffers || upload(gl);
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    for (const target of [canvas, webgl.canvas]) if (target.width !== width || target.height !== height) { target.width = width; target.height = height; }
    const { right, high, eye } = eyeAxes(cloud.up, state.yaw, state.pitch);
    const scale = (state.zoom * 1.2) / radius, aspect = width / height;  // metres to clip units, vertically
    const rows = [mix(right, scale / aspect, right, 0), mix(high, scale, high, 0), mix(eye, -0.5 / radius, eye, 0)];
    drawPoints(gl, buffers, rows, eye, { width, height, pixels: scale * height / 2 });
    const flat = canvas.getContext("2d");
    flat.drawImage(webgl.canvas, 0, 0);
    const screen = (p) => {
      const q = p.map((v, i) => v - middle[i]);
      return [(dot(rows[0], q) + 1) * width / 2, (1 - dot(rows[1], q)) * height / 2];
    };
    for (const { box, color, name } of boxes) drawBox(flat, screen, box, color, name, ratio);
    drawCompass(flat, right, high, height, ratio);
  }

  function drawPoints(gl, { points, colors }, rows, eye, view) {
    gl.viewport(0, 0, view.width, view.height); gl.clearColor(0.063, 0.071, 0.086, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const place = new Float32Array(16);
    rows.forEach((row, i) => {  // clip = row . (low + size * code - middle)
      row.forEach((value, axis) => { place[axis * 4 + i] = value * cloud.size[axis]; });
      place[12 + i] = -dot(row, mix(cloud.size, 0.5, cloud.size, 0));
    });
    place[15] = 1;
    gl.uniformMatrix4fv(webgl.place, false, place);
    gl.enableVertexAttribArray(webgl.at); gl.enableVertexAttribArray(webgl.tint);
    gl.bindBuffer(gl.ARRAY_BUFFER, points); gl.vertexAttribPointer(webgl.at, 3, gl.UNSIGNED_SHORT, true, 6, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, colors); gl.vertexAttribPointer(webgl.tint, 3, gl.UNSIGNED_BYTE, true, 3, 0);
    let start = 0;
    for (const part of cloud.parts) {
      if (!part.normal || dot(part.normal, eye) > -0.05) {  // walls are seen from inside only
        gl.uniform1f(webgl.size, Math.min(12, Math.max(1.5, part.spacing * view.pixels * 1.25)));
        gl.drawArrays(gl.POINTS, start, part.count);
      }
      start += part.count;
    }
  }

  let asked = false;
  const redraw = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; draw(); }); } };
  const turn = (dx, dy) => {
    state.yaw -= dx * 0.01; state.pitch = Math.min(1.55, Math.max(-1.55, state.pitch + dy * 0.01)); redraw();
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.focus({ preventScroll: true }); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => { if (event.buttons) turn(event.movementX, event.movementY); });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas) return;  // the page scrolls until the cloud was clicked
    event.preventDefault(); state.zoom *= Math.exp(-event.deltaY * 0.001); redraw();
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { Object.assign(state, { yaw: 0.7, pitch: 0.6, zoom: 1 }); redraw(); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, 12], ArrowDown: [0, -12] }[event.key];
    if (step) { event.preventDefault(); turn(...step); }
  });
  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) redraw(); }).observe(canvas);
  window.addEventListener("resize", () => { if (buffers) redraw(); });
  return canvas;
}

function drawBox(flat, screen, box, color, name, ratio) {
  const corner = (i) => [0, 1, 2].map((axis) => box[((i >> axis) & 1) * 3 + axis]);
  const spots = [...Array(8).keys()].map((i) => screen(corner(i)));
  flat.strokeStyle = color; flat.lineWidth = 2 * ratio; flat.lineJoin = "round";
  flat.beginPath();
  for (let i = 0; i < 8; i++) for (let axis = 0; axis < 3; axis++) {
    if ((i >> axis) & 1) continue;
    flat.moveTo(...spots[i]); flat.lineTo(...spots[i | (1 << axis)]);
  }
  flat.stroke();
  const below = name === "true", edge = spots.reduce((a, b) => ((below ? b[1] > a[1] : b[1] < a[1]) ? b : a));
  flat.font = `600 ${12 * ratio}px system-ui, sans-serif`; flat.textAlign = "center"; flat.fillStyle = color;
  flat.fillText(name, edge[0], edge[1] + (below ? 14 : -6) * ratio);
}

function drawCompass(flat, right, high, height, ratio) {
  const from = [34 * ratio, height - 34 * ratio], length = 22 * ratio;
  flat.font = `${11 * ratio}px system-ui, sans-serif`; flat.textAlign = "center"; flat.lineWidth = 1.5 * ratio;
  ["x", "y", "z"].forEach((name, axis) => {
    const to = [from[0] + right[axis] * length, from[1] - high[axis] * length];
    flat.strokeStyle = flat.fillStyle = ["#ff7b7b", "#7be08f", "#86a8ff"][axis];
    flat.beginPath(); flat.moveTo(...from); flat.lineTo(...to); flat.stroke();
    flat.fillText(name, from[0] + right[axis] * length * 1.45, from[1] - high[axis] * length * 1.45 + 4 * ratio);
  });
}
