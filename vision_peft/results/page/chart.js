// The curve: figure against what a method costs, one line a method, linear probe and full fine-tuning as references.
const AXES = [
  ["trained", "trained parameters"], ["stored", "stored parameters"], ["step", "step time (ms)"],
  ["memory", "peak memory (bytes)"], ["flops", "inference FLOPs"], ["bytes", "adapter (bytes)"],
];
const LINE = 16; // height of a line of text
const PARAMETERS = ["trained", "stored"];
const DASHES = { linear: "7 4", full: "2 3", other: "8 3 2 3" };
const PANELS = DATA.kinds.flatMap((kind) => kind.panels.map((panel) => ({ ...panel, kind })));
const state = { panel: PANELS[0], figure: null, axis: "trained", hidden: new Set(), watched: "figure" };

const cellOf = (kind, setting, key) => kind.settings[setting].cells[kind.keys.indexOf(key)];
const nameOf = (panel) => [panel.name, ...panel.about].join(", ");

function chartCard(open) {
  const box = make("div", { id: "chart" });
  const legend = make("ul", { class: "legend", id: "legend", "aria-label": "Methods: press to hide or show" });
  const below = make("p", { class: "soft", id: "chart-note" });
  const chosen = make("p", { class: "chosen" });
  const figures = choice("figure", "Figure", [], (value) => { state.figure = value; redraw(); });
  const axes = choice("axis", "Against", [], (value) => { state.axis = value; redraw(); });
  const panels = choice("panel", "Task", PANELS.map((panel, place) => [place, nameOf(panel)]), (value) => {
    state.panel = PANELS[value];
    enter();
  });
  function redraw() {
    hideTip();
    tellChosen(chosen, [panels, figures, axes].map((label) => [label.firstChild.textContent, chosenText(label)]));
    box.replaceChildren(...drawChart(box.clientWidth || 600, open, below));
    drawLegend(legend, redrawAll);
  }
  function redrawAll() {
    redraw();
    drawCurves();
  }
  function enter() {
    const { kind } = state.panel;
    const names = kind.figures.map((place) => [kind.keys[place], kind.heads[place][0]]);
    fill(figures.querySelector("select"), names);
    state.figure = figures.querySelector("select").value;
    const used = state.panel.lines.flatMap((line) => line.points);
    const known = AXES.filter(([key]) => used.some((setting) => (cellOf(kind, setting, key) || [0])[0] > 0));
    fill(axes.querySelector("select"), known.length ? known : AXES.slice(0, 1));
    state.axis = axes.querySelector("select").value;
    redrawAll();
  }
  const made = card("curve", "Accuracy and cost", make("div", { class: "controls" }, panels, figures, axes), chosen, box, legend, below);
  follow(box, redraw);
  return { card: made, enter };
}

function drawLegend(legend, changed) {
  const focused = document.activeElement && document.activeElement.dataset.line;
  legend.replaceChildren(...state.panel.lines.map((line) => {
    const shown = !state.hidden.has(line.label);
    const icon = draw("svg", { width: 22, height: 14, "aria-hidden": "true", class: colour(line.colour) });
    if (line.reference) icon.append(draw("line", { x1: 0, x2: 22, y1: 7, y2: 7, class: "bare", "stroke-width": 2, "stroke-dasharray": DASHES[line.reference] }));
    else {
      const dashed = { class: "bare", "stroke-width": 1.8, "stroke-dasharray": dashes(line.colour) };
      icon.append(draw("line", { ...dashed, x1: 0, x2: 22, y1: 7, y2: 7 }), draw("g", { class: "ink" }, shape(line.colour, 11, 7, 5)));
    }
    const toggle = () => {
      if (shown) state.hidden.add(line.label);
      else state.hidden.delete(line.label);
      changed();
    };
    const button = make("button", { type: "button", "aria-pressed": String(shown), onclick: toggle }, icon, line.label);
    button.dataset.line = line.label;
    return make("li", {}, button);
  }));
  const again = [...legend.querySelectorAll("button")].find((button) => focused && button.dataset.line === focused);
  if (again) again.focus();
}

