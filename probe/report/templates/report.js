"use strict";
// Zoom, edges and search. The page is complete without it: this only moves, hides and repeats what it says.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const plot = document.getElementById("plot");
  const SVG = "http://www.w3.org/2000/svg";

  function element(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Everything on paper: what is folded on the screen is open while the page prints.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const fold of closed) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of closed) fold.open = false;
  });
  if (!plot) return;

  const data = plot.dataset;
  const number = (key) => parseFloat(data[key]);
  const full = [number("f0"), number("f1")];
  const incident = [number("v0"), number("v1")];
  const shortest = Math.min(0.00002, full[1] - full[0]); // seconds
  const PROBES_BELOW = 0.5; // seconds of view: single probes are drawn
  // Nanoseconds since 1970 do not fit into a number: as one they would be off by up to 128 ns, which is what an older
  // browser, which does not tell a value's text, has to live with. Seconds from the origin fit, for weeks.
  const exact = (_, value, from) => (Number.isInteger(value) && !Number.isSafeInteger(value) && from && /^\d+$/.test(from.source) ? BigInt(from.source) : value);
  const flows = JSON.parse(document.getElementById("document").textContent, exact).flows;
  const originNs = BigInt(data.originNs);
  let view = incident.slice();
  let chosen = null;

  const seconds = (ns) => Number(BigInt(ns) - originNs) / 1e9;
  const percent = (t) => ((t - view[0]) / (view[1] - view[0])) * 100;
  const clip = (x) => Math.min(101, Math.max(-1, x));

  function utc(t, places) {
    const ns = originNs + BigInt(Math.round(t * 1e9));
    const second = 1000000000n;
    const rest = String(ns % second).padStart(9, "0").slice(0, places);
    return new Date(Number(ns / second) * 1000).toISOString().slice(11, 19) + (places ? "." + rest : "");
  }

  function length(s) {
    if (s >= 1) return s.toFixed(3) + " s";
    return s >= 0.001 ? (s * 1e3).toFixed(2) + " ms" : (s * 1e6).toFixed(1) + " \u00b5s";
  }

  function niceStep(size) {
    const power = 10 ** Math.floor(Math.log10(size));
    return [1, 2, 5, 10].find((m) => m * power >= size * (1 - 1e-9)) * power;
  }

  const plotWidth = () => plot.querySelector(".axis").getBoundingClientRect().width || 800;

  function ticks() {
    const width = plotWidth();
    const step = niceStep((view[1] - view[0]) / Math.max(3, Math.min(14, width / 95)));
    const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const [grids, axis] = [plot.querySelector(".grids"), plot.querySelector(".axis")];
    const top = number("labelRow") * number("labelRows");
    grids.replaceChildren();
    axis.replaceChildren();
    for (let n = Math.ceil(view[0] / step); n * step <= view[1]; n++) {
      const place = percent(n * step);
      const x = place + "%";
      const edge = place < 3 ? " start" : place > 97 ? " end" : "";
      grids.append(element("line", { class: "grid", x1: x, x2: x, y1: top, y2: "100%" }));
      const shown = n === 0 ? "0" : (n > 0 ? "+" : "\u2212") + Math.abs(n * step).toFixed(places) + " s";
      axis.append(element("text", { class: "tick" + edge, x, y: 15 }, shown));
      if (n % 2 === 0) axis.append(element("text", { class: "tick utc" + edge, x, y: 31 }, utc(n * step, Math.max(3, places))));
    }
  }

  // Labels keep apart by rows; there are as many rows as the page was laid out for, more would cover the lanes.
  function labels() {
    const width = plotWidth();
    const row = number("labelRow");
    const taken = new Array(number("labelRows")).fill(-Infinity);
    for (const flag of all(".flag", plot)) {
      const x = (percent(parseFloat(flag.dataset.s)) / 100) * width;
      const text = flag.firstElementChild;
      const away = x < -1 || x > width + 1;
      flag.setAttribute("visibility", away ? "hidden" : "visible");
      if (away) continue;
      const size = text.getComputedTextLength() + 8;
      const flip = x + size > width && x - size >= 0;
      text.classList.toggle("flip", flip);
      text.setAttribute("x", flip ? -5 : 5);
      const left = flip ? x - size : x;
      let place = taken.findIndex((end) => end <= left);
      if (place < 0) place = taken.indexOf(Math.min(...taken));
      taken[place] = left + size;
      flag.setAttribute("y", place * row);
      const line = plot.querySelector('.mark[data-n="' + flag.dataset.n + '"]');
      if (line) line.setAttribute("y1", place * row + 3);
    }
  }

  // Single probes around the edges, as far as the document has their raw records.
  function probes() {
    for (const old of all(".probe", plot)) old.remove();
    const close = view[1] - view[0] <= PROBES_BELOW;
    document.querySelector(".zoomed").hidden = !close;
    if (!close) return;
    for (const lane of all(".lane", plot)) {
      if (lane.hidden) continue;
      const seen = new Set();
      for (const record of flows[lane.dataset.flow].outages.flatMap((outage) => outage.evidence || [])) {
        const t = seconds(record.tx_ns);
        if (t < view[0] || t > view[1] || seen.has(record.sequence)) continue;
        seen.add(record.sequence);
        const got = record.rx_ns !== null;
        const place = element("svg", { class: "probe", x: percent(t) + "%", overflow: "visible" });
        place.append(element("path", { class: got ? "got" : "gone", d: got ? "M0 2V20" : "M-4 11a4 4 0 1 0 8 0a4 4 0 1 0-8 0" }));
        place.append(element("title", {}, "probe " + record.sequence + ", sent " + utc(t, 6) + " UTC: " + record.fate.replace("_", " ")));
        lane.lastElementChild.append(place);
      }
    }
  }

  function draw() {
    for (const item of all("[data-s]", plot)) {
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
    probes();
    for (const lane of all(".lane.chosen", plot)) lane.classList.remove("chosen");
    if (chosen) plot.querySelector('.lane[data-flow="' + chosen.flow + '"]').classList.add("chosen");
    const places = view[1] - view[0] < 0.01 ? 6 : 3;
    const span = "Shown: " + utc(view[0], places) + " to " + utc(view[1], places) + " UTC, " + length(view[1] - view[0]) + ".";
    document.getElementById("where").textContent = (chosen ? words(chosen) + " " : "") + span;
  }

  function show(start, end, edge) {
    chosen = edge || null;
    const size = Math.min(full[1] - full[0], Math.max(shortest, end - start));
    const middle = (start + end) / 2;
    const first = Math.min(full[1] - size, Math.max(full[0], middle - size / 2));
    view = [first, first + size];
    draw();
  }

  function zoom(factor, at) {
    const centre = at === undefined ? (view[0] + view[1]) / 2 : at;
    const size = Math.min(full[1] - full[0], Math.max(shortest, (view[1] - view[0]) * factor));
    const share = (centre - view[0]) / (view[1] - view[0]);
    show(centre - share * size, centre - share * size + size, chosen);
  }

  // An edge lies between an answered probe and a lost one: what is shown are these two, and as much on either side.
  function edges() {
    const found = [];
    for (const lane of all(".lane", plot)) {
      if (lane.hidden) continue;
      const flow = Number(lane.dataset.flow);
      flows[flow].outages.forEach((outage, n) => found.push(edge(flow, n, 0), edge(flow, n, 1)));
    }
    return found.filter(Boolean).sort((a, b) => a.at - b.at || a.flow - b.flow);
  }

  function edge(flow, outage, side) {
    const at = flows[flow].outages[outage].edges_ns;
    const [ok, lost] = side ? [at.first_ok, at.last_lost] : [at.last_ok, at.first_lost];
    if (!lost || !ok) return null; // censored: it was not seen
    const between = [seconds(ok), seconds(lost)].sort((a, b) => a - b);
    return { flow, outage, side, between, at: between[0] };
  }

  function words(edge) {
    const flow = flows[edge.flow];
    const what = edge.side ? " ends between the last lost probe and the first answered one, " : " begins between the last answered probe and the first lost one, ";
    const name = (flow.agent ? flow.agent + "/" : "") + flow.name;
    const [a, b] = edge.between;
    return name + ": the " + flow.outages[edge.outage].direction.replace("_", " ") + " outage" + what + utc(a, 6) + " and " + utc(b, 6) + " UTC, " + length(b - a) + " apart.";
  }

  function showEdge(edge) {
    if (!edge) return;
    const lane = plot.querySelector('.lane[data-flow="' + edge.flow + '"]');
    if (lane.hidden) unfold(lane);
    const gap = Math.max(edge.between[1] - edge.between[0], 0.00001);
    show(edge.between[0] - gap, edge.between[1] + gap, edge);
  }

  function step(by) {
    const found = edges();
    if (!found.length) return;
    const now = (view[0] + view[1]) / 2;
    const here = chosen ? found.findIndex((e) => e.flow === chosen.flow && e.outage === chosen.outage && e.side === chosen.side) : -1;
    let place = here + by;
    if (here < 0) {
      place = by > 0 ? found.findIndex((e) => e.at > now) : found.findLastIndex((e) => e.at < now);
      if (view[1] - view[0] > PROBES_BELOW) place = by > 0 ? 0 : found.length - 1; // nothing was enlarged yet
    }
    showEdge(found[(place + found.length) % found.length]);
  }

  const pan = (share) => show(view[0] + share * (view[1] - view[0]), view[1] + share * (view[1] - view[0]), chosen);
  const actions = {
    in: () => zoom(0.5),
    out: () => zoom(2),
    left: () => pan(-0.25),
    right: () => pan(0.25),
    back: () => step(-1),
    next: () => step(1),
    all: () => show(...full),
    incident: () => show(...incident),
  };
  for (const button of all(".tools button")) button.addEventListener("click", actions[button.dataset.do]);

  const timeAt = (clientX) => {
    const box = plot.querySelector(".axis").getBoundingClientRect();
    return view[0] + ((clientX - box.left) / box.width) * (view[1] - view[0]);
  };
  // The wheel scrolls the page until a person has chosen the drawing: nobody gets stuck in it.
  plot.addEventListener("wheel", (event) => {
    if (document.activeElement !== plot && !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 200))), timeAt(event.clientX));
  }, { passive: false });

  const fingers = new Map();
  let pressed = null; // where a click began; null once it has become a drag
  plot.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button")) return;
    fingers.set(event.pointerId, event.clientX);
    pressed = fingers.size === 1 ? { x: event.clientX, target: event.target } : null;
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    if (pressed && Math.abs(event.clientX - pressed.x) < 4) return;
    pressed = null;
    const before = [...fingers.values()];
    fingers.set(event.pointerId, event.clientX);
    const now = [...fingers.values()];
    if (now.length === 1) {
      pan((before[0] - now[0]) / plotWidth());
    } else if (now.length === 2) {
      zoom(Math.max(1, Math.abs(before[0] - before[1])) / Math.max(1, Math.abs(now[0] - now[1])));
    }
  });
  plot.addEventListener("pointerup", (event) => {
    fingers.delete(event.pointerId);
    const bar = pressed && pressed.target.closest("rect[data-o]");
    if (!bar) return;
    const flow = Number(bar.closest(".lane").dataset.flow);
    const sides = [edge(flow, Number(bar.dataset.o), 0), edge(flow, Number(bar.dataset.o), 1)].filter(Boolean);
    const at = timeAt(event.clientX);
    showEdge(sides.sort((a, b) => Math.abs(a.at - at) - Math.abs(b.at - at))[0]);
  });
  plot.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
  const keys = {
    "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right",
    n: "next", p: "back", 0: "incident", Escape: "incident", 1: "all",
  };
  plot.addEventListener("keydown", (event) => {
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey || event.target !== plot) return;
    event.preventDefault();
    actions[action]();
  });

  // Instants in the table of outages lead to their edge in the drawing.
  for (const place of all(".edge")) {
    const target = edge(Number(place.dataset.flow), Number(place.dataset.outage), Number(place.dataset.side));
    if (!target) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "edge";
    button.title = "show this edge in the drawing";
    button.textContent = place.textContent;
    button.addEventListener("click", () => {
      showEdge(target);
      plot.querySelector(".lane.chosen").scrollIntoView({ block: "center" });
      plot.focus({ preventScroll: true });
    });
    place.replaceWith(button);
  }

  // Many flows: a path shows its worst, the rest on demand; a search shows what it finds, wherever it was folded.
  const find = document.getElementById("find");
  const broken = document.getElementById("broken");
  const unfolded = new Set();
  const opened = new Set();

  function sought() {
    const text = find ? find.value.trim().toLowerCase() : "";
    return [...(text ? text.split(/\s+/) : []), ...(broken && broken.checked ? ["broken"] : [])];
  }

  function arrange() {
    const wanted = sought();
    const match = (item) => wanted.every((word) => item.dataset.find.includes(word));
    for (const item of all("[data-find]")) {
      const group = item.closest(".group");
      item.hidden = wanted.length ? !match(item) : item.classList.contains("folded") && !unfolded.has(group);
    }
    for (const group of all(".group", plot)) {
      group.hidden = all(".lane", group).every((lane) => lane.hidden);
      const more = group.querySelector(".more");
      if (!more) continue;
      more.hidden = wanted.length > 0;
      more.setAttribute("aria-expanded", unfolded.has(group));
    }
    for (const fold of all("details.path")) {
      const hits = all("[data-find]", fold).filter((item) => !item.hidden).length;
      fold.hidden = hits === 0;
      if (wanted.length && !fold.open && hits > 0 && hits <= 60) {
        fold.open = true;
        opened.add(fold);
      } else if (!wanted.length && opened.delete(fold)) {
        fold.open = false;
      }
    }
    if (find) {
      const lanes = all(".lane", plot);
      document.getElementById("found").textContent = wanted.length ? lanes.filter((lane) => !lane.hidden).length + " of " + lanes.length + " flows" : "";
    }
    draw();
  }

  function unfold(lane) {
    unfolded.add(lane.closest(".group"));
    if (find) find.value = "";
    if (broken) broken.checked = false;
    arrange();
  }

  for (const more of all(".more", plot)) {
    more.addEventListener("click", () => {
      const group = more.closest(".group");
      if (!unfolded.delete(group)) unfolded.add(group);
      arrange();
    });
  }
  if (find) {
    find.addEventListener("input", arrange);
    broken.addEventListener("change", arrange);
  }
  const shownLanes = new Set();
  addEventListener("beforeprint", () => {
    for (const group of all(".group", plot)) if (!unfolded.has(group)) shownLanes.add(group);
    for (const group of shownLanes) unfolded.add(group);
    arrange();
  });
  addEventListener("afterprint", () => {
    for (const group of shownLanes) unfolded.delete(group);
    shownLanes.clear();
    arrange();
  });

  plot.classList.add("live");
  for (const tools of all(".tools")) tools.hidden = false;
  document.getElementById("where").hidden = false;
  arrange();
  let width = 0;
  new ResizeObserver(() => {
    if (width !== plotWidth()) draw();
    width = plotWidth();
  }).observe(plot);
})();
