"use strict";
/* The page: what a run learned, what it wrote, and where the chain of it all leads in space. */

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const facts = (list) => el("div", { class: "soft" }, list.join(" · "));

function rolloutCard(item) {
  const card = el("div", { class: "card wide" }, el("h4", {}, item.question,
    el("span", { class: "soft small" }, `   step ${show(item.step)} · ${item.prompt_id}`),
    item.dropped ? el("span", { class: "badge" }, "not trained on") : null));
  const marks = item.completions.map(() => []);
  const rows = completionTable(item, marks);
  if (item.kind === "image") card.append(el("div", { class: "beside" }, imagePart(item, marks), rows));
  else card.append(item.kind === "video" ? videoPart(item, marks) : "", rows);
  return card;
}

const nameOf = (c, i) => `#${i} · ${known(c.reward) ? show(c.reward, 2) : "no reward"}`;

function videoPart(item, marks) {
  const seen = (time) => (item.true_spans || []).some(([start, end]) => time >= start && time <= end);
  const strip = !item.frames.length ? null : el("div", { class: "strip" }, item.frames.map((frame) =>
    el("figure", { class: seen(frame.time_s) ? "seen" : null },
      frame.src ? el("img", { src: frame.src, alt: `frame at ${show(frame.time_s, 1)} s` }) : null,
      el("figcaption", {}, `${show(frame.time_s, 1)} s`))));
  const said = item.completions.map((c, i) => [c, i]).filter(([c]) => c.span_s);
  const lanes = said.map(([c, i]) => ({ label: nameOf(c, i), spans: [c.span_s], kind: "pred", title: `#${i}: ${seconds(c.span_s)}` }));
  if (item.true_spans) lanes.unshift({ label: "true", spans: item.true_spans, kind: "true" });
  const made = timeLanes(item.duration_s, lanes, strip);
  said.forEach(([, i], n) => marks[i].push(made.lanes[n + (item.true_spans ? 1 : 0)]));
  const missing = item.completions.length - said.length;
  const few = item.frames.length < item.num_frames && item.frames.length ? `${item.frames.length} of ${item.num_frames} frames shown. ` : "";
  const words = missing && item.true_spans ? `${missing} of ${item.completions.length} replies name no span.` : "";
  return el("div", {}, made.box, few || words ? el("div", { class: "soft small" }, few + words) : null);
}

function imagePart(item, marks) {
  if (!item.frames.length) return el("div", { class: "soft small" }, "no picture");
  const said = item.completions.map((c, i) => [c, i]).filter(([c]) => c.box_px);
  const boxes = said.map(([c, i]) => ({ box: c.box_px, kind: "pred", title: nameOf(c, i) }));
  if (item.true_box) boxes.push({ box: item.true_box, kind: "true", title: "true box" });
  const made = boxedFrame(item.frames[0], boxes);
  said.forEach(([, i], n) => marks[i].push(made.shapes[n]));
  return el("div", {}, made.figure, el("div", { class: "small" },
    item.true_box ? el("span", { class: "true" }, "true box (dashed)") : el("span", { class: "soft" }, "nothing to find in this frame"), " · ",
    el("span", { class: "pred" }, `${said.length} predicted`), el("span", { class: "soft" }, ` · frame at ${show(item.frames[0].time_s, 1)} s`)));
}

function completionTable(item, marks) {
  const names = [...new Set(item.completions.flatMap((c) => Object.keys(c.rewards)))];
  const more = item.num_completions - item.completions.length;
  const rows = item.completions.map((c, i) => [
    el("span", { class: "soft" }, `#${i}`),
    el("div", {}, el("pre", {}, c.completion || "(empty)"),
      c.parse_error ? el("span", { class: "badge warn" }, `not parsed: ${c.parse_error}`) : null,
      c.truncated ? el("span", { class: "badge warn" }, "truncated") : null,
      c.unscored ? el("span", { class: "badge warn" }, c.unscored) : null),
    ...names.map((n) => c.rewards[n] ?? null), c.reward,
    known(c.advantage) ? el("span", { class: c.advantage > 0 ? "up" : c.advantage < 0 ? "down" : null }, signed(c.advantage, 2)) : null]);
  const drawn = table(["", "completion", ...names, "reward", "advantage"], rows, true);
  [...drawn.querySelectorAll("tr")].slice(1).forEach((row, i) => {
    const light = (on) => {
      row.classList.toggle("on", on);
      for (const others of marks) for (const mark of others) mark.style.opacity = on && !marks[i].includes(mark) ? 0.15 : 1;
    };
    row.addEventListener("pointerenter", () => light(true));
    row.addEventListener("pointerleave", () => light(false));
  });
  return el("div", {}, drawn,
    item.true_answers ? el("div", { class: "small true" }, `true answer: ${item.true_answers.join(" or ")}`) : null,
    more > 0 ? el("div", { class: "soft small" }, `${more} more completions are in rollouts/.`) : null);
}

