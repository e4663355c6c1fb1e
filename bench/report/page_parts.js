// What all parts of the page use: elements, texts from records, packed data.

// What cannot be seen, or turns the direction of what follows: control characters, marks of
// direction, line separators, lone surrogates.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|\p{Surrogate}/gu;

const MISSING = "\u2013";

const byId = (id) => document.getElementById(id);

/** A text from a record with the unseen made visible. */
function seen(text) {
  return text.replace(UNSEEN, (sign) => {
    const code = sign.codePointAt(0);
    return code < 0x20
      ? String.fromCodePoint(0x2400 + code)
      : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

/** An element. Children that are strings become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "text", "circle", "rect", "polygon"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : seen(String(value)));
  }
  element.append(...children.map((child) => (child instanceof Node ? child : seen(String(child)))));
  return element;
}

function fill(element, ...children) {
  element.replaceChildren(...children.map((child) => (child instanceof Node ? child : seen(String(child)))));
}

/** A text, and what stands below it in small. */
function twoLines(element, text, below) {
  element.append(text instanceof Node ? text : seen(text));
  if (below) element.append(make("small", {}, below));
  return element;
}

/** The data block of this name. */
async function unpack(name) {
  const letters = atob(byId(`data-${name}`).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

/** Three digits that count. */
function digits(value) {
  if (value === null) return MISSING;
  if (value === 0) return "0";
  return value.toFixed(Math.min(4, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))));
}

const whole = (count) => count.toLocaleString("en");

/** Options of a select, as [value, text], the chosen one kept where it is still there. */
function offer(select, options, chosen) {
  fill(select, ...options.map(([value, text]) => make("option", { value }, text)));
  select.value = String(chosen);
}

function definitions(list, pairs) {
  fill(list, ...pairs.flatMap(([word, text]) => [make("dt", {}, word), make("dd", {}, text)]));
}

/** Names of rows, told apart by their folders where two are alike. */
function namesOf(rows) {
  return rows.map((row) =>
    rows.some((other) => other !== row && other.name === row.name) ? `${row.name} (${row.folder})` : row.name,
  );
}
