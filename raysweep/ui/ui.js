// The page on this machine: parts that load themselves, news by server-sent events, and curves. It sends nothing but questions.
"use strict";
const all = (query, within = document) => [...within.querySelectorAll(query)];
document.documentElement.classList.add("scripted");

// --- parts: elements with data-part, the address of their content; data-on says when it is loaded ---------------------------------
const asked = new WeakMap(); // the newest request of each part, so that an older answer is not shown

function sourceOf(part) {
  return part.hasAttribute("data-address") ? part.dataset.part + location.search : part.dataset.part;
}

async function load(part, address = sourceOf(part)) {
  const request = {};
  asked.set(part, request);
  part.dataset.loaded = "";
  part.setAttribute("aria-busy", "true");
  let text;
  try {
    text = await (await fetch(address, { headers: { "X-Part": "1" } })).text();
  } catch {
    part.removeAttribute("aria-busy");
    return; // the server has gone: what is shown stays, and the sign at the top says so
  }
  if (asked.get(part) !== request) return;
  part.removeAttribute("aria-busy");
  const focus = part.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  const open = all("details", part).map((d) => d.open);
  const kept = all("input[type=radio]:checked", part).map((i) => i.id);
  const known = part.dataset.state !== undefined;
  part.innerHTML = text;
  part.dataset.state = "";
  if (known || part.dataset.on.includes("news")) all("details", part).forEach((d, i) => { if (i < open.length) d.open = open[i]; });
  for (const id of kept) { const radio = document.getElementById(id); if (radio) radio.checked = true; }
  if (focus) all("a, select, input, button, summary, [tabindex]", part).find((e) => keyOf(e) === focus)?.focus({ preventScroll: true });
}

const keyOf = (e) => `${e.tagName} ${e.getAttribute("href") ?? e.getAttribute("name") ?? e.id} ${e.getAttribute("href") ? "" : e.textContent.slice(0, 60)}`;

// Within a part, a link or a form with data-here changes the part and nothing else.
document.addEventListener("click", (event) => {
  const copied = event.target.closest("code.copy");
  if (copied) return copy(copied);
  const link = event.target.closest("a[data-here]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const part = link.closest("[data-part]");
  if (!part.hasAttribute("data-address")) return show(part, link.getAttribute("href"));
  history.pushState(null, "", link.href);
  if (link.hasAttribute("data-clears")) fillForms();
  else takeSort(part);
  load(part);
});
document.addEventListener("keydown", (event) => {
  const copied = event.target.closest?.("code.copy");
  if (copied && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); copy(copied); }
});
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-here]");
  if (form) show(form.closest("[data-part]"), `${form.getAttribute("action")}?${new URLSearchParams(new FormData(form))}`);
});
document.addEventListener("submit", (event) => { if (event.target.matches("form[data-here], form[data-filters]")) event.preventDefault(); });

function show(part, address) {
  part.dataset.part = address;
  load(part, address);
}

function copy(element) {
  if (String(getSelection())) return;
  navigator.clipboard?.writeText(element.textContent).then(() => {
    element.classList.add("copied");
    setTimeout(() => element.classList.remove("copied"), 1500);
  }, () => {});
}

