// Put the page together.
const LIGHT = "light";
function setTheme(theme, keep) {
  document.documentElement.dataset.theme = theme;
  find("theme").textContent = theme === LIGHT ? "dark" : "light";
  try {
    if (keep) localStorage.setItem("theme", theme);
  } catch { /* a page that may not remember */ }
}
function startTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch { /* as above */ }
  setTheme(kept === LIGHT || kept === "dark" ? kept : dark.matches ? "dark" : LIGHT, false);
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : LIGHT, false));
  find("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === LIGHT ? "dark" : LIGHT, true));
}

function notesOf(texts) {
  return make("ul", { class: "notes" }, ...texts.map((text) => make("li", {}, text)));
}

function publishedCard() {
  return card("published", "Published figures", make("p", { class: "soft" }, "What the files of the experiments that were run say. They are not compared with the figures above: protocol, data and weights differ where the file says so."),
    ...DATA.published.map((about) => make("div", {}, make("h3", {}, about.name), make("p", {}, about.title),
      make("dl", { class: "facts" }, ...Object.entries(about).filter(([name]) => !["name", "title"].includes(name)).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])))));
}

function start() {
  startTheme();
  find("title").textContent = DATA.title;
  const details = detailsCard();
  const open = details.open;
  const chart = chartCard(open);
  const of = (kind) => DATA.kinds.length > 1 ? `${kind.title} (${kind.kind})` : "";
  const many = (name, caption) => DATA.kinds.map((kind) => settingTable(kind, name, caption(kind), open));
  const line = (...words) => words.filter(Boolean).join(". ");
  const results = many("results", (kind) => line(kind.title, kind.kind === "classes" ? "" : `Task: ${kind.kind}`, kind.shared, kind.lower ? "Lower is better" : ""));
  const costs = many("costs", (kind) => line(of(kind), kind.shared));
  const counts = many("parameters", (kind) => line(of(kind), kind.shared));
  const reused = DATA.kinds.some((kind) => kind.settings.some((setting) => setting.reused));
  const cards = [
    chart.card,
    curvesCard(),
    card("results", "Results", ...results),
    card("tasks", "Tasks and means", make("p", { class: "soft" }, "A row joins the settings of one method that differ only in task, data and what was tuned for each task. Means are over tasks, and over the means of groups."), ...DATA.kinds.map(reportTable)),
    card("costs", "Costs", ...costs, reused && make("p", { class: "soft" }, "† of what is behind features that were computed once")),
    card("parameters", "Parameters", ...counts),
    details.card,
    DATA.published.length && publishedCard(),
    card("notes", "Notes", notesOf(DATA.notes), ...DATA.kinds.map((kind) => make("div", {}, of(kind) && make("h3", {}, of(kind)), notesOf(kind.notes)))),
  ].filter(Boolean);
  find("main").replaceChildren(...cards);
  cards[1].after(filterCard());
  find("nav").append(...cards.map((each) => make("a", { href: `#${each.id}` }, each.querySelector("h2").textContent)));
  find("foot").textContent = "Made by vision-peft report from result.json alone. Nothing on this page is loaded from anywhere.";
  chart.enter();
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
}
start();
