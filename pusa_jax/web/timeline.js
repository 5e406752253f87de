// The timeline of latent frames: pictures and clips are dropped on it, noise levels are dragged.
//
// Gradio runs this once, with `element`, `props`, `trigger`, `upload` and `watch`. The state is JSON in
// props.value, and Python writes it as well (presets, settings of a video):
//
//   {task, kind: "nothing" | "picture" | "clip", frames, slots,
//    files: [{path, url, name, at}],      at: place of a picture, or number of a clip
//    levels: {"0": 0.2}}                  given latent frames and their noise, 0 clean to 1 all noise
const NS = "http://www.w3.org/2000/svg";
const WIDTH = 960, HIGH = 200, TOP = 12, THUMB = 70;
let state = { task: "t2v", kind: "nothing", frames: 0, slots: 0, files: [], levels: {} };
let dragged = null;
let message = "";

function svg(name, attributes, parent, text) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

function clamp(x, low, high) { return Math.min(Math.max(x, low), high); }

function isGiven(place) { return String(place) in state.levels; }

// Which file a frame is given from; the one picture of a loop stands at all its places.
function fileAt(place) {
  if (!isGiven(place)) return undefined;
  if (state.kind === "picture") {
    return state.slots === 1 ? state.files[0] : state.files.find((file) => file.at === place);
  }
  return state.files.find((file) => file.at === clipOf(place));
}

function clipOf(place) { return state.slots === 2 && 2 * place >= state.frames ? 1 : 0; }

function save() {
  props.value = JSON.stringify(state);
  draw();
  trigger("input");
}

