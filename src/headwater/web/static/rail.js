// Beside an answer, once it stands: its words over all rows, score against rank, checkpoints, and how far to trust it.
import { ask, make, stageOf } from "./frame.js";

const place = document.querySelector(".all-rows");
const working = place.querySelector(".working");
const size = (value) => (value !== 0 && value < 1e-3 ? value.toExponential(2) : value.toPrecision(3));
const number = (value) => (value < 0 ? "−" : "+") + size(Math.abs(value));
const svg = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

function words(found) {
  const strongest = [...found.words].sort((one, two) => Math.abs(two.push) - Math.abs(one.push)).slice(0, 12);
  const largest = Math.max(...strongest.map(({ push }) => Math.abs(push)), Number.MIN_VALUE);
  const rows = strongest.map(({ word, push }) => {
    const bar = make("i", { style: `--v:${((100 * Math.abs(push)) / largest).toFixed(1)}%` });
    const name = make("a", { href: `/word?${new URLSearchParams({ word })}` }, make("bdi", {}, word));
    return make("li", {}, name, make("span", { class: `push ${push >= 0 ? "up" : "down"}` }, bar), make("b", {}, number(push)));
  });
  const rest = `Special tokens ${number(found.special_tokens)}. Blue, solid: toward; orange, dotted: away.`;
  return make("div", { class: "panel" }, make("h3", {}, "Words, all rows summed"), make("ol", {}, ...rows), make("p", { class: "hint" }, rest));
}

function ranks(found) {
  const top = Math.max(...found.curve.map(([, score]) => Math.abs(score)), Number.MIN_VALUE);
  const x = (rank) => (found.rows > 1 ? (100 * (rank - 1)) / (found.rows - 1) : 50).toFixed(2);
  const y = (score) => (30 - (28 * score) / top).toFixed(2);
  const line = found.curve.map(([rank, score], at) => `${at ? "L" : "M"}${x(rank)} ${y(score)}`).join("");
  const told = `Scores of ${found.rows} rows by rank: ${found.positive} above zero, ${found.negative} below`;
  const drawn = svg("svg", { viewBox: "0 0 100 60", role: "img", "aria-label": told, preserveAspectRatio: "none" });
  drawn.append(svg("path", { class: "zero", d: "M0 30H100" }), svg("path", { d: line }));
  const text = `${found.positive.toLocaleString("en")} rows push toward, ${found.negative.toLocaleString("en")} away; the strongest ${number(found.curve[0][1])}.`;
  return make("div", { class: "panel" }, make("h3", {}, "Score against rank"), drawn, make("p", { class: "hint" }, text));
}

function trust(found) {
  const grades = found.grades.map(({ metric, value, low, high, ceiling }) => {
    const told = value === null ? "not known" : `${value.toFixed(3)} (${low?.toFixed(2) ?? "?"} to ${high?.toFixed(2) ?? "?"})`;
    return make("li", {}, make("b", {}, metric), ` ${told}${ceiling == null ? "" : `, of at most ${ceiling.toFixed(2)}`}`);
  });
  const link = make("a", { href: "/jobs?kind=evaluate" }, "grade it by retraining");
  const none = make("p", {}, `${found.method} is not graded on this run yet: `, link, ".");
  const checkpoints = found.checkpoints.map(({ name, weight }) => make("li", {}, make("bdi", {}, name), ` weight ${weight.toPrecision(3)}`));
  return make("div", { class: "panel" }, make("h3", {}, "How far to trust this"), grades.length ? make("ul", {}, ...grades) : none, make("h3", {}, "Checkpoints"), make("ul", {}, ...checkpoints));
}

place.hidden = false;
try {
  const asked = new URLSearchParams(location.search);
  const method = asked.get("method");
  for (const name of ["method", "marked"]) asked.delete(name);
  if (method) asked.set("method", method);
  const tell = (found) => (working.textContent = `${stageOf(found)} · ${found.seconds.toFixed(0)} s`);
  const found = await ask(`/api/why/rail?${asked}`, { tell });
  place.append(make("div", { class: "rail" }, ...(found.words.length ? [words(found)] : []), ranks(found), trust(found)));
} catch (problem) {
  place.append(make("p", { class: "failure" }, problem.message));
}
working.remove();
