// Eq. 1 by hand: drag E, or move it with the arrow keys.
document.addEventListener("DOMContentLoaded", () => {
  const svg = document.getElementById("eq1");
  if (!svg) return;
  const C = [100, 230], R = [400, 230], base = R[0] - C[0];
  const E = svg.querySelector("#e"), sides = svg.querySelector("#sides"), words = document.getElementById("eq1-words");
  let at = [190, 110];

  function draw() {
    const far = (p) => Math.hypot(at[0] - p[0], at[1] - p[1]) / base;
    const ce = far(C), re = far(R), deviation = 100 * (ce * ce - re * re);
    E.setAttribute("transform", `translate(${at[0]} ${at[1]})`);
    sides.setAttribute("points", `${C} ${at} ${R}`);
    const sign = (v) => (v > 0 ? "+" : v < 0 ? "\u2212" : "") + Math.abs(v).toFixed(1);
    const side = Math.abs(deviation) < 0.5 ? "as near to one as to the other" : deviation < 0 ? "leans towards compressed" : "leans towards raw";
    words.textContent = `CE = ${ce.toFixed(2)}, RE = ${re.toFixed(2)} of CR; deviation ${sign(deviation)} %: ${side}`;
  }
  function move(x, y) {
    at = [Math.min(490, Math.max(10, x)), Math.min(230, Math.max(20, y))];
    draw();
  }
  function follow(event) {
    const box = svg.getBoundingClientRect();
    move(((event.clientX - box.left) / box.width) * 500, ((event.clientY - box.top) / box.height) * 270);
  }
  E.addEventListener("pointerdown", (event) => E.setPointerCapture(event.pointerId));
  E.addEventListener("pointermove", (event) => event.buttons && follow(event));
  E.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-5, 0], ArrowRight: [5, 0], ArrowUp: [0, -5], ArrowDown: [0, 5] }[event.key];
    if (!step) return;
    event.preventDefault();
    move(at[0] + step[0], at[1] + step[1]);
  });
  draw();
});
