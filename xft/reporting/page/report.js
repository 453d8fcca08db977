"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const charts = JSON.parse(document.getElementById("charts").textContent);
const options = {
  actions: false,
  ast: true, // without `eval`, which the page's policy forbids
  renderer: "svg",
  config: dark ? { background: null, axis: { labelColor: "#dde4ea", titleColor: "#dde4ea", gridColor: "#37414c" }, legend: { labelColor: "#dde4ea", titleColor: "#dde4ea" }, view: { stroke: "#37414c" }, rule: { color: "#dde4ea" } } : {},
};
const draw = (place, number) => {
  const spec = charts[number], { axisY, legend } = spec.config, y = spec.encoding.y;
  axisY.labelLimit = Math.min(axisY.labelLimit, 0.5 * place.clientWidth);
  legend.labelLimit = Math.min(legend.labelLimit, place.clientWidth - 60);
  const names = y.type === "nominal" ? spec.data.values.map((value) => value[y.field]) : [];
  if (Math.max(0, ...names.map((name) => name.length)) > axisY.labelLimit / 7) {
    // A line for each part of a pair; in a narrow chart for each of `sft`, `(a,`, `rate=1)`, `vs base`.
    const gaps = place.clientWidth > 600 ? " (?=vs )" : " (?=vs |[(])|(?<=,) ";
    const lines = names.map((name) => name.split(new RegExp(gaps)).length);
    y.axis = { labelExpr: `split(datum.label, regexp('${gaps}'))` };
    spec.height = (8 + 14 * Math.max(...lines)) * new Set(names).size;
  }
  vegaEmbed(place, spec, options).catch((error) => {
    place.textContent = `This chart could not be drawn: ${error.message}`;
  });
};
// A folded chart has no width: it is drawn when it is opened.
document.querySelectorAll(".chart").forEach((place, number) => {
  const folded = place.closest("details");
  if (folded) folded.addEventListener("toggle", () => draw(place, number), { once: true });
  else draw(place, number);
});
const number = (text) => parseFloat(text.replace(/[^0-9.+-]/g, " "));
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = heading.closest("table").tBodies[0];
    const compare = (a, b) => {
      const [x, y] = [a, b].map((row) => row.cells[heading.cellIndex].textContent);
      const [m, n] = [number(x), number(y)];
      const order = Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
      return ascending ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
