(() => {
  const root = document.currentScript.closest(".ns-circuit");
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const view = root.querySelector(".ns-view");
  const COLORS = { q: "#3566a8", k: "#c2553a", v: "#4a8f5a", "-": "#6e7781" };
  const FILLS = { head: "#e7effa", mlp: "#faf0de", direction: "#f0e7fa" };
  const DOTTED = 2000; // weaker edges are too thin for dots, which take time to draw
  const FONT = "system-ui, sans-serif";
  const edges = data.edges, count = edges.from.length;
  const strongest = Math.abs(edges.score[0] ?? 0) || 1;
  const strength = (index) => (edges.score[index] === null ? 1 : Math.sqrt(Math.abs(edges.score[index]) / strongest));
  const keptIndex = [];
  for (let index = 0, kept = 0; index < count; index += 1) keptIndex.push(edges.kept[index] === "1" ? kept++ : -1);
  const readers = edges.to.map((to) => (Array.isArray(to) ? to : [to]));
  const edgeName = (index) => {
    const slot = edges.slot[index], { name, layer, head } = data.nodes[readers[index][0]] ?? { name: "" };
    const reader = slot === "-" ? name : `a${layer}.h${slot === "q" ? head : Math.floor(head / data.group_size)}<${slot}>`;
    return `${data.nodes[edges.from[index]].name}->${reader}`;
  };
  const html = (name, text = "", classes = "") => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (classes) made.className = classes;
    return made;
  };
  const number = (value) => (typeof value === "number" ? String(+value.toPrecision(4)) : value);
  const table = (rows) => {
    const made = html("table");
    for (const [name, value, onclick] of rows) {
      if (value === null || value === undefined || value === "") continue;
      const line = html("tr");
      line.append(html("td", name), html("td", typeof value === "object" ? JSON.stringify(value) : number(value)));
      if (onclick) { line.style.cursor = "pointer"; line.addEventListener("click", onclick); }
      made.append(line);
    }
    return made;
  };

  // Layout: a row of heads for each layer with its MLP at the right, the input below and the logits above.
  const layers = [...new Set(data.nodes.filter((node) => node.layer !== null).map((node) => node.layer))].sort((a, b) => a - b);
  const rowOf = new Map(layers.map((layer, index) => [layer, index + 1]));
  const heads = Math.max(1, ...data.nodes.map((node) => (node.head === null ? 0 : node.head + 1)));
  const columns = heads + 1, rowCount = layers.length + 2;
  const CELL = { width: 62, height: 30 };
  const extent = { width: columns * CELL.width + 40, height: rowCount * CELL.height };
  const at = data.nodes.map((node) => {
    const row = node.kind === "input" ? 0 : node.kind === "logits" ? rowCount - 1 : rowOf.get(node.layer) ?? 0;
    const column = node.head ?? (node.kind === "mlp" ? heads : (columns - 1) / 2);
    return [40 + (column + 0.5) * CELL.width, (rowCount - 0.5 - row) * CELL.height];
  });

  // State.
  let shown = Math.min(data.shown, count), chosenNode = -1, chosenEdge = -1, keptOnly = edges.kept.includes("1");
  let zoom = 1, left = 0, top = 0;
  const isShown = (index) => index < shown && (!keptOnly || edges.kept[index] === "1");
  const touches = (index) => (chosenEdge >= 0 ? index === chosenEdge
    : chosenNode < 0 || edges.from[index] === chosenNode || readers[index].includes(chosenNode));

  // Controls.
  view.append(html("h1", data.title));
  const bar = html("div", "", "bar");
  const slider = html("input"), counted = html("span"), search = html("input"), only = html("input");
  Object.assign(slider, { type: "range", min: 0, max: 1000, value: 1000 });
  Object.assign(search, { type: "search", placeholder: "find: a0.h1" });
  Object.assign(only, { type: "checkbox", checked: keptOnly });
  const label = html("label", "strongest edges ");
  label.append(slider, " ", counted);
  const onlyLabel = html("label");
  onlyLabel.append(only, " of the circuit only");
  bar.append(label, onlyLabel, search);
  for (const [name, meaning] of [["q", "queries"], ["k", "keys"], ["v", "values"], ["-", "MLP, logits"]]) {
    const entry = html("span"), swatch = html("span", "", "swatch");
    swatch.style.background = COLORS[name];
    entry.append(swatch, meaning);
    bar.append(entry);
  }
  const button = (text, action) => {
    const made = html("button", text);
    made.addEventListener("click", action);
    return made;
  };
  bar.append(button("PNG", () => save("png")), button("SVG", () => save("svg")), button("CSV", () => save("csv")));
  bar.append(button("reset view", () => { fit(); draw(); }));
  view.append(bar);
  const panes = html("div", "", "panes"), canvas = html("canvas"), details = html("div", "", "details");
  panes.append(canvas, details);
  view.append(panes);

  // Drawing: the same calls on a canvas and on an SVG writer.
  const paint = (pen) => {
    const active = new Set();
    for (const faded of [true, false]) {
      for (let index = Math.min(shown, count) - 1; index >= 0; index -= 1) {
        if (!isShown(index) || touches(index) === faded) continue;
        const [x1, y1] = at[edges.from[index]], share = strength(index), works = (edges.score[index] ?? 0) <= 0;
        for (const reader of readers[index]) {
          const alpha = faded ? 0.05 : 0.25 + 0.6 * share;
          pen.curve(x1, y1, ...at[reader], COLORS[edges.slot[index]], 0.4 + 3.6 * share, alpha, !works && index < DOTTED);
          if (!faded) active.add(edges.from[index]).add(reader);
        }
      }
    }
    pen.endCurves();
    data.nodes.forEach((node, index) => {
      const [x, y] = at[index], seen = active.has(index) || index === chosenNode || node.layer === null;
      pen.box(x, y, 27, 9, node.kind === "head" ? 9 : 2, FILLS[node.kind] ?? "white", index === chosenNode, seen ? 1 : 0.16);
      pen.text(x, y, node.name, seen ? 1 : 0.25);
    });
    for (const layer of layers) pen.text(14, (rowCount - 0.5 - rowOf.get(layer)) * CELL.height, String(layer), 0.6);
  };
  const canvasPen = (context, looks = new Map()) => ({
    // Edges that look alike are one path: a stroke for each of 70,000 edges takes seconds.
    curve(x1, y1, x2, y2, color, width, alpha, dotted) {
      const key = `${color} ${width.toFixed(1)} ${alpha.toFixed(1)} ${dotted}`;
      if (!looks.has(key)) looks.set(key, { path: new Path2D(), color, width, alpha, dotted });
      const { path } = looks.get(key);
      path.moveTo(x1, y1);
      path.bezierCurveTo(x1, (y1 + y2) / 2, x2, (y1 + y2) / 2, x2, y2);
    },
    endCurves() {
      for (const { path, color, width, alpha, dotted } of looks.values()) {
        Object.assign(context, { globalAlpha: alpha, strokeStyle: color, lineWidth: width });
        context.setLineDash(dotted ? [2, 3] : []);
        context.stroke(path);
      }
      looks.clear();
    },
    box(x, y, half, tall, radius, fill, chosen, alpha) {
      context.globalAlpha = alpha;
      context.setLineDash([]);
      context.lineWidth = chosen ? 2 : 0.7;
      context.strokeStyle = chosen ? "#1b1f24" : "#57606a";
      context.fillStyle = fill;
      context.beginPath();
      context.roundRect(x - half, y - tall, 2 * half, 2 * tall, radius);
      context.fill();
      context.stroke();
    },
    text(x, y, text, alpha) {
      context.globalAlpha = alpha;
      context.fillStyle = "#1b1f24";
      context.font = `11px ${FONT}`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(text, x, y);
    },
  });
  const svgPen = (parts) => ({
    curve: (x1, y1, x2, y2, color, width, alpha, dotted) => parts.push(
      `<path d="M${x1},${y1} C${x1},${(y1 + y2) / 2} ${x2},${(y1 + y2) / 2} ${x2},${y2}" fill="none" stroke="${color}" `
      + `stroke-width="${width.toFixed(2)}" stroke-opacity="${alpha.toFixed(2)}"${dotted ? ' stroke-dasharray="2 3"' : ""}/>`),
    endCurves: () => {},
    box: (x, y, half, tall, radius, fill, chosen, alpha) => parts.push(
      `<rect x="${x - half}" y="${y - tall}" width="${2 * half}" height="${2 * tall}" rx="${radius}" fill="${fill}" `
      + `stroke="#57606a" stroke-width="${chosen ? 2 : 0.7}" opacity="${alpha}"/>`),
    text: (x, y, text, alpha) => parts.push(
      `<text x="${x}" y="${y}" opacity="${alpha}">${text.replace(/&/g, "&amp;").replace(/</g, "&lt;")}</text>`),
  });
  const draw = () => {
    const scale = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    canvas.width = Math.max(1, box.width * scale);
    canvas.height = Math.max(1, box.height * scale);
    const context = canvas.getContext("2d");
    context.setTransform(scale * zoom, 0, 0, scale * zoom, scale * left, scale * top);
    paint(canvasPen(context));
    let visible = 0;
    for (let index = 0; index < shown; index += 1) visible += isShown(index);
    counted.textContent = `${visible.toLocaleString("en")} of ${count.toLocaleString("en")}`;
  };
  let waiting = false;
  const redraw = () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  };
  const fit = () => {
    const box = canvas.getBoundingClientRect();
    zoom = Math.min(box.width / extent.width, box.height / extent.height, 1.4) || 1;
    left = (box.width - zoom * extent.width) / 2;
    top = (box.height - zoom * extent.height) / 2;
  };

  // Details.
  const edgeRows = (indices) => indices.map((index) => [edgeName(index), edges.score[index] ?? "", () => showEdge(index)]);
  const overview = () => {
    chosenNode = chosenEdge = -1;
    details.replaceChildren(table(Object.entries(data.facts)));
    if (data.curve.length) details.append(html("h1", "Faithfulness by size"), curve());
    details.append(html("h1", "Provenance"), table(Object.entries(data.provenance)));
    draw();
  };
  const back = () => button("whole circuit", overview);
  const showNode = (node) => {
    chosenNode = node;
    chosenEdge = -1;
    const { name, label: role, score, metadata } = data.nodes[node], into = [], out = [];
    for (let index = 0; index < shown && (into.length < 10 || out.length < 10); index += 1) {
      if (!isShown(index)) continue;
      if (readers[index].includes(node) && into.length < 10) into.push(index);
      if (edges.from[index] === node && out.length < 10) out.push(index);
    }
    details.replaceChildren(html("h1", name), table([["role", role], ["score", score], ...Object.entries(metadata)]));
    if (into.length) details.append(html("h1", "Strongest edges in"), table(edgeRows(into)));
    if (out.length) details.append(html("h1", "Strongest edges out"), table(edgeRows(out)));
    details.append(back());
    draw();
  };
  const showEdge = (index) => {
    chosenEdge = index;
    chosenNode = -1;
    const kept = keptIndex[index];
    details.replaceChildren(html("h1", edgeName(index)), table([
      ["rank", index + 1], ["score", edges.score[index]],
      ["faithfulness lost without it", kept < 0 ? null : edges.removal[kept]],
      ["share of resamples with it", kept < 0 ? null : edges.inclusion[kept]],
      ["from", data.nodes[edges.from[index]].name, () => showNode(edges.from[index])],
      ...readers[index].map((reader) => ["to", data.nodes[reader].name, () => showNode(reader)]),
    ]), back());
    draw();
  };
  const curve = () => {
    const SVG = "http://www.w3.org/2000/svg";
    const make = (name, attributes, text = "") => {
      const made = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      if (text) made.textContent = text;
      return made;
    };
    const made = make("svg", { width: 280, height: 150, viewBox: "0 0 280 150" });
    const low = Math.log(data.curve[0][0]), high = Math.log(data.curve[data.curve.length - 1][0]);
    const values = data.curve.map((point) => point[1]);
    const bottom = Math.min(0, ...values), height = Math.max(1, ...values) - bottom;
    const y = (value) => 125 - (110 * (value - bottom)) / height;
    const points = data.curve.map(([size, value]) => [
      30 + 230 * (high > low ? (Math.log(size) - low) / (high - low) : 0.5), y(value),
    ]);
    for (const value of [0, 1]) {
      made.append(make("line", { x1: 30, x2: 260, y1: y(value), y2: y(value), stroke: "#d0d7de" }));
      made.append(make("text", { x: 14, y: y(value) + 4, "font-size": 10 }, String(value)));
    }
    made.append(make("polyline", { points: points.join(" "), fill: "none", stroke: "#3566a8", "stroke-width": 1.5 }));
    points.forEach(([x, y], index) => {
      const dot = make("circle", { cx: x, cy: y, r: 3, fill: "#3566a8" });
      dot.append(make("title", {}, `${number(data.curve[index][0] * 100)} % of edges: ${number(data.curve[index][1])}`));
      made.append(dot);
    });
    made.append(make("text", { x: 30, y: 144, "font-size": 10 }, `${number(data.curve[0][0] * 100)} %`));
    made.append(make("text", { x: 235, y: 144, "font-size": 10 }, `${number(data.curve[data.curve.length - 1][0] * 100)} %`));
    return made;
  };

  // Files of what is seen.
  const save = (kind) => {
    const link = html("a");
    link.download = `circuit.${kind}`;
    if (kind === "png") link.href = canvas.toDataURL("image/png");
    else link.href = URL.createObjectURL(new Blob([kind === "svg" ? svg() : csv()], { type: kind === "svg" ? "image/svg+xml" : "text/csv" }));
    link.click();
  };
  const svg = () => {
    const parts = [];
    paint(svgPen(parts));
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${extent.width} ${extent.height}" font-family="${FONT}" `
      + `font-size="11" text-anchor="middle" dominant-baseline="central">${parts.join("\n")}</svg>\n`;
  };
  const csv = () => {
    const lines = ["edge,score,in_circuit"];
    for (let index = 0; index < shown; index += 1) {
      if (isShown(index) && touches(index)) lines.push(`${edgeName(index)},${edges.score[index] ?? ""},${edges.kept[index]}`);
    }
    return lines.join("\n") + "\n";
  };

  // Events. The slider is logarithmic.
  const toCount = (value) => Math.max(Math.min(1, count), Math.round(Math.exp((value / 1000) * Math.log(Math.max(count, 1)))));
  slider.value = count > 1 ? (1000 * Math.log(shown)) / Math.log(count) : 1000;
  slider.addEventListener("input", () => { shown = toCount(+slider.value); draw(); });
  only.addEventListener("change", () => { keptOnly = only.checked; draw(); });
  search.addEventListener("input", () => {
    const found = data.nodes.findIndex((node) => node.name === search.value.trim() || (node.label && node.label === search.value.trim()));
    if (found >= 0) showNode(found);
  });
  const world = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left - left) / zoom, (event.clientY - box.top - top) / zoom];
  };
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, left, top, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.moved ||= Math.abs(event.clientX - drag.x) + Math.abs(event.clientY - drag.y) > 4;
    if (!drag.moved) return;
    left = drag.left + event.clientX - drag.x;
    top = drag.top + event.clientY - drag.y;
    redraw();
  });
  canvas.addEventListener("pointerup", (event) => {
    const clicked = drag && !drag.moved;
    drag = null;
    if (!clicked) return;
    const [x, y] = world(event);
    const node = at.findIndex(([nodeX, nodeY]) => Math.abs(nodeX - x) < 28 && Math.abs(nodeY - y) < 10);
    if (node >= 0) showNode(node);
    else overview();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const [x, y] = world(event), factor = Math.exp(-event.deltaY / 500);
    zoom = Math.min(Math.max(zoom * factor, 0.05), 8);
    const box = canvas.getBoundingClientRect();
    left = event.clientX - box.left - x * zoom;
    top = event.clientY - box.top - y * zoom;
    redraw();
  }, { passive: false });
  new ResizeObserver(() => { fit(); draw(); }).observe(canvas);
  overview();
})();
