// The texts of headings that overlap or leave their box, and of parts that leave the window.
() => {
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const overlapping = [...document.querySelectorAll("thead tr, .problems .head")].flatMap((row) => {
    const cells = [...row.children], boxes = cells.map((cell) => cell.getBoundingClientRect());
    return cells.filter((cell, number) => cell.scrollWidth > cell.clientWidth + 1
      || boxes.some((box, other) => other !== number && meet(box, boxes[number])));
  });
  const parts = [...document.querySelectorAll("svg text, th, td, li, h3, summary, .row > span")];
  const outside = parts.filter((part) => {
    const box = part.getBoundingClientRect();
    return box.width && (box.left < 0 || box.right > innerWidth + 1);
  });
  const texts = (found) => found.map((part) => part.textContent);
  return { overlapping: texts(overlapping), outside: texts(outside) };
}