function evaluations({ columns, rows }) {
  if (!rows.length) return null;
  const change = columns.includes("before") && columns.includes("after");
  return [el("h3", {}, "Held-out samples, greedy answers"),
    table(["metric", ...columns, ...(change ? ["change"] : [])], rows.map((row) => {
      const delta = row[row.length - 1];
      const cell = el("span", { class: "num" }, signed(delta));
      return change ? [...row.slice(0, -1), known(delta) ? cell : null] : row.slice(0, -1);
    }))];
}

const STEP_COLORS = ["#5a7bd8", "#2ba567", "#c9772e", "#a65bb8", "#d14a5b", "#3aa6b9", "#b59f2c", "#8a8f99", "#6b7280"];

/* Where the seconds of a mean step go: one bar, and its parts in words. */
function stepTime(rows) {
  return el("div", { class: "card" }, el("h4", {}, "A step's time, mean over steps"),
    el("div", { class: "stack" }, rows.map(([what, spent, share], i) =>
      el("i", { style: `flex:${share};background:${STEP_COLORS[i % STEP_COLORS.length]}`, title: `${what}: ${show(spent)} s` }))),
    el("div", { class: "legend" }, rows.map(([what, spent, share], i) =>
      el("span", {}, el("i", { style: `background:${STEP_COLORS[i % STEP_COLORS.length]}` }), `${what}: ${show(spent)} s (${percent(share)})`))));
}

function diagnostics({ step_time, num_completions, completions, prompts, zero_spread }) {
  const shares = (rows) => rows.map(([what, count, share]) => [what, count, el("span", { class: "num" }, percent(share)), meter(share)]);
  const parts = step_time.length ? [stepTime(step_time)] : [];
  if (completions.length) parts.push(el("div", { class: "card" }, el("h4", {}, `${num_completions} completions kept in rollouts/`), table(["", "", "", ""], shares(completions))));
  if (prompts.length || known(zero_spread)) parts.push(el("div", { class: "card" }, el("h4", {}, "Drawn prompts"), table(["", "", "", ""], shares(prompts)),
    known(zero_spread) ? el("div", { class: "soft small" }, `Groups whose rewards were all equal: ${percent(zero_spread)}, mean over steps.`) : null));
  if (!parts.length) return null;
  return [el("h3", {}, "Diagnostics"), el("div", { class: "grid", style: "grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr))" }, parts)];
}

function runSection(run) {
  const charts = run.charts.map((part) => {
    const cards = part.keys.map((key) => chart(key, run.steps, run.series[key])).filter(Boolean);
    if (!cards.length) return null;
    return el("details", part.open ? { open: "" } : {}, el("summary", { class: "title" }, part.title), el("div", { class: "grid" }, cards));
  });
  return el("section", { id: run.name }, el("h2", {}, run.name), facts(run.about), evaluations(run.evals),
    run.steps.length ? charts : el("p", { class: "soft" }, "No step has been finished yet, so there is no curve."),
    run.per_point > 1 ? el("div", { class: "soft small" }, `Each point is the mean of ${run.per_point} steps.`) : null,
    diagnostics(run.diagnostics),
    run.groups.length ? [el("h3", {}, "Sample rollouts"), el("div", { class: "soft small" },
      "Taken evenly over the steps, not by quality. Point at a completion to see its answer alone."), run.groups.map(rolloutCard)]
      : run.steps.length ? el("p", { class: "soft" }, "No rollouts are kept in this run (log.rollout_steps).") : null,
    run.config ? el("details", {}, el("summary", {}, "Resolved configuration"), el("pre", { style: "max-height:none" }, run.config)) : null);
}

const STAGE_COLORS = { right: "#2ba567", span: "#5a7bd8", box: "#c9772e", tracking: "#a65bb8", lifting: "#8a8f99" };

function attribution(chain) {
  const parts = [];
  if (chain.oracle.length) parts.push(el("h3", {}, "Where accuracy is lost"), el("div", { class: "soft small" },
    "Each row replaces one more stage by the truth. What 3D IoU wins from one row to the next is what that stage loses; lifting loses what true masks lack to 1."),
  table(["stages", "queries", "mean 3D IoU", "Acc@0.25", "Acc@0.5", "stage", "loses", ""], chain.oracle.map((row) =>
    [...row.slice(0, 2), ...row.slice(2, 5), el("b", {}, row[5]), el("span", { class: "num" }, signed(-row[6])), meter(row[6])])));
  const total = chain.lost_in.reduce((sum, [, count]) => sum + count, 0);
  if (total) {
    const name = (stage) => (stage === "right" ? "right (3D IoU ≥ 0.25)" : `lost in ${stage}`);
    parts.push(el("div", { class: "stack" }, chain.lost_in.map(([stage, count]) =>
      el("i", { style: `flex:${count};background:${STAGE_COLORS[stage]}`, title: `${name(stage)}: ${count}` }))),
    el("div", { class: "legend" }, chain.lost_in.map(([stage, count]) =>
      el("span", {}, el("i", { style: `background:${STAGE_COLORS[stage]}` }), `${name(stage)}: ${count} (${percent(count / total)})`))));
  }
  return parts;
}

