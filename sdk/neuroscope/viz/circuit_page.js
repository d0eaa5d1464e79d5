(() => {
  const root = document.currentScript.closest(".ns-circuit");
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const view = root.querySelector(".ns-view");
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, text = "") => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  };
  const html = (name, text = "", classes = "") => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (classes) made.className = classes;
    return made;
  };
  const number = (value) => (typeof value === "number" ? +value.toPrecision(4) : value);
  const rows = new Set(data.nodes.map((node) => node.y)).size;
  const most = Math.max(...Object.values(data.nodes.reduce((found, node) => {
    found[node.y] = (found[node.y] || 0) + 1;
    return found;
  }, {})), 1);
  const width = Math.max(520, 62 * most + 60), height = Math.max(320, 58 * rows);
  const at = Object.fromEntries(data.nodes.map((node) => [
    node.name, [30 + node.x * (width - 60), height - 26 - node.y * (height - 52)],
  ]));

  const count = Object.keys(data.ranks).length;
  view.append(html("h1", data.title));
  const bar = html("div", "", "bar");
  const slider = html("input");
  Object.assign(slider, { type: "range", min: 1, max: Math.max(count, 1), value: count });
  const counted = html("span");
  const label = html("label", "strongest edges ");
  label.append(slider, " ", counted);
  bar.append(label);
  for (const [name, meaning] of [["q", "queries"], ["k", "keys"], ["v", "values"], ["none", "MLP, logits"]]) {
    const shown = make("svg", { width: 24, height: 8 });
    shown.append(make("line", { x1: 0, x2: 24, y1: 4, y2: 4, class: `edge ${name}`, "stroke-width": 3 }));
    const entry = html("span");
    entry.append(shown, ` ${meaning}`);
    bar.append(entry);
  }
  view.append(bar);
  const panes = html("div", "", "panes");
  const graph = make("svg", { class: "graph", viewBox: `0 0 ${width} ${height}`, width });
  const told = html("div", "", "told");
  panes.append(graph, told);
  view.append(panes);

  const paths = data.edges.map((edge) => {
    const [x1, y1] = at[edge.from], [x2, y2] = at[edge.to], middle = (y1 + y2) / 2;
    const path = make("path", {
      class: `edge ${edge.slot || "none"}`, "stroke-width": 0.6 + 4 * edge.strength,
      d: `M${x1},${y1 - 11} C${x1},${middle} ${x2},${middle} ${x2},${y2 + 11}`,
    });
    path.append(make("title", {}, edge.score === null ? edge.name : `${edge.name}: ${number(edge.score)}`));
    path.addEventListener("click", () => tell(edge.name, {
      score: edge.score, "faithfulness lost without it": edge.removal,
    }, (each) => each === edge));
    graph.append(path);
    return path;
  });
  const boxes = data.nodes.map((node) => {
    const [x, y] = at[node.name], lines = node.label.split("\n");
    const box = make("g", { class: `node ${node.kind}`, transform: `translate(${x},${y})` });
    const half = Math.max(...lines.map((line) => line.length)) * 3.4 + 6, tall = 9 + 5 * lines.length;
    box.append(make("rect", { x: -half, y: -tall / 2, width: 2 * half, height: tall, rx: node.kind === "head" ? tall / 2 : 3 }));
    lines.forEach((line, index) => box.append(make("text", { y: 10 * (index - (lines.length - 1) / 2) }, line)));
    box.addEventListener("click", () => tell(node.name, { score: node.score, ...node.metadata },
      (edge) => edge.from === node.name || edge.to === node.name));
    graph.append(box);
    return box;
  });

  let chosen = () => true;
  const draw = () => {
    const first = count - slider.value;
    counted.textContent = `${slider.value} of ${count}`;
    const ends = new Set(["input", "logits"]);
    data.edges.forEach((edge, index) => {
      const shown = data.ranks[edge.name] >= first;
      paths[index].style.display = shown ? "" : "none";
      paths[index].classList.toggle("faded", !chosen(edge));
      if (shown) ends.add(edge.from).add(edge.to);
    });
    data.nodes.forEach((node, index) => boxes[index].classList.toggle("faded", !ends.has(node.name)));
  };
  const table = (fields) => {
    const made = html("table");
    for (const [name, value] of Object.entries(fields)) {
      if (value === null || value === undefined || value === "") continue;
      const line = html("tr");
      line.append(html("td", name), html("td", typeof value === "object" ? JSON.stringify(value) : String(number(value))));
      made.append(line);
    }
    return made;
  };
  const tell = (name, fields, touched) => {
    chosen = touched;
    told.replaceChildren(html("h1", name), table(fields));
    const back = html("button", "whole circuit");
    back.addEventListener("click", whole);
    told.append(back);
    draw();
  };
  const whole = () => {
    chosen = () => true;
    told.replaceChildren(table(data.facts));
    if (data.curve.length) told.append(html("h1", "Faithfulness by size"), curve());
    told.append(html("h1", "Provenance"), table(data.provenance));
    draw();
  };
  const curve = () => {
    const made = make("svg", { width: 240, height: 150, viewBox: "0 0 240 150" });
    const low = Math.log(data.curve[0][0]), high = Math.log(data.curve[data.curve.length - 1][0]) || 1;
    const values = data.curve.map((point) => point[1]);
    const bottom = Math.min(0, ...values), top = Math.max(1, ...values);
    const y = (value) => 125 - 110 * (value - bottom) / (top - bottom);
    const points = data.curve.map(([size, value]) => [
      30 + 200 * (high > low ? (Math.log(size) - low) / (high - low) : 0.5), y(value),
    ]);
    for (const value of [0, 1]) {
      made.append(make("line", { x1: 30, x2: 230, y1: y(value), y2: y(value), stroke: "#d0d7de" }));
      made.append(make("text", { x: 14, y: y(value) + 4, "font-size": 10 }, String(value)));
    }
    made.append(make("polyline", { points: points.join(" "), fill: "none", stroke: "#3566a8", "stroke-width": 1.5 }));
    points.forEach(([x, y], index) => {
      const dot = make("circle", { cx: x, cy: y, r: 3, fill: "#3566a8" });
      dot.append(make("title", {}, `${data.curve[index][0] * 100} % of edges: ${number(data.curve[index][1])}`));
      made.append(dot);
    });
    made.append(make("text", { x: 30, y: 144, "font-size": 10 }, `${number(data.curve[0][0] * 100)} %`));
    made.append(make("text", { x: 205, y: 144, "font-size": 10 }, `${number(data.curve[data.curve.length - 1][0] * 100)} %`));
    return made;
  };
  slider.addEventListener("input", draw);
  whole();
})();
