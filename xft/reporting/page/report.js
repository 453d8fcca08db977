"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const charts = JSON.parse(document.getElementById("charts").textContent);
const options = {
  actions: false,
  ast: true, // without `eval`, which the page's policy forbids
  renderer: "svg",
  config: dark ? { background: null, axis: { labelColor: "#dde4ea", titleColor: "#dde4ea", gridColor: "#37414c" }, legend: { labelColor: "#dde4ea", titleColor: "#dde4ea" }, view: { stroke: "#37414c" } } : {},
};
// A name in lines of at most so many letters, if its words are not longer.
const wrap = (name, most) => name.split(/(?<= )(?<!vs )/).flatMap((word) => word.length > most ? word.split(/(?<=[/_])/) : word).reduce(([...lines], word) => {
  if ((lines.at(-1) + word).trimEnd().length > most) lines.push(word);
  else lines[lines.length - 1] += word;
  return lines;
}, [""]).filter(Boolean);
const draw = (place, number) => {
  const spec = charts[number], { axisY } = spec.config, y = spec.encoding.y;
  if (y.type === "nominal") {
    axisY.labelLimit = 0.5 * place.clientWidth;
    const names = [...new Set(spec.data.values.map((value) => value[y.field]))];
    const lines = Object.fromEntries(names.map((name) => [name, wrap(name, axisY.labelLimit / 7)]));
    y.axis = { labelExpr: `(${JSON.stringify(lines)})[datum.label]` };
    const most = Math.max(...Object.values(lines).map((found) => found.length));
    if (most > 1) spec.height = Math.max(spec.height, (8 + 14 * most) * names.length);
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
// The number that a cell begins with, as in `1,234`, `38.4 % (32.2 to 45.1)` and `(7)`; else NaN.
const NUMBER = /^[(\s]*(<?)\s*([-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)(?![\w.])/;
const number = (text) => {
  const [, below, digits] = text.match(NUMBER) ?? [];
  const value = parseFloat(digits?.replaceAll(",", ""));
  return below ? value / 2 : value; // `< 0.001` lies between 0 and 0.001
};
// Texts come before numbers.
const order = (x, y) => {
  const [m, n] = [number(x), number(y)];
  const areTexts = Number(Number.isNaN(n)) - Number(Number.isNaN(m));
  return areTexts || m - n || x.localeCompare(y, undefined, { numeric: true });
};
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = heading.closest("table").tBodies[0];
    const compare = (a, b) => {
      const [x, y] = [a, b].map((row) => row.cells[heading.cellIndex].textContent);
      return ascending ? order(x, y) : order(y, x);
    };
    body.append(...[...body.rows].sort(compare));
  });
}