function draw() {
  const root = element.querySelector(".pj-timeline");
  if (!root) return;
  root.replaceChildren();
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${TOP + HIGH + THUMB + 24}` }, root);
  const wide = WIDTH / Math.max(state.frames, 1);
  for (let place = 0; place < state.frames; place++) drawFrame(picture, place, wide);
  const words = document.createElement("p");
  words.className = "pj-words";
  words.textContent = message || hint();
  root.appendChild(words);
  root.appendChild(chooser());
}

function hint() {
  if (!state.frames) return "loading ...";
  if (state.kind === "nothing") return "text to video: all frames begin as noise; nothing is dropped";
  const missing = state.slots - state.files.length;
  const what = state.kind === "picture" ? "picture" : "clip";
  if (missing > 0) return `drop ${missing} ${what}${missing > 1 ? "s" : ""} on the timeline (or click on a frame); drag bars for noise`;
  return "drag a bar for the noise of its frame; a double click gives a frame or frees it";
}

function drawFrame(picture, place, wide) {
  const level = isGiven(place) ? state.levels[place] : 1;
  const x = place * wide, y = TOP + (1 - level) * HIGH;
  const frame = svg("g", { class: isGiven(place) ? "pj-given" : "pj-free", "data-place": place }, picture);
  svg("rect", { class: "pj-column", x: x + 1, y: TOP, width: wide - 2, height: HIGH }, frame);
  svg("rect", { class: "pj-bar", x: x + 1, y, width: wide - 2, height: TOP + HIGH - y }, frame);
  if (isGiven(place)) drawHandle(frame, place, level, x, y, wide);
  drawThumb(frame, place, x, wide);
  svg("text", { class: "pj-number", x: x + wide / 2, y: TOP + HIGH + THUMB + 18 }, frame, place);
  frame.addEventListener("dblclick", () => toggle(place));
}

function drawHandle(frame, place, level, x, y, wide) {
  const handle = svg("rect", {
    class: "pj-handle", x: x + 1, y: y - 5, width: wide - 2, height: 10, tabindex: 0, role: "slider",
    "aria-label": `noise of frame ${place}`, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": level,
  }, frame);
  svg("text", { class: "pj-level", x: x + wide / 2, y: clamp(y - 8, 10, TOP + HIGH) }, frame, level.toFixed(2));
  const column = frame.querySelector(".pj-column");
  for (const part of [handle, column, frame.querySelector(".pj-bar")]) {
    part.addEventListener("pointerdown", (event) => { dragged = place; event.preventDefault(); move(event); });
  }
  handle.addEventListener("keydown", (event) => {
    const step = { ArrowUp: 0.05, ArrowDown: -0.05 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    setLevel(place, level + step);
    element.querySelector(`[data-place="${place}"] .pj-handle`).focus();
  });
}

function drawThumb(frame, place, x, wide) {
  const y = TOP + HIGH + 4, file = fileAt(place);
  const box = svg("rect", { class: "pj-thumb", x: x + 1, y, width: wide - 2, height: THUMB - 4 }, frame);
  box.addEventListener("click", () => { if (state.kind !== "nothing") choose(place); });
  if (!file) return;
  if (state.kind === "picture") {
    const image = svg("image", { href: file.url, x: x + 1, y, width: wide - 2, height: THUMB - 4 }, frame);
    image.addEventListener("click", () => choose(place));
  } else {
    svg("text", { class: "pj-clip", x: x + wide / 2, y: y + THUMB / 2 }, frame, state.slots === 2 ? `clip ${file.at + 1}` : "clip");
  }
  svg("title", {}, frame, file.name);
}

function setLevel(place, level) {
  state.levels[place] = Math.round(clamp(level, 0, 1) * 100) / 100;
  save();
}

function move(event) {
  const picture = element.querySelector(".pj-timeline svg");
  const box = picture.getBoundingClientRect();
  const y = ((event.clientY - box.top) / box.width) * WIDTH;
  setLevel(dragged, 1 - (y - TOP) / HIGH);
}

// A clip gives any of its frames; pictures only move where they are dropped.
function toggle(place) {
  if (state.kind !== "clip") return;
  if (!isGiven(place)) state.levels[place] = 0.3;
  else if (Object.keys(state.levels).length > 1) delete state.levels[place];
  save();
}

function placeUnder(event) {
  const box = element.querySelector(".pj-timeline svg").getBoundingClientRect();
  return clamp(Math.floor(((event.clientX - box.left) / box.width) * state.frames), 0, state.frames - 1);
}

function chooser() {
  const input = document.createElement("input");
  input.type = "file";
  input.className = "pj-chooser";
  input.hidden = true;
  input.accept = state.kind === "clip" ? "video/*" : "image/*";
  input.addEventListener("change", () => take([...input.files], Number(input.dataset.place || 0)));
  return input;
}

function choose(place) {
  const input = element.querySelector(".pj-chooser");
  input.dataset.place = place;
  input.click();
}

// Several files at once go to the places there are, one behind the other.
async function take(files, place) {
  for (const file of files) {
    message = `sending ${file.name} ...`;
    draw();
    const { path, url } = await upload(file);
    const made = { path, url: file.type.startsWith("image/") ? URL.createObjectURL(file) : url, name: file.name };
    if (state.kind === "clip") putClip(made, place);
    else putPicture(made, place);
    place += 1;
  }
  message = "";
  save();
}

function putClip(file, place) {
  file.at = clipOf(place);
  state.files = state.files.filter((other) => other.at !== file.at).concat(file);
  state.files.sort((a, b) => a.at - b.at);
}

// Where it is dropped, with the noise of the nearest place that has no picture yet.
function putPicture(file, place) {
  const places = Object.keys(state.levels).map(Number);
  const near = (some) => some.sort((a, b) => Math.abs(a - place) - Math.abs(b - place))[0];
  if (state.slots === 1) {
    state.files = [{ ...file, at: places[0] }];
    if (places.length === 1) moveLevel(places[0], place);
    return;
  }
  const empty = places.filter((other) => !state.files.some((known) => known.at === other));
  if (!isGiven(place)) {
    const from = near(empty.length ? empty : places);
    if (state.task === "interpolate" && !empty.length) state.levels[place] = 0.5;
    else moveLevel(from, place);
  }
  state.files = state.files.filter((other) => other.at !== place && isGiven(other.at)).concat({ ...file, at: place });
  state.files.sort((a, b) => a.at - b.at);
}

function moveLevel(from, to) {
  const level = state.levels[from];
  delete state.levels[from];
  state.levels[to] = level;
  for (const file of state.files) if (file.at === from) file.at = to;
}

function read() {
  try { state = JSON.parse(props.value || "{}"); } catch { return; }
  if (!state.levels) state = { task: "t2v", kind: "nothing", frames: 0, slots: 0, files: [], levels: {} };
  draw();
}

window.addEventListener("pointermove", (event) => { if (dragged !== null) move(event); });
window.addEventListener("pointerup", () => { dragged = null; });
element.addEventListener("dragover", (event) => { event.preventDefault(); });
element.addEventListener("drop", (event) => {
  event.preventDefault();
  if (state.kind !== "nothing") take([...event.dataTransfer.files], placeUnder(event));
});
watch("value", () => { if (dragged === null) read(); });
read();
