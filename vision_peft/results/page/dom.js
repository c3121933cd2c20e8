const find = (id) => document.getElementById(id);

// Unpack the data: JSON, packed by gzip, as base64.
async function readData() {
  if (!("DecompressionStream" in window)) {
    const sentence = "This page needs a browser of May 2023 or later: Chrome, Edge, Firefox or Safari. The same figures as text: vision-peft report RUNS --out report.md";
    throw Object.assign(new Error("no DecompressionStream"), { sentence });
  }
  try {
    const packed = Uint8Array.from(atob(find("data").textContent), (letter) => letter.charCodeAt(0));
    return await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  } catch (error) {
    console.error(error);
    throw new Error("its data cannot be unpacked"); // what browsers say is that something was not fetched
  }
}

const DATA = await readData();
const MARKS = 8; // shapes of points
const COLOURS = 16;
const LEAST_WIDTH = 240; // of a picture: in less room it is scaled down

// Make an element. Children are elements or text, which is shown as it stands; properties in `given` are attributes.
function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

function draw(tag, given = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) if (value != null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function card(id, title, ...children) {
  return make("section", { class: "card", id, "aria-labelledby": `${id}-title` },
    make("h2", { id: `${id}-title` }, title), ...children);
}

// A labelled choice of [value, text] pairs; `changed` gets the value.
function choice(id, label, pairs, changed) {
  const select = make("select", { id, onchange: () => changed(select.value) },
    ...pairs.map(([value, text]) => make("option", { value }, text)));
  return make("label", {}, label, select);
}

// Tell in `line`, which stands on paper in place of controls, the [name, text] pairs that are chosen.
function tellChosen(line, pairs) {
  line.textContent = pairs.filter(([, text]) => text).map(([name, text]) => `${name}: ${text}`).join(". ");
}

const chosenText = (label) => label.querySelector("select").selectedOptions[0].textContent;

function fill(select, pairs) {
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value }, text)));
  if (pairs.some(([value]) => String(value) === before)) select.value = before;
}

// The shape of a point, twice as wide as `r`: with 8 shapes and 16 colours no two of 16 lines look alike.
function shape(number, x, y, r) {
  const at = (points) => `M${points.map(([dx, dy]) => `${(x + dx * r).toFixed(1)} ${(y + dy * r).toFixed(1)}`).join("L")}Z`;
  const star = Array.from({ length: 10 }, (_, i) => {
    const [turn, far] = [(i * Math.PI) / 5, i % 2 ? 0.5 : 1.25];
    return [far * Math.sin(turn), -far * Math.cos(turn)];
  });
  const hexagon = Array.from({ length: 6 }, (_, i) => [1.05 * Math.cos((i * Math.PI) / 3), 1.05 * Math.sin((i * Math.PI) / 3)]);
  const [a, b] = [0.38, 1.1];
  const cross = [[-a, -b], [a, -b], [a, -a], [b, -a], [b, a], [a, a], [a, b], [-a, b], [-a, a], [-b, a], [-b, -a], [-a, -a]];
  const shapes = [
    null,
    at([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
    at([[0, -1.2], [1.1, 0.8], [-1.1, 0.8]]),
    at([[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]]),
    at([[0, 1.2], [1.1, -0.8], [-1.1, -0.8]]),
    at(cross),
    at(star),
    at(hexagon),
  ];
  const which = (number + Math.floor(number / COLOURS)) % MARKS;
  return which ? draw("path", { d: shapes[which] }) : draw("circle", { cx: x, cy: y, r });
}

// Cut the middle of a long text: names of classes often differ at their end.
function shorten(text, most) {
  const letters = [...text];
  const end = Math.floor((most - 1) / 2);
  return letters.length > most ? `${letters.slice(0, most - 1 - end).join("")}…${letters.slice(-end).join("")}` : text;
}

const colour = (number) => `c${number % COLOURS}`;

// Dashes of a line: none for the first methods that have a colour, others for those that share one.
const dashes = (number) => ["none", "7 3", "2 2"][Math.min(Math.floor(number / COLOURS), 2)];

// Round steps between two numbers, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const digits = decades > 3.2 ? [1] : decades > 1.3 ? [1, 3] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const digit of digits) {
      const value = digit * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

function short(value) {
  for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (Math.abs(value) >= limit) return `${Number((value / limit).toPrecision(3))}${unit}`;
  const digits = Number(value.toPrecision(3));
  return value && Math.abs(value) < 1e-3 ? digits.toExponential() : String(digits);
}

const tip = find("tip");
function showTip(target, title, pairs) {
  tip.replaceChildren(make("strong", {}, title), make("dl", {}, ...pairs.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])));
  tip.hidden = false;
  const box = target.getBoundingClientRect();
  const own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.x + box.width / 2 - own.width / 2), document.documentElement.clientWidth - own.width - 8);
  const above = box.y - own.height - 10;
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${(above > 4 ? above : box.bottom + 10) + window.scrollY}px`;
}
function hideTip() {
  tip.hidden = true;
}

// Let arrow keys move between the marks of a picture, of which one takes the tab key.
function rove(marks) {
  marks.forEach((mark, place) => {
    mark.setAttribute("tabindex", place ? -1 : 0);
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = marks[(place + step + marks.length) % marks.length];
      mark.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  });
}

// Draw again whenever the width of `box` changes.
function follow(box, redraw) {
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(box.clientWidth - width) < 2) return;
    width = box.clientWidth;
    redraw();
  }).observe(box);
}
