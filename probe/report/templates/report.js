"use strict";
// Zoom and pan of the drawing. The page is complete without it: this only moves what is already drawn.
(() => {
  const plot = document.getElementById("plot");
  if (!plot) return;
  const SVG = "http://www.w3.org/2000/svg";
  const data = plot.dataset;
  const number = (key) => parseFloat(data[key]);
  const full = [number("f0"), number("f1")];
  const incident = [number("v0"), number("v1")];
  const shortest = Math.min(0.005, full[1] - full[0]); // seconds: a few probes
  let view = incident.slice();

  const percent = (t) => ((t - view[0]) / (view[1] - view[0])) * 100;
  const clip = (x) => Math.min(101, Math.max(-1, x));
  const utc = (t) => new Date(Math.floor(number("originMs") + t * 1000)).toISOString().slice(11, 23);

  function niceStep(size) {
    const power = 10 ** Math.floor(Math.log10(size));
    return [1, 2, 5, 10].find((m) => m * power >= size * (1 - 1e-9)) * power;
  }

  function element(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function ticks() {
    const width = plot.clientWidth || 800;
    const step = niceStep((view[1] - view[0]) / Math.max(3, Math.min(14, width / 85)));
    const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const bottom = number("bottom");
    const group = plot.querySelector(".ticks");
    group.replaceChildren();
    for (let n = Math.ceil(view[0] / step); n * step <= view[1]; n++) {
      const place = percent(n * step);
      const x = place + "%";
      const edge = place < 2 ? " start" : place > 98 ? " end" : "";
      group.append(element("line", { class: "grid", x1: x, x2: x, y1: data.top, y2: bottom }));
      const shown = n === 0 ? "0" : (n > 0 ? "+" : "\u2212") + Math.abs(n * step).toFixed(places) + " s";
      group.append(element("text", { class: "tick" + edge, x, y: bottom + 15 }, shown));
      if (n % 2 === 0) group.append(element("text", { class: "tick utc" + edge, x, y: bottom + 31 }, utc(n * step)));
    }
  }

  // Labels keep apart by rows; there are as many rows as the page was laid out for, more would cover the lanes.
  function labels() {
    const width = plot.clientWidth || 800;
    const row = number("labelRow");
    const rows = Math.max(1, Math.round((number("top") - 6) / row));
    const taken = new Array(rows).fill(-Infinity);
    for (const flag of plot.querySelectorAll(".flag")) {
      const x = (percent(parseFloat(flag.dataset.s)) / 100) * width;
      const text = flag.firstElementChild;
      const away = x < -1 || x > width + 1;
      flag.setAttribute("visibility", away ? "hidden" : "visible");
      if (away) continue;
      const length = text.getComputedTextLength() + 8;
      const flip = x + length > width && x - length >= 0;
      text.classList.toggle("flip", flip);
      text.setAttribute("x", flip ? -5 : 5);
      const left = flip ? x - length : x;
      let place = taken.findIndex((end) => end <= left);
      if (place < 0) place = taken.indexOf(Math.min(...taken));
      taken[place] = left + length;
      flag.setAttribute("y", place * row);
      const line = plot.querySelector('.mark[data-n="' + flag.dataset.n + '"]');
      if (line) line.setAttribute("y1", place * row + 3);
    }
  }

  function draw() {
    for (const item of plot.querySelectorAll("[data-s]")) {
      const x = percent(parseFloat(item.dataset.s));
      if (item.dataset.e !== undefined) {
        const left = clip(x);
        item.setAttribute("x", left + "%");
        item.setAttribute("width", Math.max(0, clip(percent(parseFloat(item.dataset.e))) - left) + "%");
      } else if (item.tagName === "line") {
        item.setAttribute("x1", clip(x) + "%");
        item.setAttribute("x2", clip(x) + "%");
      } else {
        item.setAttribute("x", x + "%");
      }
    }
    ticks();
    labels();
  }

  function show(start, end) {
    const length = Math.min(full[1] - full[0], Math.max(shortest, end - start));
    const middle = (start + end) / 2;
    const first = Math.min(full[1] - length, Math.max(full[0], middle - length / 2));
    view = [first, first + length];
    draw();
  }

  function zoom(factor, at) {
    const centre = at === undefined ? (view[0] + view[1]) / 2 : at;
    const length = Math.min(full[1] - full[0], Math.max(shortest, (view[1] - view[0]) * factor));
    const share = (centre - view[0]) / (view[1] - view[0]);
    show(centre - share * length, centre - share * length + length);
  }

  const pan = (share) => show(view[0] + share * (view[1] - view[0]), view[1] + share * (view[1] - view[0]));
  const actions = {
    in: () => zoom(0.5),
    out: () => zoom(2),
    left: () => pan(-0.25),
    right: () => pan(0.25),
    all: () => show(...full),
    incident: () => show(...incident),
  };
  for (const button of document.querySelectorAll(".tools button")) {
    button.addEventListener("click", actions[button.dataset.do]);
  }

  const timeAt = (event) => {
    const box = plot.getBoundingClientRect();
    return view[0] + ((event.clientX - box.left) / box.width) * (view[1] - view[0]);
  };
  // The wheel scrolls the page until a person has chosen the drawing: nobody gets stuck in it.
  plot.addEventListener("wheel", (event) => {
    if (document.activeElement !== plot && !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 200))), timeAt(event));
  }, { passive: false });

  const fingers = new Map();
  plot.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event.clientX);
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const before = [...fingers.values()];
    fingers.set(event.pointerId, event.clientX);
    const now = [...fingers.values()];
    if (now.length === 1) {
      pan((before[0] - now[0]) / (plot.clientWidth || 800));
    } else if (now.length === 2) {
      zoom(Math.max(1, Math.abs(before[0] - before[1])) / Math.max(1, Math.abs(now[0] - now[1])));
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    plot.addEventListener(name, (event) => fingers.delete(event.pointerId));
  }
  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "incident" };
  plot.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    actions[action]();
  });

  plot.classList.add("live");
  document.querySelector(".tools").hidden = false;
  new ResizeObserver(draw).observe(plot);
})();