function unanswered(chain) {
  if (!chain.num_unanswered && !chain.skipped.length && !chain.errors.length) return null;
  const left = chain.num_unanswered - chain.unanswered.length;
  return [el("h3", {}, "Queries without an answer"),
    el("p", { class: "soft" }, `${chain.num_unanswered} of the queries have no 3D box. Problems and how many queries had them, answered ones included:`),
    chain.errors.length ? table(["problem", "queries"], chain.errors) : null,
    chain.skipped.length ? [el("h4", {}, "Not asked"), table(["reason", "samples"], chain.skipped)] : null,
    chain.unanswered.length ? el("details", {}, el("summary", {}, "One by one"), table(["query", "reasons"], chain.unanswered),
      left > 0 ? el("div", { class: "soft small" }, `${left} more are in answers.jsonl.`) : null) : null];
}

function answerCard(answer) {
  const ends = [...(answer.true_spans || []), ...(answer.span_s ? [answer.span_s] : [])].map((span) => span[1]);
  const lanes = [];
  if (answer.true_spans) lanes.push({ label: "true span", spans: answer.true_spans, kind: "true" });
  lanes.push({ label: answer.span_s ? "predicted" : "no span", spans: answer.span_s ? [answer.span_s] : [], kind: "pred" });
  const verdict = !answer.verdict ? null : answer.verdict === "right" ? el("span", { class: "badge true" }, "right")
    : el("span", { class: "badge warn" }, `lost in ${answer.verdict}`);
  const boxes = [{ box: answer.true_box, color: "#3ecb7f", name: "true" }, { box: answer.box, color: "#ff5c7c", name: "lifted" }].filter((item) => item.box);
  const cloud = !answer.cloud ? el("p", { class: "soft" }, "No points to show: neither lifted points nor the recording are there.")
    : cloudView(answer.cloud, boxes);
  return el("div", { class: "card wide" },
    el("h4", {}, answer.query, el("span", { class: "soft small" }, `   ${answer.about}   `), verdict),
    answer.errors.map((error) => el("span", { class: "badge warn" }, error)),
    answer.picture ? el("img", { class: "picture", src: answer.picture, alt: "frames with box and mask, and the cloud from aside and from above" }) : null,
    el("div", { class: "beside" },
      el("div", {}, timeLanes(answer.duration_s || Math.max(...ends, 0.1), lanes).box, table(["", ""], answer.facts, true),
        el("details", {}, el("summary", { class: "soft" }, "Replies, word for word"), table(["", ""], answer.replies.map(([what, text]) => [what, el("pre", {}, text)])))),
      el("div", { class: "view" }, cloud)));
}

function chainSection(chain) {
  return el("section", { id: chain.name }, el("h2", {}, `${chain.name}: from question to 3D box`), facts(chain.about),
    attribution(chain), unanswered(chain),
    chain.answers.length ? [el("h3", {}, "Answers in 3D"), el("div", { class: "soft small" },
      "Drag to turn; click, then wheel to zoom; double click to go back. Walls are hidden from behind. ",
      el("span", { class: "true" }, "green: true box"), ", ", el("span", { class: "pred" }, "red: lifted box"), ", lifted points are tinted yellow.")] : null,
    chain.answers.map(answerCard));
}

function tile({ label, before, value }) {
  const change = known(before) && known(value) ? value - before : null;
  return el("div", { class: "card tile" }, el("div", { class: "soft small" }, label),
    el("div", {}, known(before) ? el("span", { class: "from" }, `${show(before)} → `) : null, el("b", {}, known(value) ? show(value) : "not yet"),
      change === null ? null : el("span", { class: `delta ${change > 0 ? "up" : change < 0 ? "down" : ""}` }, signed(change))));
}

const sections = [...data.runs.map(runSection), ...data.chains.map(chainSection)];
main.replaceChildren(
  el("h1", {}, data.title), facts(data.about),
  el("div", { class: "tiles" }, data.tiles.map(tile)),
  data.notes.length ? el("div", {}, data.notes.map((note) => el("div", { class: "note" }, note))) : "",
  el("nav", {}, sections.map((section) => el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent))), ...sections);
