// One setting in detail: its runs with their commands, learning curve, confusions, hardest items, fields.
function detailsCard() {
  const box = make("div", { id: "detail" });
  const chosen = make("p", { class: "chosen" });
  const all = DATA.kinds.flatMap((kind, of) => kind.settings.map((setting, number) => ({ kind, number, of })));
  const names = all.map(({ kind, number }, place) => {
    const [method, task, size] = ["method", "task", "size"].map((key) => cellOf(kind, number, key)[1]);
    return [place, `${task}, ${size}: ${method}`];
  });
  const select = choice("setting", "Setting", names, (value) => show(all[value]));
  function show({ kind, number }) {
    const pictures = []; // [place, what draws it at a width], once the places are laid out
    box.replaceChildren(...detailsOf(kind, number, pictures));
    for (const [place, drawAt] of pictures) place.append(drawAt(place.clientWidth));
    tellChosen(chosen, [["Setting", `${chosenText(select)}, ${kind.settings[number].protocol}`]]);
  }
  function open(kind, number) {
    const place = all.findIndex((each) => each.kind === kind && each.number === number);
    select.querySelector("select").value = place;
    show(all[place]);
    const heading = find("detail-title");
    heading.focus({ preventScroll: true });
    find("one").scrollIntoView({ block: "start" });
  }
  show(all[0]);
  follow(box, () => show(all[select.querySelector("select").value]));
  return { card: card("one", "One setting", make("div", { class: "controls" }, select), chosen, box), open };
}

const facts = (pairs) => make("dl", { class: "facts" }, ...pairs.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));

// A place for a picture of the width that it has; a wider picture scrolls in it.
function fit(pictures, drawAt) {
  const place = make("div", { class: "fit" });
  pictures.push([place, drawAt]);
  return place;
}

function detailsOf(kind, number, pictures) {
  const setting = kind.settings[number];
  const label = cellOf(kind, number, "method")[1];
  const figure = kind.heads[kind.figures[0]][0];
  const parts = [make("h3", { id: "detail-title", tabindex: -1 }, `${label} on ${cellOf(kind, number, "task")[1]}`), make("p", {}, ...badgesOf(setting))];
  parts.push(...(setting.runs || []).flatMap(([seed, value, epoch, command]) => [
    make("p", { class: "soft" }, `seed ${seed}: ${figure} ${value}${epoch == null ? "" : `, epoch ${epoch}`}`), commandOf(command)]));
  if (setting.more_runs) parts.push(make("p", { class: "soft" }, `${setting.more_runs} more runs are not listed`));
  const missing = (title, why) => make("div", {}, make("h3", {}, title), make("p", { class: "empty" }, why));
  const seen = [
    setting.curves ? curvesOf(setting, figure, label, pictures) : missing("Learning curve", "none recorded with two epochs or more"),
    setting.confusion ? confusionOf(setting.confusion, pictures) : missing("Confusion matrix", "none recorded"),
  ];
  const tables = [setting.hardest ? hardestOf(setting) : missing("Hardest items", "none recorded: rows of earlier versions and of other tasks than classes have none")];
  if (setting.searched && setting.searched.length) tables.push(make("div", {}, make("h3", {}, "Tried on val"), facts(setting.searched)));
  if (setting.fields) tables.push(make("div", {}, make("h3", {}, "Settings"), facts(setting.fields)), make("div", {}, make("h3", {}, "Made with"), make("ul", { class: "notes" }, ...setting.made.map((text) => make("li", {}, text)))));
  return [...parts, make("div", { class: "pair" }, make("div", {}, ...seen), make("div", {}, ...tables))];
}

// What val and train said over the epochs, or along the penalties or k that were tried.
function curvesOf({ curves, planned, along }, figure, label, pictures) {
  const found = curves.map((curve, place) => ({ curve, planned, along, colour: place, label }));
  return make("div", {}, make("h3", {}, along ? `Tried on val: ${along}` : "Learning curve"), ...(along === "k" ? [3] : [3, 2]).map((column) =>
    fit(pictures, (room) => lineChart(Math.min(room, 640), found, column, column === 3 ? `on val: ${figure}` : "loss on train").picture)), make("p", { class: "soft" }, "A line a seed."));
}

function commandOf(command) {
  if (!command) return make("p", { class: "empty" }, "the command is too long for this page: it is in result.json");
  const code = make("pre", { tabindex: 0 }, command);
  const copy = make("button", { type: "button", class: "copy", onclick: async () => {
    try {
      await navigator.clipboard.writeText(command);
      copy.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code); // where a page may not write to the clipboard
      copy.textContent = "selected";
    }
  } }, "copy");
  return make("div", { class: "command" }, code, copy);
}

