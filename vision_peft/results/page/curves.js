// Learning curves of the chosen task: the figure on val, or the loss on train, over the epochs of every seed.
let drawCurves = () => {};

function curvesCard() {
  const box = make("div", { id: "curves-box" });
  const what = choice("watched", "Show", [["figure", "figure on val"], ["loss", "loss on train"]], (value) => {
    state.watched = value;
    drawCurves();
  });
  drawCurves = () => {
    const { kind, lines } = state.panel;
    const found = [];
    for (const line of lines) {
      if (state.hidden.has(line.label)) continue;
      for (const setting of line.points) {
        for (const curve of kind.settings[setting].curves || []) found.push({ curve, colour: line.colour, label: cellOf(kind, setting, "method")[0] });
      }
    }
    const column = state.watched === "loss" ? 2 : 3;
    box.replaceChildren(lineChart(box.clientWidth || 600, found, column, state.watched === "loss" ? "loss on train" : `on val: ${kind.heads[kind.figures[0]][0]}`));
  };
  follow(box, () => drawCurves());
  return card("curves", "Learning curves", make("div", { class: "controls" }, what), box,
    make("p", { class: "soft" }, "A line a seed, of the task and the methods that are shown above; of a solved head an “epoch” is a strength of its penalty."));
}

// A picture of curves [seed, epochs, losses, figures], of which `column` is drawn.
function lineChart(width, found, column, head) {
  const rows = found.flatMap(({ curve }) => curve[1].map((epoch, place) => [epoch, curve[column][place]])).filter(([a, b]) => a != null && b != null);
  if (!rows.length) return make("p", { class: "empty" }, "No curves recorded here: the runs have fewer than two epochs, or every method is hidden.");
  const height = width < 560 ? 260 : 320;
  const [left, right, top, bottom] = [46, 14, 26, 44];
  const last = Math.max(...rows.map(([epoch]) => epoch));
  const first = Math.min(...rows.map(([epoch]) => epoch));
  const [low, high] = limits(rows.map(([, value]) => [value, value]), false);
  const x = (epoch) => left + 6 + ((epoch - first) / (last - first || 1)) * (width - left - right - 12);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const picture = draw("svg", { class: "draw", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${head} by epoch, ${found.length} curves` });
  const put = (given, words) => {
    const text = draw("text", given);
    text.textContent = words;
    picture.append(text);
  };
  for (const value of ticks(low, high, 5)) {
    picture.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    put({ x: left - 7, y: y(value) + 4, "text-anchor": "end" }, short(value));
  }
  for (const value of ticks(first, last, width < 560 ? 5 : 10)) if (Number.isInteger(value)) put({ x: x(value), y: height - bottom + 18, "text-anchor": "middle" }, String(value));
  put({ class: "strong", x: 4, y: 12 }, head);
  put({ class: "strong", x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, "epoch");
  for (const each of found) {
    const points = each.curve[1].map((epoch, place) => [epoch, each.curve[column][place]]).filter(([a, b]) => a != null && b != null);
    const line = draw("polyline", { class: `bare ${colour(each.colour)}`, "stroke-width": 1.8, points: points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" ") });
    line.append(draw("title"));
    line.firstChild.textContent = `${each.label}, seed ${each.curve[0]}`;
    picture.append(line);
  }
  return picture;
}