function collectPoints() {
  const { kind, lines } = state.panel;
  const points = [];
  const references = [];
  for (const line of lines) {
    if (state.hidden.has(line.label)) continue;
    for (const setting of line.points) {
      const [figure, x] = [cellOf(kind, setting, state.figure), cellOf(kind, setting, state.axis)];
      if (!figure) continue;
      const point = { line, setting, mean: figure[0], std: figure[2] || 0, text: figure[1], x: x ? x[0] : null };
      const named = line.reference === "linear" || line.reference === "full";
      if (named || (line.reference && !(point.x > 0))) references.push(point);
      if (point.x > 0 && !(named && PARAMETERS.includes(state.axis))) points.push(point);
    }
  }
  points.sort((a, b) => a.x - b.x || a.mean - b.mean);
  return { points, references };
}

function limits(spans, percent) {
  const low = Math.min(...spans.map(([a]) => a));
  const high = Math.max(...spans.map(([, b]) => b));
  const pad = percent ? Math.max(0.1 * (high - low), 0.5 * (4 - high + low)) : 0.1 * (high - low) || 0.05 * Math.abs(high) || 1;
  return percent ? [Math.max(low - pad, -1), Math.min(high + pad, 100.6)] : [low - pad, high + pad];
}

function describePoint(point) {
  const { kind } = state.panel;
  const setting = kind.settings[point.setting];
  const place = kind.keys.indexOf(state.figure);
  const pairs = [[kind.heads[place][0], point.text]];
  for (const key of ["val", "seeds", "trained", "stored", "step", "memory", "flops", "bytes", "time"]) {
    const cell = cellOf(kind, point.setting, key);
    if (cell) pairs.push([kind.heads[kind.keys.indexOf(key)][0], cell[1]]);
  }
  return [...pairs, ["Budget", [setting.epochs, setting.tried || "no search recorded"].join(", ")]];
}

