// Learning curves of the chosen task: the figure on val, or the loss on train, over the epochs of every seed.
const MOST_TIMES = 4; // that the longest training may have of the epochs of the shortest, to be drawn against epochs
let drawCurves = () => {};

function curvesCard() {
  const box = make("div", { id: "curves-box" });
  const note = make("p", { class: "soft", id: "curves-note" });
  const chosen = make("p", { class: "chosen" });
  const what = choice("watched", "Show", [["figure", "figure on val"], ["loss", "loss on train"]], (value) => {
    state.watched = value;
    drawCurves();
  });
  drawCurves = () => {
    const { kind, lines } = state.panel;
    const [found, solved] = [[], new Set()];
    for (const line of lines) {
      if (state.hidden.has(line.label)) continue;
      for (const setting of line.points) {
        const { curves, along, planned } = kind.settings[setting];
        const label = cellOf(kind, setting, "method")[0];
        if (along) solved.add(label);
        else for (const curve of curves || []) found.push({ curve, planned, colour: line.colour, label });
      }
    }
    const loss = state.watched === "loss";
    const head = loss ? "loss on train" : `on val: ${kind.heads[kind.figures[0]][0]}`;
    const { picture, lengths } = lineChart(box.clientWidth || 600, found, loss ? 2 : 3, head);
    box.replaceChildren(picture);
    note.textContent = [
      "A line a seed, of the task and the methods that are shown above.",
      differ(lengths) ? `The trainings have ${Math.min(...lengths)} to ${Math.max(...lengths)} epochs: lines are drawn against the share of each.` : "",
      solved.size ? `Without ${[...solved].join(", ")}, which have no epochs: what they tried is under One setting.` : "",
    ].filter(Boolean).join(" ");
    tellChosen(chosen, [["Task", nameOf(state.panel)], ["Shown", loss ? "loss on train" : "figure on val"]]);
  };
  follow(box, () => drawCurves());
  return card("curves", "Learning curves", make("div", { class: "controls" }, what), chosen, box, note);
}

const differ = (lengths) => Math.max(...lengths) > MOST_TIMES * Math.min(...lengths);

// What curves [{points, along, length}] are drawn against: epochs, the share of the training, penalties or k.
function axisOf(shown) {
  if (shown[0].along) return { name: shown[0].along, log: shown.every(({ points }) => points.every(([at]) => at > 0)) };
  return differ(shown.map(({ length }) => length)) ? { name: "share of the training (%)", share: true } : { name: "epoch" };
}

// A picture of curves [seed, epochs, losses, figures], of which `column` is drawn; gives their lengths in epochs, too.
function lineChart(room, found, column, head) {
  const width = Math.max(room, LEAST_WIDTH);
  const shown = found.map((each) => ({
    ...each,
    points: each.curve[1].map((at, place) => [at, each.curve[column][place]]).filter(([at, value]) => at != null && value != null),
    length: Math.max(each.planned, ...each.curve[1]),
  })).filter(({ points }) => points.length);
  if (!shown.length) return { picture: make("p", { class: "empty" }, "No curves recorded here: the runs have fewer than two epochs, or every method is hidden."), lengths: [] };
  const axis = axisOf(shown);
  for (const each of shown) if (axis.share) each.points = each.points.map(([at, value]) => [(100 * at) / each.length, value]);
  const rows = shown.flatMap(({ points }) => points);
  const height = width < 560 ? 260 : 320;
  const [left, right, top, bottom] = [46, 14, 26, 44];
  const last = axis.share ? 100 : Math.max(...rows.map(([at]) => at));
  const first = axis.share ? 0 : Math.min(...rows.map(([at]) => at));
  const [low, high] = limits(rows.map(([, value]) => [value, value]), false);
  const scale = axis.log ? Math.log : (value) => value;
  const x = (at) => left + 6 + ((scale(at) - scale(first)) / (scale(last) - scale(first) || 1)) * (width - left - right - 12);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const picture = draw("svg", { class: "draw", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${head} by ${axis.name}, ${shown.length} curves` });
  picture.style.maxWidth = `${width}px`;
  const put = (given, words) => {
    const text = draw("text", given);
    text.textContent = words;
    picture.append(text);
  };
  for (const value of ticks(low, high, 5)) {
    picture.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    put({ x: left - 7, y: y(value) + 4, "text-anchor": "end" }, short(value));
  }
  const marks = axis.log ? logTicks(first, last) : ticks(first, last, width < 560 ? 5 : 10).filter(Number.isInteger);
  let free = -Infinity;
  for (const value of marks) {
    if (x(value) - free < 34) continue;
    free = x(value);
    put({ x: free, y: height - bottom + 18, "text-anchor": "middle" }, short(value));
  }
  put({ class: "strong", x: 4, y: 12 }, head);
  put({ class: "strong", x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, axis.name);
  for (const each of shown) {
    const line = draw("polyline", { class: `bare ${colour(each.colour)}`, "stroke-width": 1.8, "stroke-dasharray": dashes(each.colour), points: each.points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ") });
    line.append(draw("title"));
    line.firstChild.textContent = `${each.label}, seed ${each.curve[0]}${each.along ? "" : `, ${each.length} epochs`}`;
    picture.append(line);
  }
  return { picture, lengths: shown.map(({ length }) => length) };
}