// A form with data-filters filters the list of that id while one types; the address of the page follows.
for (const form of all("form[data-filters]")) {
  let timer;
  const changed = () => {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}`);
    load(document.getElementById(form.dataset.filters));
  };
  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(changed, 120); });
  form.addEventListener("submit", changed);
}

function fillForms() {
  const query = new URLSearchParams(location.search);
  for (const field of all("form[data-filters] :is(input, select)")) if (field.name !== "sort" && field.name !== "order") field.value = query.get(field.name) ?? "";
}

function takeSort() { // a filter that is typed next keeps the order
  const query = new URLSearchParams(location.search);
  for (const field of all("form[data-filters] input[type=hidden]")) if (query.get(field.name) !== null) field.value = query.get(field.name);
}

addEventListener("popstate", () => { fillForms(); all("[data-address]").forEach((part) => load(part)); });

// --- news ------------------------------------------------------------------------------------------------------------------------
let source = null;
const live = document.getElementById("live");

function sign(text, kind) {
  if (live.textContent !== text) live.textContent = text;
  live.className = kind;
}

let busy = false, again = null;
async function news(ended) { // one after the other, however fast the news come
  if (busy) { again = (again ?? false) || ended; return; }
  busy = true;
  const loaded = (part) => "loaded" in part.dataset;
  const parts = all('[data-on~="news"]').concat(ended ? all('[data-on~="ended"]').filter(loaded) : []);
  await Promise.all([...parts.map((part) => load(part)), ...all("[data-curves]").map(curves)]);
  busy = false;
  if (again !== null) { const next = again; again = null; setTimeout(news, 300, next); }
}

function listen(late) {
  source?.close();
  source = new EventSource(document.body.dataset.events);
  let opened = late; // after a break, whatever has happened meanwhile is looked at
  source.onopen = () => { sign("live", "on"); if (opened) news(true); opened = true; };
  source.onmessage = (event) => news(JSON.parse(event.data).ended);
  source.onerror = () => {
    sign("the server is gone", "off");
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (!document.hidden) listen(true); }, 3000);
  };
}
// A browser allows few connections to one server: a page that nobody sees needs none.
document.addEventListener("visibilitychange", () => { if (document.hidden) { source?.close(); source = null; } else listen(true); });
addEventListener("pagehide", () => source?.close());

// --- curves ------------------------------------------------------------------------------------------------------------------------
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320, HEIGHT = 190, LEFT = 40, RIGHT = 10, TOP = 8, BOTTOM = 22;
const DASHES = { solid: "", dashed: "7 4", dotted: "2 4" };

function make(name, attributes = {}, ...children) {
  const element = name === "svg" || SHAPES.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== "" && value !== false) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const SHAPES = new Set(["path", "line", "text", "circle", "g", "rect"]);

async function curves(box) {
  const wanted = box.chosen ?? [];
  const query = new URLSearchParams(wanted.map((name) => ["class", name]));
  let data;
  try {
    const answer = await fetch(`${box.dataset.curves}?${query}`);
    if (!answer.ok) return;
    data = await answer.json();
  } catch { return; }
  const text = JSON.stringify(data);
  if (text === box.drawn) return; // a new epoch of another experiment
  box.drawn = text;
  if (!data.panels.length) {
    box.replaceChildren(make("p", { class: "soft" }, "No epoch has ended yet. The curves begin with the first one, by themselves."));
    return;
  }
  const legend = data.legend.length > 1 ? [make("div", { class: "legend" }, ...data.legend.map((line) => make("span", {}, swatch(line), line.name)))] : [];
  const told = ["On the validation images."];
  if (data.lines.some((line) => line.fork)) told.push("Grey: the parent up to the fork (dotted line).");
  const charts = make("div", { class: "curves" }, ...data.panels.map((panel) => chart(panel, data.lines)));
  box.replaceChildren(make("p", { class: "soft" }, [...told, ...data.notes].join(" ")), ...legend, ...chooser(box, data), charts);
}

function chooser(box, data) {
  if (!data.classes.length) return [];
  const select = make("select", { "aria-label": "Draw a class" }, make("option", { value: "" }, "choose a class …"), ...data.classes.map((name) => make("option", { value: name }, name)));
  select.onchange = () => { if (select.value) { box.chosen = [...new Set([...(box.chosen ?? []), select.value])].slice(-12); curves(box); } };
  return [make("div", { class: "controls" }, make("label", {}, "Draw also ", select))];
}

function swatch(line) {
  return make("svg", { class: "swatch", viewBox: "0 0 24 8" }, make("line", { x1: 0, x2: 24, y1: 4, y2: 4, stroke: line.colour, "stroke-width": 2.4, "stroke-dasharray": DASHES[line.dash] }));
}

function steps(low, high, many) { // round numbers between two others
  const rough = (high - low || 1) / many, size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((k) => k * size).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return [found, step];
}

function chart(panel, lines) {
  const points = lines.map((line) => line.epochs.map((e, i) => [e, line.values[panel.at][i]]).filter(([, v]) => v !== null));
  const flat = points.flat();
  const [first, last] = [Math.min(...flat.map((p) => p[0])), Math.max(...flat.map((p) => p[0]))];
  let [low, high] = [Math.min(...flat.map((p) => p[1])), Math.max(...flat.map((p) => p[1]))];
  const room = (high - low) * 0.06 || 0.01;
  [low, high] = [low - room, high + room];
  if (panel.share) [low, high] = [Math.max(0, low), Math.min(1, high)];
  if (high <= low) [low, high] = [low - 0.01, high + 0.01];
  const x = (e) => LEFT + (WIDTH - LEFT - RIGHT) * (last === first ? 0.5 : (e - first) / (last - first));
  const y = (v) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (v - low) / (high - low);
  const [marks, step] = steps(low, high, 4);
  const digits = panel.share ? (step < 0.001 ? 2 : step < 0.01 ? 1 : step * 100 % 1 > 1e-6 ? 1 : 0) : Math.max(0, Math.ceil(-Math.log10(step)) + (step * 10 ** Math.ceil(-Math.log10(step)) % 1 > 1e-6 ? 1 : 0));
  const written = (v, more = 0) => panel.share ? `${(100 * v).toFixed(digits + more)}%` : v.toFixed(digits + more);
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0, "aria-label": `${panel.title} by epoch` });
  for (const v of marks) svg.append(make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v) }), make("text", { x: LEFT - 6, y: y(v) + 4, "text-anchor": "end" }, written(v)));
  for (const e of steps(first, last, 6)[0].filter((e) => Number.isInteger(e))) svg.append(make("text", { x: x(e), y: HEIGHT - 6, "text-anchor": "middle" }, String(e)));
  for (const fork of new Set(lines.map((line) => line.fork).filter((f) => f && f >= first))) svg.append(make("line", { class: "fork", x1: x(fork), x2: x(fork), y1: TOP, y2: HEIGHT - BOTTOM }));
  const order = lines.map((line, i) => i).sort((a, b) => lines[a].control - lines[b].control); // the control is on top
  const drawn = new Set(); // the branches of a sweep have one parent, which is drawn once
  for (const i of order) draw(svg, lines[i], points[i], x, y, drawn);
  const box = make("div", { class: "chart" }, svg);
  follow(box, svg, panel, lines, points, x, (v) => written(v, 1));
  return make("figure", {}, make("figcaption", {}, panel.title), box);
}

function draw(svg, line, points, x, y, drawn) {
  const path = (some) => some.map(([e, v], i) => `${i ? "L" : "M"}${x(e).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const fork = line.fork ?? -1;
  const before = points.filter(([e]) => e <= fork), own = points.filter(([e]) => e >= fork);
  if (before.length && !drawn.has(path(before))) svg.append(make("path", { class: "line before", d: path(before), "stroke-width": 1.4 }));
  drawn.add(path(before));
  if (!own.length) return;
  svg.append(make("path", { class: "line", d: path(own), stroke: line.colour, "stroke-width": line.control ? 2 : 1.6, "stroke-dasharray": DASHES[line.dash] }));
  if (own.length <= 60) for (const [e, v] of own) svg.append(make("circle", { cx: x(e), cy: y(v), r: own.length > 30 ? 1.6 : 2.3, fill: line.colour }));
}

// What the lines reach at the epoch under the pointer, or, with the arrow keys, at the next one.
function follow(box, svg, panel, lines, points, x, written) {
  const epochs = [...new Set(points.flat().map(([e]) => e))].sort((a, b) => a - b);
  const at = make("line", { class: "at", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.append(at);
  const tip = make("div", { class: "tip", hidden: "hidden", role: "status" });
  box.append(tip);
  let now = epochs.length - 1;
  const show = (index) => {
    now = Math.min(epochs.length - 1, Math.max(0, index));
    const epoch = epochs[now];
    at.setAttribute("x1", x(epoch)); at.setAttribute("x2", x(epoch)); at.setAttribute("visibility", "visible");
    const found = lines.map((line, i) => [line, points[i].find(([e]) => e === epoch)?.[1]]).filter(([line, v]) => v !== undefined && (line.fork ?? -1) <= epoch);
    const old = lines.map((line, i) => points[i].find(([e]) => e === epoch)?.[1]).find((v) => v !== undefined);
    found.sort((a, b) => b[1] - a[1]);
    const rows = found.slice(0, 8).map(([line, v]) => make("div", {}, make("span", {}, swatch(line), lines.length > 1 ? line.name : panel.title), make("b", {}, written(v))));
    if (!found.length && old !== undefined) rows.push(make("div", {}, make("span", {}, "parent"), make("b", {}, written(old))));
    if (found.length > 8) rows.push(make("div", {}, make("span", {}, `… ${found.length - 8} more`)));
    tip.replaceChildren(make("div", {}, make("span", {}, `epoch ${epoch}`)), ...rows);
    tip.hidden = false;
    const share = x(epoch) / WIDTH, side = share > 0.5;
    tip.style.left = side ? "" : `${100 * share + 3}%`;
    tip.style.right = side ? `${100 * (1 - share) + 3}%` : "";
    tip.style.top = "6px";
  };
  const hide = () => { tip.hidden = true; at.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointermove", (event) => {
    const area = svg.getBoundingClientRect(), here = (event.clientX - area.left) / area.width * WIDTH;
    let best = 0;
    epochs.forEach((e, i) => { if (Math.abs(x(e) - here) < Math.abs(x(epochs[best]) - here)) best = i; });
    show(best);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -epochs.length, End: epochs.length }[event.key];
    if (move === undefined) { if (event.key === "Escape") hide(); return; }
    event.preventDefault();
    show(tip.hidden ? now : now + move);
  });
}

// --- begin -------------------------------------------------------------------------------------------------------------------------
all('[data-on~="load"]').forEach((part) => load(part));
all("[data-curves]").forEach(curves);
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); load(entry.target); }
}, { rootMargin: "300px" });
all('[data-on~="seen"]').forEach((part) => seen.observe(part));
if (!document.hidden) listen(false);
