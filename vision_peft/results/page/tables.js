// Tables that sort by their heads, and the one filter that acts on all tables of settings.
const PROTOCOLS = {
  val_select: ["val_select", "good", "val chooses the epoch"],
  val_select_retrain: ["val_select_retrain", "good", "val chooses, then training on train and val"],
  last_epoch: ["last_epoch", "", "the last epoch: nothing is chosen"],
  best_test: ["best_test", "warn", "the epoch was chosen on test: not comparable with the others"],
};
const badge = (text, kind, title) => make("span", { class: `badge ${kind}`, title }, text);

function badgesOf(setting) {
  const [text, kind, title] = PROTOCOLS[setting.protocol];
  return [
    badge(text, kind, title),
    badge(setting.epochs, "", "planned length of the schedule"),
    setting.tried ? badge(setting.tried, "", "values that a search compared on val") : badge("no search recorded", "", ""),
    setting.early && badge("earlier version", "warn", "the row recorded only some settings"),
    setting.lost && badge(setting.lost, "warn", "seeds that have not finished"),
  ].filter(Boolean);
}

function compare(a, b) {
  if (a == null || b == null) return (a == null) - (b == null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
}

// A table: columns [{head, hint, number}], rows [{keys, cells}], of which keys are sorted by, empty ones last.
function table(caption, columns, rows) {
  const body = make("tbody");
  const sorted = { column: -1, down: false };
  const kinds = columns.map((column, place) => {
    if (column.number) return "number";
    return rows.some(({ cells }) => typeof cells[place] === "string" && cells[place].length > 26) ? "text long" : "text";
  });
  const heads = columns.map((column, place) => {
    const button = make("button", { type: "button", title: column.hint || null, onclick: () => sort(place) }, column.head);
    return make("th", { scope: "col", class: column.number ? "number" : "text" }, column.plain ? make("span", { class: "plain" }, column.head) : button);
  });
  function sort(place) {
    sorted.down = sorted.column === place ? !sorted.down : columns[place].number;
    sorted.column = place;
    heads.forEach((head, other) => other === place ? head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    const order = [...rows].sort((a, b) => {
      const [first, second] = [a.keys[place], b.keys[place]];
      return first == null || second == null ? compare(first, second) : (sorted.down ? -1 : 1) * compare(first, second);
    });
    body.append(...order.map((row) => row.line));
  }
  for (const row of rows) {
    row.line = make("tr", {}, ...row.cells.map((cell, place) => place
      ? make("td", { class: kinds[place] }, ...(Array.isArray(cell) ? cell : [cell]))
      : make("th", { scope: "row" }, cell)));
  }
  body.append(...rows.map((row) => row.line));
  const whole = make("table", { class: "wide" }, make("thead", {}, make("tr", {}, ...heads)), body);
  return make("div", {}, caption && make("p", { class: "soft" }, caption), make("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": caption || "table" }, whole));
}

const FILTERED = []; // {line, setting, text}

function settingTable(kind, name, caption, open) {
  const places = kind.tables[name];
  const columns = places.map((place) => ({ head: kind.heads[place][0], hint: kind.heads[place][1], number: !kind.texts.includes(place) }));
  if (name === "results") columns.push({ head: "Protocol and budget", hint: "how the epoch was chosen, planned epochs, values that a search tried" });
  const rows = kind.settings.map((setting, number) => {
    const cells = places.map((place) => setting.cells[place]);
    const keys = cells.map((cell) => cell && cell[0]);
    const shown = cells.map((cell, place) => {
      if (!cell) return "–";
      if (!place) return make("button", { type: "button", title: "show this setting in detail", onclick: () => open(kind, number) }, cell[1]);
      return name === "costs" && setting.reused && ["step", "rate"].includes(kind.keys[places[place]]) ? `${cell[1]} †` : cell[1];
    });
    if (name === "results") {
      keys.push(`${setting.protocol} ${setting.epochs} ${setting.tried}`);
      shown.push(badgesOf(setting));
    }
    return { keys, cells: shown, setting, kind };
  });
  const made = table(caption, columns, rows);
  for (const { line, setting } of rows) {
    const words = [setting.name, setting.protocol, setting.epochs, setting.tried || "no search recorded", setting.lost, ...setting.cells.flatMap((cell, place) => cell && kind.texts.includes(place) ? [cell[1]] : [])];
    FILTERED.push({ line, setting, kind, results: name === "results", task: setting.cells[kind.keys.indexOf("task")][1], text: words.join(" ").toLowerCase() });
  }
  return made;
}

function filterCard() {
  const count = make("p", { class: "soft", id: "count", role: "status" });
  const chosen = make("p", { class: "chosen" });
  const wanted = { text: "", task: "", protocol: "", search: "" };
  const act = () => {
    let [shown, all] = [0, 0];
    for (const row of FILTERED) {
      const fits = wanted.text.toLowerCase().split(/\s+/).every((word) => row.text.includes(word))
        && (!wanted.task || row.task === wanted.task)
        && (!wanted.protocol || row.setting.protocol === wanted.protocol)
        && (!wanted.search || Boolean(row.setting.tried) === (wanted.search === "yes"));
      row.line.hidden = !fits;
      if (row.results) [shown, all] = [shown + fits, all + 1];
    }
    count.textContent = shown === all ? `${all} setting${all === 1 ? "" : "s"}` : `${shown} of ${all} settings`;
    const search = { yes: "searched on val", no: "no search recorded" }[wanted.search];
    tellChosen(chosen, [["Tables filtered by", wanted.text], ["Task", wanted.task], ["Protocol", wanted.protocol], ["Search", search]]);
  };
  const pick = (name) => (value) => { wanted[name] = value; act(); };
  const every = (values) => [["", "all"], ...[...new Set(values)].map((value) => [value, value])];
  const input = make("input", { id: "filter", type: "search", placeholder: "method, task, budget …", oninput: () => pick("text")(input.value) });
  const settings = FILTERED.filter((row) => row.results);
  act();
  return make("div", { class: "card", role: "search", "aria-label": "Filter of all tables of settings" },
    make("div", { class: "controls" }, make("label", {}, "Filter the tables", input),
      choice("filter-task", "Task", every(settings.map((row) => row.task)), pick("task")),
      choice("filter-protocol", "Protocol", every(settings.map((row) => row.setting.protocol)), pick("protocol")),
      choice("filter-search", "Search", [["", "all"], ["yes", "searched on val"], ["no", "no search recorded"]], pick("search"))), chosen, count);
}

// The table of the Markdown report: a column a task, with the means of groups and of the whole both ways.
function reportTable(kind) {
  const { columns, cells, title } = kind.report;
  const rows = cells.map((row) => ({ keys: row.map(([key]) => key), cells: row.map(([, text]) => text) }));
  return table(title, columns.map(([head, number]) => ({ head, number })), rows);
}
