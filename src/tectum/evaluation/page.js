"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  document.documentElement.classList.add("js");

  // ---- copy the command
  const copy = document.getElementById("copy");
  copy.addEventListener("click", async () => {
    const code = document.getElementById("command");
    let done = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      done = true;
    } catch {
      getSelection().selectAllChildren(code);
      done = document.execCommand("copy");
    }
    copy.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (copy.textContent = "Copy"), 1600);
  });

  // ---- intervals on and off, in both tables at once
  const switches = all("input.intervals");
  for (const box of switches)
    box.addEventListener("change", () => {
      for (const other of switches) other.checked = box.checked;
      document.body.classList.toggle("no-intervals", !box.checked);
    });

  // ---- sorting: best first, worst first, as it was; methods and baselines stay apart, missing values last
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table);
    const bodies = all("tbody:not(.rule)", table).map((body) => ({ body, original: [...body.rows] }));
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      const first = Number(button.dataset.first);
      button.addEventListener("click", () => {
        const state = head.dataset.state === "first" ? "second" : head.dataset.state === "second" ? "" : "first";
        for (const other of heads) {
          other.dataset.state = "";
          other.setAttribute("aria-sort", "none");
        }
        const sign = state === "first" ? first : -first;
        head.dataset.state = state;
        if (state) head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value;
        const order = (one, other) => {
          if (!column) return sign * one.dataset.method.localeCompare(other.dataset.method, undefined, { numeric: true });
          if (key(one) === "" || key(other) === "") return (key(one) === "") - (key(other) === "");
          const gap = number(key(one)) - number(key(other));
          return Number.isNaN(gap) ? 0 : sign * gap;
        };
        for (const { body, original } of bodies) body.append(...(state ? [...original].sort(order) : original));
      });
    });
  }
  function number(text) {
    return text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
  }

  // ---- rows of the plots on and off
  const marks = all(".plot [data-series]");
  for (const button of all(".legend button")) {
    const fade = (on) => {
      const shown = button.getAttribute("aria-pressed") === "true"; // a hidden row has nothing to pick out
      for (const mark of marks)
        mark.classList.toggle("faded", on && shown && mark.dataset.series !== button.dataset.series);
    };
    button.addEventListener("pointerenter", (event) => fade(event.pointerType === "mouse"));
    button.addEventListener("pointerleave", () => fade(false));
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const mark of marks)
        if (mark.dataset.series === button.dataset.series) mark.classList.toggle("off", !shown);
      fade(false);
    });
  }

  // ---- the measure of quality over cost
  const quality = document.getElementById("quality");
  quality?.addEventListener("change", () => {
    for (const plot of all(".tradeoff")) plot.hidden = plot.dataset.choice !== quality.value;
  });

  // ---- the divider: pointer anywhere on the picture, or the keys of the range input
  for (const example of all(".example")) {
    const compare = example.querySelector(".compare");
    const buttons = all("button.show", example);
    if (!buttons.length) {
      compare.remove();
      continue;
    }
    const stage = compare.querySelector(".stage");
    const range = stage.querySelector("input");
    const sides = ["left", "right"].map((side) => ({
      choice: compare.querySelector(`select.${side}`),
      image: stage.querySelector(side === "left" ? ".over" : ".under"),
      tag: stage.querySelector(`.tag.${side}`),
    }));
    const show = () => {
      for (const { choice, image, tag } of sides) {
        const name = choice.selectedOptions[0].textContent;
        image.src = buttons[choice.value].querySelector("img").src; // the data stands in the page once
        image.alt = name;
        tag.textContent = name;
      }
      range.setAttribute("aria-valuetext", `${range.value} % ${sides[0].image.alt}, the rest ${sides[1].image.alt}`);
    };
    const move = (at) => {
      const inside = Math.min(100, Math.max(0, at));
      stage.style.setProperty("--at", `${inside}%`);
      range.value = String(Math.round(inside));
      range.setAttribute("aria-valuetext", `${range.value} % ${sides[0].image.alt}, the rest ${sides[1].image.alt}`);
    };
    const follow = (event) => {
      const place = stage.getBoundingClientRect();
      move((100 * (event.clientX - place.left)) / place.width);
    };
    stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      stage.setPointerCapture(event.pointerId);
      range.focus({ preventScroll: true });
      follow(event);
      event.preventDefault();
    });
    stage.addEventListener("pointermove", (event) => {
      if (stage.hasPointerCapture(event.pointerId)) follow(event);
    });
    range.addEventListener("input", () => move(Number(range.value)));
    for (const { choice } of sides) choice.addEventListener("change", show);
    buttons.forEach((button, index) =>
      button.addEventListener("click", () => {
        sides[1].choice.value = String(index);
        show();
        stage.scrollIntoView({ block: "nearest", behavior: "smooth" });
      }),
    );
    show();
    move(50);
  }
})();