function drawChart(room, open, below) {
  const width = Math.max(room, LEAST_WIDTH);
  const { kind } = state.panel;
  const { points, references } = collectPoints();
  const percent = /%$/.test(kind.heads[kind.keys.indexOf(state.figure)][0]);
  const head = kind.heads[kind.keys.indexOf(state.figure)][0];
  const bestTest = state.panel.lines.some((line) => line.points.some((each) => kind.settings[each].protocol === "best_test"));
  const several = [...points, ...references].some((point) => point.std > 0);
  const words = [
    several ? "Mean and standard deviation over seeds." : "One seed each: no spread is known.",
    kind.lower && state.figure === kind.keys[kind.figures[0]] ? "Lower is better." : "",
    bestTest ? "Hollow, with a star: the epoch was chosen on test, which makes figures too high." : "",
  ].filter(Boolean).join(" ");
  below.replaceChildren(words, make("span", { class: "screen" }, points.length ? " Arrow keys move between points, Enter opens one." : ""));
  if (!points.length && !references.length) return [make("p", { class: "empty" }, "Nothing to draw: every method is hidden or has no such figure.")];
  const narrow = width < 560;
  const height = (narrow ? 330 : 420) + (narrow ? LINE * references.length : 0);
  const [left, right, top, bottom] = [46, narrow ? 14 : 150, 26, narrow ? 46 + LINE * references.length : 46];
  const [low, high] = limits([...points, ...references].map((point) => [point.mean - point.std, point.mean + point.std]), percent);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const values = points.map((point) => point.x);
  let [least, most] = [Math.min(...values), Math.max(...values)];
  const log = PARAMETERS.includes(state.axis) || most / least > 10;
  if (log) {
    const pad = Math.max(1.4, Math.sqrt((10 * least) / most));
    [least, most] = [least / pad, most * pad];
  } else {
    const pad = 0.12 * (most - least) || 0.3 * most;
    [least, most] = [Math.max(0, least - pad), most + pad];
  }
  const scale = log ? Math.log : (value) => value;
  const x = (value) => left + 8 + ((scale(value) - scale(least)) / (scale(most) - scale(least))) * (width - left - right - 16);
  const picture = draw("svg", { class: "draw", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${head} against ${state.axis}, ${nameOf(state.panel)}` });
  picture.style.maxWidth = `${width}px`;
  for (const value of ticks(low, high, narrow ? 5 : 7)) {
    picture.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    const text = draw("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" });
    text.textContent = short(value);
    picture.append(text);
  }
  const title = draw("text", { class: "strong", x: 4, y: 12 });
  title.textContent = head;
  picture.append(title, draw("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
  if (points.length) {
    let free = -Infinity;
    for (const value of log ? logTicks(least, most) : ticks(least, most, narrow ? 4 : 8)) {
      if (x(value) - free < 34) continue;
      free = x(value);
      picture.append(draw("line", { class: "axis", x1: free, x2: free, y1: height - bottom, y2: height - bottom + 5 }));
      const text = draw("text", { x: free, y: height - bottom + 19, "text-anchor": "middle" });
      text.textContent = short(value);
      picture.append(text);
    }
  }
  const name = draw("text", { class: "strong", x: (left + width - right) / 2, y: height - bottom + 40, "text-anchor": "middle" });
  name.textContent = points.length ? AXES.find(([key]) => key === state.axis)[1] : "no method here has a value on this axis";
  picture.append(name);
  drawReferences(picture, references, { y, left, right, width, top, below: narrow ? height - bottom + 46 : null });
  for (const line of new Set(points.map((point) => point.line))) {
    const drawn = new Map(points.filter((point) => point.line === line && !line.reference).map((point) => [point.setting, point]));
    const own = line.points.map((setting) => drawn.get(setting)).filter(Boolean); // from size to size, whatever they cost
    if (own.length > 1) picture.append(draw("polyline", { class: `bare ${colour(line.colour)}`, "stroke-width": 1.8, "stroke-dasharray": dashes(line.colour), points: own.map((point) => `${x(point.x)},${y(point.mean)}`).join(" ") }));
  }
  const marks = points.map((point) => drawPoint(point, x(point.x), y, open));
  picture.append(...marks);
  rove(marks);
  return [picture];
}

function drawPoint(point, at, y, open) {
  const { kind } = state.panel;
  const hollow = kind.settings[point.setting].protocol === "best_test";
  const label = cellOf(kind, point.setting, "method")[0];
  const mark = draw("g", { class: `mark ${colour(point.line.colour)}`, role: "button", "aria-label": `${label}: ${point.text}` });
  if (point.std) mark.append(draw("line", { class: "bare", "stroke-width": 1.4, x1: at, x2: at, y1: y(point.mean - point.std), y2: Math.max(y(point.mean + point.std), 20) }));
  mark.append(draw("g", { class: hollow ? "hollow" : "ink", "stroke-width": hollow ? 2 : 0.5 }, shape(point.line.colour, at, y(point.mean), 6)),
    draw("circle", { class: "halo", cx: at, cy: y(point.mean), r: 11 }));
  const show = () => showTip(mark, label, describePoint(point));
  mark.addEventListener("pointerenter", show);
  mark.addEventListener("pointerleave", hideTip);
  mark.addEventListener("focus", show);
  mark.addEventListener("blur", hideTip);
  mark.addEventListener("click", () => open(kind, point.setting));
  mark.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(kind, point.setting); } });
  return mark;
}

// References are lines with their names beside them, apart from each other, or in a legend from `below` on downwards.
function drawReferences(picture, references, { y, left, right, width, top, below }) {
  const ordered = [...references].sort((a, b) => b.mean - a.mean);
  const heights = spread(ordered.map((point) => y(point.mean) + 4), top - 4);
  ordered.forEach((point, number) => {
    const at = y(point.mean);
    const dashed = { class: "bare", "stroke-width": 2, "stroke-dasharray": DASHES[point.line.reference] };
    const group = draw("g", { class: colour(point.line.colour) });
    if (point.std) group.append(draw("rect", { class: "ink", opacity: 0.12, "stroke-width": 0, x: left, width: width - left - right, y: y(point.mean + point.std), height: Math.max(0, y(point.mean - point.std) - y(point.mean + point.std)) }));
    group.append(draw("line", { ...dashed, x1: left, x2: width - right, y1: at, y2: at }),
      draw("circle", { class: "ink", cx: below ? left : width - right, cy: at, r: 2.5 }));
    const place = below ? { x: left + 30, y: below + (number + 0.8) * LINE } : { x: width - right + 6, y: heights[number] };
    if (below) group.append(draw("line", { ...dashed, x1: left, x2: left + 24, y1: place.y - 4, y2: place.y - 4 }));
    const text = draw("text", { ...place, class: "reference" });
    const name = point.line.label.split(" (")[0]; // the legend has all of it
    text.textContent = `${shorten(name, below ? 32 : 16)} ${short(point.mean)}`;
    const full = draw("title");
    full.textContent = `${point.line.label}: ${point.text}`;
    text.append(full);
    picture.append(group, text);
  });
}

// Move heights, the highest place first, apart by a line each: upwards, and down again where that is above `top`.
function spread(heights, top) {
  const found = [...heights];
  for (let place = found.length - 2; place >= 0; place -= 1) found[place] = Math.min(found[place], found[place + 1] - LINE);
  return found.map((height, place) => Math.max(height, top + place * LINE));
}
