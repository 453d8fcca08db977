// What a reader cannot read: texts that overlap or leave their box, their chart or the window, words
// that are broken, names that are cut off, axes of many values, lines that hide others, pale colours.
() => {
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const shown = (text) => text.textContent && text.getAttribute("opacity") !== "0";
  const rows = [...all("thead tr, .problems .head").map((row) => [...row.children]),
    ...all(".chart svg").map((chart) => all("text", chart).filter(shown))];
  const overlapping = rows.flatMap((cells) => {
    const boxes = cells.map((cell) => cell.getBoundingClientRect());
    return cells.filter((cell, number) =>
      (!cell.ownerSVGElement && cell.scrollWidth > cell.clientWidth + 1)
      || boxes.some((box, other) => other !== number && meet(box, boxes[number])));
  });
  const parts = all("svg text, h1, h2, h3, h4, p, th, td, dd, li, summary, .row > span");
  const outside = parts.filter((part) => {
    const box = part.getBoundingClientRect(), around = part.closest("svg")?.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > innerWidth + 1 || part.textContent.includes("…")
      || (around && (box.left < around.left - 1 || box.right > around.right + 1)));
  });
  const broken = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (text.parentElement.closest("script, style, pre, svg")) continue;
    for (const word of text.textContent.matchAll(/\d[\d.,]*(e-\d+)?|[^\s/_-]+/g)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      const { writingMode } = getComputedStyle(text.parentElement);
      const side = writingMode === "horizontal-tb" ? "top" : "left";
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box[side])));
      if (lines.size > 1) broken.push(word[0]);
    }
  }
  // The lines of a name in a chart end behind words, or behind / and _ of long words.
  const known = document.getElementById("charts").textContent;
  for (const name of all(".role-mark text")) {
    const lines = all("tspan", name).map((line) => line.textContent).join(" ");
    const whole = JSON.stringify(lines.replace(/(?<=[/_]) /g, ""));
    if (!name.textContent || (lines && !known.includes(whole))) broken.push(`name: ${lines}`);
  }
  const isNumber = ({ textContent }) => /^(layer )?[\d.e−,-]+$/.test(textContent);
  const axes = all(".role-axis").filter((axis) => {
    const labels = all(".role-axis-label text", axis).filter(shown);
    const ticks = all(".role-axis-tick line", axis);
    return labels.every(isNumber) && Math.max(labels.length, ticks.length) > 8;
  });
  // Intervals of different lines at the same place of the same value.
  const value = (rule) => rule.getAttribute("aria-label").split(";")[0];
  const hidden = all(".chart svg").flatMap((chart) => {
    const rules = all(".role-mark.mark-rule line:not([stroke-dasharray])", chart);
    const boxes = rules.map((rule) => rule.getBoundingClientRect());
    return rules.filter((rule, number) => rules.some((other, place) => {
      const [a, b] = [boxes[number], boxes[place]];
      return other.getAttribute("stroke") !== rule.getAttribute("stroke") && a.width < 1
        && value(other) === value(rule)
        && Math.abs(a.left - b.left) < 1 && a.top < b.bottom && b.top < a.bottom;
    }));
  });
  // The contrast that WCAG 2 defines.
  const luminance = (parts) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, place) => {
    const part = parts[place] / 255;
    return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  }, 0.05);
  const back = luminance(getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
  const pale = [...new Set(known.match(/#[0-9a-f]{6}/g))].filter((colour) => {
    const front = luminance(colour.match(/\w\w/g).map((part) => parseInt(part, 16)));
    return Math.max(front, back) / Math.min(front, back) < 3;
  });
  const wide = document.documentElement.scrollWidth > innerWidth ? ["page"] : [];
  const faults = Object.entries({ overlapping, outside, broken, axes, hidden, pale, wide });
  return Object.fromEntries(faults.filter(([, found]) => found.length)
    .map(([fault, found]) => [fault, found.map((part) => part.textContent || part.outerHTML || part)]));
}
