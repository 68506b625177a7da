// Formats and draws. Text enters the page as text nodes only: names come from devices.

const PALETTE = ['#5ec8ff', '#ffc857', '#7ee081', '#ff8fa3', '#c5a3ff', '#ffa366', '#5fe0d0', '#f2ee6b', '#9db8ff', '#f59ae0'];

export function colour(id) {
  let hash = 0;
  for (const c of id ?? '') hash = (hash * 31 + c.charCodeAt(0)) >>> 0;
  return PALETTE[hash % PALETTE.length];
}

/** `<device>/<camera>/<epoch>/<seq>#<index>`, short: what is left when the camera is known. */
export const shortTrack = (id) => id.slice(id.lastIndexOf('/') + 1);

const whole = new Intl.NumberFormat('en-GB');
export const count = (n) => (n == null ? '–' : whole.format(n).replaceAll(',', '\u202f'));

export function bytes(n) {
  if (n == null) return '–';
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i++; }
  return `${n >= 100 || i === 0 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function span(ms) {
  if (ms == null || Number.isNaN(ms)) return '–';
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

export function clockTime(iso, now) {
  if (!iso) return '–';
  const at = new Date(iso);
  const time = at.toLocaleTimeString('en-GB');
  const sameDay = at.toDateString() === new Date(now).toDateString();
  return sameDay ? time : `${at.toLocaleDateString('sv-SE')} ${time}`;
}

export function el(tag, cls, ...children) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  node.append(...children.filter((c) => c != null));
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const chip = (kind, text) => {
  const node = el('span', `chip ${kind}`, el('span', 'dot'), text);
  return node;
};

/**
 * Makes a table's body hold one row per item, in their order. A cell is
 * {text, small, cls, title, chip, swatch, meter, make}; it is touched only when it differs, so that
 * a selection or a focus inside the table stays.
 */
export function fill(table, items, keyOf, cellsOf) {
  const body = table.tBodies[0];
  const rows = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  let place = body.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let row = rows.get(key);
    rows.delete(key);
    if (!row) {
      row = el('tr');
      row.dataset.key = key;
    }
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
    cellsOf(item).forEach((cell, i) => drawCell(row.cells[i] ?? row.appendChild(el('td')), cell));
  }
  for (const row of rows.values()) row.remove();
}

function drawCell(td, cell) {
  if (cell.make) {
    if (!td.firstChild) td.append(cell.make());
    return;
  }
  const drawn = JSON.stringify(cell);
  if (td.drawn === drawn) return;
  td.drawn = drawn;
  td.className = cell.cls ?? '';
  td.title = cell.title ?? '';
  td.replaceChildren();
  if (cell.swatch) {
    const swatch = el('span', 'swatch');
    swatch.style.setProperty('--c', cell.swatch);
    td.append(swatch);
  }
  if (cell.chip) td.append(chip(cell.chip, cell.text));
  else td.append(cell.text ?? '');
  if (cell.small) td.append(el('small', '', ` ${cell.small}`));
  if (cell.meter != null) {
    const meter = el('meter');
    Object.assign(meter, { min: 0, max: 1, low: 0.5, high: 0.8, optimum: 0.1, value: cell.meter });
    meter.setAttribute('aria-label', `${Math.round(cell.meter * 100)} % of what it may hold`);
    td.append(meter);
  }
}

/** A camera's card: made once, changed in place. */
export class Card {
  constructor(key) {
    const [device, camera] = key.split('/');
    this.shown = null;
    this.loading = false;
    this.gone = false; // Whether the newest picture is recorded, and no longer in the object store.
    this.chip = el('span', 'chip');
    this.age = el('span', 'chip');
    this.frame = el('div', 'frame');
    this.none = el('p', 'none', 'No picture yet');
    this.shot = el('div', 'shot', this.none, this.frame, el('div', 'plate', this.chip, this.age));
    this.frame.hidden = true;
    this.facts = el('div', 'facts');
    this.trouble = el('div', 'trouble');
    const size = el('button', '', 'Enlarge');
    size.type = 'button';
    size.setAttribute('aria-pressed', 'false');
    size.setAttribute('aria-label', `Enlarge ${key}`);
    size.addEventListener('click', () => {
      const wide = this.node.classList.toggle('wide');
      size.setAttribute('aria-pressed', String(wide));
      setText(size, wide ? 'Reduce' : 'Enlarge');
      this.node.scrollIntoView({ block: 'nearest' });
    });
    const name = el('div', 'name', camera, el('span', 'dev', ` on ${device}`));
    name.title = key;
    this.node = el('article', 'card', this.shot, el('div', 'about', name, size, this.facts, this.trouble));
    this.node.setAttribute('aria-label', `Camera ${key}`);
  }

  /** Shows the newest picture once it is loaded; picture and boxes change in one step. */
  async show(picture, redraw) {
    this.next = picture;
    if (this.loading) return;
    this.loading = true;
    while (this.next) {
      const wanted = this.next;
      this.next = null;
      if (this.shown && this.shown.url === wanted.url) {
        this.drawBoxes(wanted);
        continue;
      }
      const image = new Image();
      image.alt = '';
      image.src = wanted.url;
      try {
        await image.decode();
      } catch {
        // Expired or unreachable: the older picture stays, with its age.
        const answer = await fetch(wanted.url, { method: 'HEAD' }).catch(() => null);
        this.gone = answer?.status === 410;
        continue;
      }
      this.gone = false;
      this.frame.querySelector('img')?.remove();
      this.frame.prepend(image);
      this.drawBoxes(wanted);
    }
    this.loading = false;
    redraw();
  }

  drawBoxes(picture) {
    this.shown = picture;
    const { frame_width: w, frame_height: h } = picture;
    this.frame.hidden = false;
    this.none.hidden = true;
    this.frame.style.aspectRatio = `${w} / ${h}`;
    this.frame.style.height = w / h > 16 / 9 ? 'auto' : '100%';
    this.frame.style.width = w / h > 16 / 9 ? '100%' : 'auto';
    for (const old of this.frame.querySelectorAll('.box')) old.remove();
    for (const d of picture.detections) {
      const [x, y, bw, bh] = d.box;
      const label = d.track ? shortTrack(d.track) : d.class;
      const box = el('div', 'box', el('span', '', `${label} ${d.score.toFixed(2)}`));
      box.classList.toggle('low', y / h < 0.12);
      box.classList.toggle('right', x / w > 0.75);
      box.style.setProperty('--c', d.track ? colour(d.track) : '#dbe3ea');
      Object.assign(box.style, {
        left: `${(100 * x) / w}%`, top: `${(100 * y) / h}%`,
        width: `${(100 * bw) / w}%`, height: `${(100 * bh) / h}%`,
      });
      this.frame.append(box);
    }
  }

  /** A fact is its name, its value and, where that is not plain, what it means. */
  draw({ state, kind, label, age, facts, trouble }) {
    this.node.dataset.state = state;
    this.chip.className = `chip ${kind}`;
    if (this.chip.textContent !== label) this.chip.replaceChildren(el('span', 'dot'), label);
    setText(this.age, age);
    this.age.hidden = !age;
    const text = facts.map((f) => f.join(' ')).join('|');
    if (this.facts.drawn !== text) {
      this.facts.drawn = text;
      this.facts.replaceChildren(...facts.map(([name, value, means]) => {
        const fact = el('span', '', `${name} `, el('b', '', value));
        fact.title = means ?? '';
        return fact;
      }));
    }
    setText(this.trouble, trouble ?? '');
    this.trouble.hidden = !trouble;
  }
}
