// What a narrow screen needs: verdicts as cards, and a sign that there is more at the right.
document.addEventListener("DOMContentLoaded", () => {
  // A row of a table of statements becomes a card on a phone; each number keeps the name of its column.
  for (const table of document.querySelectorAll(".bd-article table")) {
    const names = [...table.querySelectorAll("thead th")].map((head) => head.innerText.trim());
    if (!names.includes("statement") || !names.includes("ours")) continue;
    table.classList.add("statements");
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.children].forEach((cell, k) => {
        if (names[k] === "statement") cell.classList.add("statement");
        else cell.dataset.name = names[k];
      });
    }
  }
  // What is wider than the screen fades at its right edge, until it has been scrolled to its end.
  const fade = (box) => {
    const left = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("more", left > 8);
  };
  const boxes = [...document.querySelectorAll(".bd-article .cell_output, .bd-article table, .bd-article pre")];
  for (const box of boxes) box.addEventListener("scroll", () => fade(box), { passive: true });
  const all = () => boxes.forEach(fade);
  addEventListener("resize", all);
  addEventListener("load", all);
});
