"use strict";

// The theme: that of the system, until the button is pressed.
const root = document.documentElement;
const theme = document.getElementById("theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
theme.hidden = false;
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
dark.addEventListener("change", showTheme);
showTheme();

// What a mark says, beside it. Screen readers read the label of the mark instead.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);
let marked = null;

function hide() {
  marked?.classList.remove("here");
  marked = null;
  tip.hidden = true;
}

function show(mark) {
  if (mark !== marked) {
    hide();
    marked = mark;
    mark.classList.add("here");
    tip.textContent = mark.dataset.tip || mark.getAttribute("aria-label");
  }
  tip.hidden = false;
  const box = mark.getBoundingClientRect();
  const left = box.left + box.width / 2 - tip.offsetWidth / 2;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 4))}px`;
  const above = box.top - tip.offsetHeight - 8;
  tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
}

// Charts: the mark nearest to the pointer, and arrow keys from mark to mark. One tab stop each.
for (const chart of document.querySelectorAll("svg[data-near]")) {
  const marks = [...chart.querySelectorAll(".mark")];
  const near = chart.dataset.near;
  const visible = () => marks.filter((mark) => !chart.classList.contains("faded") || mark.classList.contains("chosen"));
  const distance = (mark, x, y) =>
    (near === "y" ? 0.01 : 1) * Math.abs(mark.dataset.x - x) + (near === "x" ? 0.01 : 1) * Math.abs(mark.dataset.y - y);
  marks.forEach((mark, i) => mark.setAttribute("tabindex", i ? "-1" : "0"));
  chart.addEventListener("pointermove", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    let best = null;
    let least = near === "xy" ? 24 : Infinity;
    for (const mark of visible()) {
      const d = distance(mark, point.x, point.y);
      if (d < least) [best, least] = [mark, d];
    }
    if (best) show(best);
    else hide();
  });
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("focusin", (event) => {
    if (event.target.matches(":focus-visible")) show(event.target);
  });
  chart.addEventListener("focusout", hide);
  chart.addEventListener("keydown", (event) => {
    const list = visible();
    const at = list.indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -list.length, End: list.length };
    if (event.key === "Escape") hide();
    if (!(event.key in steps) || at < 0) return;
    event.preventDefault();
    const next = list[Math.max(0, Math.min(at + steps[event.key], list.length - 1))];
    document.activeElement.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}

// Cells of a matrix show what they count.
for (const cell of document.querySelectorAll("td[data-tip]")) {
  cell.addEventListener("pointerenter", () => show(cell));
  cell.addEventListener("pointerleave", hide);
}
addEventListener("scroll", hide, { passive: true });

// Tables that sort by the column whose title is pressed. Cells without a key stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const isNumber = head.classList.contains("number");
    const key = (row) => row.cells[column].dataset.key;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const order = before ? (before === "ascending" ? "descending" : "ascending") : isNumber ? "descending" : "ascending";
      const sign = order === "ascending" ? 1 : -1;
      const compare = (a, b) => (isNumber ? a - b : a.localeCompare(b, "en", { numeric: true }));
      const rows = [...body.rows];
      rows.sort((a, b) => {
        if (key(a) === undefined || key(b) === undefined) return (key(a) === undefined) - (key(b) === undefined);
        return sign * compare(key(a), key(b));
      });
      body.append(...rows);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
    });
  });
}

// Keys of a scatter plot: press one to see its class alone.
for (const key of document.querySelectorAll(".key button")) {
  key.addEventListener("click", () => {
    const chart = document.getElementById(key.dataset.chart);
    const on = key.getAttribute("aria-pressed") !== "true";
    key.setAttribute("aria-pressed", String(on));
    const pressed = document.querySelectorAll(`.key button[data-chart="${chart.id}"][aria-pressed="true"]`);
    const chosen = new Set([...pressed].map((button) => button.dataset.class));
    chart.classList.toggle("faded", chosen.size > 0);
    for (const mark of chart.querySelectorAll(".mark")) {
      mark.classList.toggle("chosen", chosen.has(mark.dataset.class));
    }
    const first = chart.querySelector(chosen.size ? ".mark.chosen" : ".mark");
    chart.querySelectorAll(".mark").forEach((mark) => mark.setAttribute("tabindex", mark === first ? "0" : "-1"));
  });
}
