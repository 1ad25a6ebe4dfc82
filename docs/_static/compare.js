// Before and after: a range input moves the line, two lists choose the pictures.
document.addEventListener("DOMContentLoaded", () => {
  for (const pair of document.querySelectorAll(".pair")) {
    const frame = pair.querySelector(".compare");
    const line = frame.querySelector("input");
    const move = () => {
      frame.style.setProperty("--at", `${line.value}%`);
      const name = (side) => pair.querySelector(`select[data-side=${side}]`).selectedOptions[0].text;
      line.setAttribute("aria-valuetext", `${line.value} % ${name("before")}, then ${name("after")}`);
    };
    line.addEventListener("input", move);
    for (const list of pair.querySelectorAll("select")) {
      list.addEventListener("change", () => {
        const image = frame.querySelector(`img.${list.dataset.side}`);
        image.src = list.value;
        image.alt = list.selectedOptions[0].text;
        move();
      });
    }
    move();
  }
  // A picture of a notebook opens at its full size.
  for (const image of document.querySelectorAll(".bd-article .cell_output img")) {
    if (image.closest("a")) continue;
    const link = document.createElement("a");
    link.href = image.src;
    link.title = "full size";
    image.replaceWith(link);
    link.append(image);
  }
});