function confusionOf({ classes, counts, pairs, unit, seeds }, pictures) {
  const parts = [make("h3", {}, `Confusion matrix (${unit}${seeds > 1 ? `, sum of ${seeds} seeds` : ""})`)];
  if (classes) parts.push(fit(pictures, (room) => drawMatrix(classes, counts, Math.min(room, 620))));
  parts.push(make("h3", {}, "Most often mixed up"));
  parts.push(pairs.length ? make("div", { class: "fit" }, make("table", { class: "pairs" }, make("thead", {}, make("tr", {}, ...["true", "answered", unit].map((head) => make("th", { scope: "col" }, make("span", { class: "plain" }, head))))),
    make("tbody", {}, ...pairs.slice(0, 10).map(([count, truth, answer]) => make("tr", {}, make("td", { class: "text" }, truth), make("td", { class: "text" }, answer), make("td", { class: "number" }, count.toLocaleString("en"))))))) : make("p", { class: "empty" }, "nothing is mixed up"));
  return make("div", {}, ...parts);
}

const LONGEST_CLASS = 14; // letters of the name of a class beside a matrix

function drawMatrix(classes, counts, room) {
  const size = classes.length;
  const longest = Math.min(LONGEST_CLASS, Math.max(...classes.map((name) => name.length)));
  const left = Math.max(50, 24 + longest * 6.6);
  const cell = Math.max(10, Math.min(34, (room - left - 4) / size));
  const [width, height] = [left + size * cell + 4, 18 + size * cell + longest * 6.6 + 20];
  const picture = draw("svg", { class: "draw", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `Confusion matrix of ${size} classes, true by row, answered by column` });
  picture.style.width = `${width}px`;
  const nameIt = (text, name) => {
    text.textContent = shorten(name, LONGEST_CLASS);
    text.append(draw("title"));
    text.lastChild.textContent = name;
  };
  const most = counts.map((row) => Math.max(1, row.reduce((sum, count) => sum + count, 0)));
  const marks = [];
  classes.forEach((name, i) => {
    const true_ = draw("text", { x: left - 6, y: 18 + (i + 0.5) * cell + 4, "text-anchor": "end" });
    nameIt(true_, name);
    const [at, under] = [left + (i + 0.5) * cell, 24 + size * cell];
    const turned = { x: at + 4, y: under, "text-anchor": "end", transform: `rotate(-90 ${at + 4} ${under})` };
    const answered = draw("text", longest > 2 ? turned : { x: at, y: under + 9, "text-anchor": "middle" });
    nameIt(answered, name);
    if (cell >= 12 || i % 2 === 0) picture.append(true_, answered);
    counts[i].forEach((count, j) => {
      const share = count / most[i];
      const mark = draw("g", { class: "mark", role: "img", "aria-label": `${name} answered as ${classes[j]}: ${count}` });
      const box = draw("rect", { x: left + j * cell, y: 18 + i * cell, width: cell - 1, height: cell - 1, class: "halo" });
      box.style.fill = count ? `rgba(var(--heat), ${(0.1 + 0.9 * share).toFixed(3)})` : "var(--back)";
      mark.append(box);
      if (cell >= 24 && count) {
        const text = draw("text", { x: left + (j + 0.5) * cell, y: 18 + (i + 0.5) * cell + 4, "text-anchor": "middle" });
        text.style.fill = share > 0.8 ? "var(--onhigh)" : "var(--onlow)"; // where black and white change places
        text.textContent = short(count);
        mark.append(text);
      }
      const show = () => showTip(mark, `${name} → ${classes[j]}`, [["items", count.toLocaleString("en")], ["of this class", `${(100 * share).toFixed(1)} %`]]);
      mark.addEventListener("pointerenter", show);
      mark.addEventListener("pointerleave", hideTip);
      mark.addEventListener("focus", show);
      mark.addEventListener("blur", hideTip);
      marks.push(mark);
    });
  });
  const [truth, answer] = [draw("text", { x: left - 6, y: 12, "text-anchor": "end" }), draw("text", { x: left, y: 12 })];
  truth.textContent = "true ↓";
  answer.textContent = "answered →";
  picture.append(truth, answer, ...marks);
  rove(marks);
  return picture;
}

function hardestOf(setting) {
  const pictures = setting.hardest.some((line) => line[5]);
  return make("div", {}, make("h3", {}, "Hardest items"), make("p", { class: "soft" }, "Answered wrongly and surely; those of most seeds first."),
    make("ol", { class: `hard${pictures ? " pictures" : ""}` }, ...setting.hardest.map(([item, truth, answer, sure, seeds, image]) => make("li", {},
      image && image.startsWith("data:image/") && make("img", { src: image, alt: `${item}, true: ${truth}` }),
      make("strong", {}, answer), ` ${(100 * sure).toFixed(0)} %, true: ${truth}`, make("div", { class: "soft" }, item, setting.of_seeds > 1 ? ` · wrong with ${seeds} of ${setting.of_seeds} seeds` : "")))));
}
