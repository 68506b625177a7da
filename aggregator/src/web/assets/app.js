// Follows the fleet: reads everything once, then what the live feed says, and keeps the ages true.

import { Card, bytes, clockTime, colour, count, el, fill, setText, shortTrack, span } from './view.js';

const $ = (id) => document.getElementById(id);
const cameras = new Map(); // key -> {key, device, newest, picture, status, card}
const devices = new Map();
const books = new Map();
const tracks = new Map();

let freshness = { picture_ms: 5000, observation_ms: 10000, status_ms: 30000 };
let alive = null; // What the aggregator last said of itself.
let connected = false;
let readAll = false; // Whether everything was read since the connection was made.
let heardAt = 0; // Of this browser's clock.
let clockOffset = 0; // Of the aggregator's clock to this browser's.
let tracksKept = 200;
let tracksNext = null;
let problem = null; // Why reading failed.

const now = () => Date.now() + clockOffset;
const ageOf = (iso) => (iso ? now() - Date.parse(iso) : null);
const feedWorks = () => connected && readAll && alive?.database_up && alive?.feed_up;

// ---- Reading

async function get(path) {
  const answer = await fetch(path, { headers: { accept: 'application/json' } });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the aggregator answered ${answer.status}`);
  return body;
}

const trackPath = (before) => {
  const query = new URLSearchParams({ limit: '100' });
  if ($('f-camera').value) query.set('camera', $('f-camera').value);
  if (before) query.set('before', before);
  return `/api/tracks?${query}`;
};

let reading = false;
let readAgain = false;
async function read() {
  if (reading) { readAgain = true; return; }
  reading = true;
  try {
    const [c, d, b, t] = await Promise.all(
      ['/api/cameras', '/api/devices', '/api/books', trackPath()].map(get));
    const known = new Set(c.items.map((camera) => camera.key));
    for (const [key, camera] of cameras) {
      if (!known.has(key)) { camera.card.node.remove(); cameras.delete(key); }
    }
    for (const camera of c.items) takeCamera(camera);
    replace(devices, d.items, 'device');
    replace(books, b.items, 'camera');
    replace(tracks, t.items, 'id');
    tracksNext = t.next;
    readAll = true;
    problem = null;
  } catch (error) {
    problem = error.message;
    setTimeout(read, 3000);
  }
  reading = false;
  if (readAgain) { readAgain = false; read(); }
  changed();
}

function replace(map, items, key) {
  map.clear();
  for (const item of items) map.set(item[key], item);
}

// ---- Changes

function order(id) {
  const parts = (id ?? '').split('/');
  return { epoch: parts[2], seq: Number(parts[3]) };
}

/** Whether `b` is older than `a`; of other epochs the aggregator has already judged. */
function isOlder(b, a) {
  const [x, y] = [order(a), order(b)];
  return x.epoch === y.epoch && y.seq < x.seq;
}

function takeCamera(update) {
  let camera = cameras.get(update.key);
  if (!camera) {
    camera = { key: update.key, device: update.key.split('/')[0], card: new Card(update.key) };
    cameras.set(update.key, camera);
    placeCards();
    fillFilter();
  }
  if (update.status) camera.status = update.status;
  if (update.complete_until != null) {
    camera.epoch = update.epoch ?? null;
    camera.complete_until = update.complete_until;
    camera.waiting_since = update.waiting_since ?? null;
    camera.clock_ahead_ms = update.clock_ahead_ms ?? null;
  }
  if (update.newest && !isOlder(update.newest.id, camera.newest?.id)) camera.newest = update.newest;
  if (update.picture && !isOlder(update.picture.observation, camera.picture?.observation)) {
    camera.picture = update.picture;
    camera.card.show(update.picture, changed);
  }
}

function takeDevice(device) {
  devices.set(device.device, device);
  for (const [name, status] of Object.entries(device.status?.cameras ?? {})) {
    takeCamera({ key: `${device.device}/${name}`, status });
  }
}

function takeTrack(track) {
  const filter = $('f-camera').value;
  if (!filter || filter === track.camera) tracks.set(track.id, track);
}

function placeCards() {
  const sorted = [...cameras.values()].sort((a, b) => a.key.localeCompare(b.key));
  const grid = $('camera-grid');
  sorted.forEach((camera, i) => {
    if (grid.children[i] !== camera.card.node) grid.insertBefore(camera.card.node, grid.children[i] ?? null);
  });
}

function fillFilter() {
  const select = $('f-camera');
  const chosen = select.value;
  const options = [...cameras.keys()].sort().map((key) => {
    const option = el('option', '', key);
    option.value = key;
    return option;
  });
  select.replaceChildren(select.options[0], ...options);
  select.value = chosen;
}

// ---- The live feed

let source = null;
function connect() {
  source?.close();
  source = new EventSource('/api/events');
  heardAt = Date.now();
  const on = (name, act) => source.addEventListener(name, (event) => {
    heardAt = Date.now();
    act(JSON.parse(event.data));
    changed();
  });
  const hear = (said) => {
    const wasUp = alive?.database_up && alive?.feed_up;
    alive = said;
    freshness = said.freshness;
    clockOffset = Date.parse(said.now) - Date.now();
    if (!wasUp && said.database_up && said.feed_up && readAll) read();
  };
  on('hello', (said) => { connected = true; readAll = false; hear(said); read(); });
  on('alive', hear);
  on('resync', read);
  on('camera', takeCamera);
  on('device', takeDevice);
  on('books', (row) => books.set(row.camera, row));
  on('track', takeTrack);
  on('track-gone', ({ id }) => tracks.delete(id));
  source.onerror = () => { connected = false; changed(); };
}

// The browser reconnects by itself after most failures, not after all, and never when the
// connection only went silent.
setInterval(() => {
  const silent = Date.now() - heardAt > 10000;
  if (silent || source.readyState === EventSource.CLOSED) {
    connected = false;
    connect();
    changed();
  }
}, 4000);

// ---- Drawing

let asked = false;
function changed() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; draw(); });
}

/** What the device says of its camera that forbids to call its newest picture live. */
const NOT_LIVE = {
  failed: 'Camera failed',
  stuck: 'Camera stuck',
  paused: 'Paused',
  frozen: 'Picture may be frozen',
  black: 'Picture is black',
  'no-signal': 'No signal',
};

// A device's clock is off if it is ahead by this, or behind by more than an observation is on its way.
const AHEAD_MS = 2000;
const BEHIND_MS = 10000;
const clockIsOff = ({ clock_ahead_ms: ahead }) => ahead > AHEAD_MS || ahead < -BEHIND_MS;

function cameraState(camera) {
  const { status, newest } = camera;
  const { shown } = camera.card;
  const pictureAge = ageOf(shown?.captured_at);
  const seenAge = ageOf(newest?.captured_at);
  const device = devices.get(camera.device);
  const heard = ageOf(device?.status_at);
  const silent = heard == null || heard > freshness.status_ms;
  const age = !shown ? ''
    : pictureAge == null ? `received ${span(ageOf(shown.received_at))} ago` : `${span(pictureAge)} ago`;
  const as = (state, kind, label) => ({ state, kind, label, age });
  if (!silent && NOT_LIVE[status?.state]) return as('stale', 'bad', NOT_LIVE[status.state]);
  // The camera still gives pictures, and none of them shows what is there now.
  if (!silent && NOT_LIVE[status?.picture]) return as('stale', 'bad', NOT_LIVE[status.picture]);
  if (!shown && !newest) {
    if (status?.state === 'opening') return as('none', '', 'Opening');
    return as('none', '', 'Waiting for the first frame');
  }
  const ahead = Math.min(pictureAge ?? 0, seenAge ?? 0) < -10000;
  if (ahead || (shown && pictureAge == null) || (!shown && seenAge == null)) {
    return as('unsure', 'warn', ahead ? 'Device clock is ahead' : 'Device clock not set');
  }
  const received = ageOf(newest?.received_at);
  if (camera.clock_ahead_ms < -BEHIND_MS && received != null && received <= freshness.observation_ms && feedWorks()) {
    return as('unsure', 'warn', 'Device clock is behind');
  }
  // Whose fault it is cannot be known from here: not the camera's state, but this page's.
  if (!feedWorks()) return as('stale', 'bad', 'Not updating');
  const seenNow = seenAge != null && seenAge <= freshness.observation_ms;
  // A picture that the camera has moved on from is not live, however young: its boxes are gone.
  const behind = newest ? Date.parse(newest.captured_at) - Date.parse(shown?.captured_at) : 0;
  if (shown && pictureAge <= freshness.picture_ms && !(behind > 1000)) return as('live', 'good', 'Live');
  if (seenNow) return as('quiet', '', newest.detections ? 'No new picture' : 'Nothing in sight');
  if (status?.state === 'ended') return as('stale', '', 'Recording ended');
  return as('stale', 'bad', 'Stale');
}

function drawCameras() {
  let live = 0;
  for (const camera of cameras.values()) {
    const view = cameraState(camera);
    if (view.state === 'live' || view.state === 'quiet') live++;
    const { status, newest } = camera;
    const facts = [];
    if (newest) facts.push([view.state === 'stale' ? 'last seen' : 'in view', String(newest.detections)]);
    const heard = ageOf(devices.get(camera.device)?.status_at);
    const silent = heard == null || heard > freshness.status_ms;
    if (status?.state === 'running' && !silent) facts.push(['at', `${status.fps.toFixed(1)} fps`]);
    const off = clockIsOff(camera);
    if (newest?.lag_ms != null && view.state !== 'stale' && !off) facts.push(['lag', span(newest.lag_ms)]);
    if (camera.waiting_since) facts.push(['earlier frames missing for', span(ageOf(camera.waiting_since))]);
    if (status?.decoder) facts.push(['decoder', status.decoder]);
    if (newest && newest.clock !== 'synchronised') facts.push(['clock', newest.clock]);
    if (off) facts.push(['clock', `${span(Math.abs(camera.clock_ahead_ms))} ${camera.clock_ahead_ms > 0 ? 'ahead' : 'behind'}`]);
    if (camera.complete_until) facts.push(['complete to', count(camera.complete_until), `All of epoch ${camera.epoch} up to this number is stored or told to be lost, and its tracks are final`]);
    let trouble = status?.problem ?? status?.degraded ?? (status?.picture === 'black' ? 'The picture is black' : null);
    if (camera.card.gone) trouble ??= 'The newest picture is no longer in the object store';
    if (!feedWorks()) trouble = null;
    else if (heard != null && silent) trouble = `No word from ${camera.device} for ${span(heard)}`;
    else if (view.state === 'stale' && view.label === 'Stale' && newest) {
      trouble ??= `Last observation ${span(ageOf(newest.captured_at))} ago`;
    }
    camera.card.draw({ ...view, facts, trouble });
  }
  $('e-cameras').hidden = cameras.size > 0 || !readAll;
  setText($('n-cameras'), cameras.size ? `${live} of ${cameras.size} live` : '');
  return live;
}

const cell = (text, cls = 'n', more = {}) => ({ text, cls, ...more });
const number = (n, cls = '') => cell(count(n), `n ${n ? cls : 'zero'}`);

function reasons(counts) {
  const list = Object.entries(counts ?? {}).sort((a, b) => b[1] - a[1]);
  return list.map(([reason, n]) => `${count(n)} ${reason}`).join(', ');
}

function drawDevices() {
  let reporting = 0;
  const list = [...devices.values()].sort((a, b) => a.device.localeCompare(b.device));
  fill($('devices'), list, (d) => d.device, (d) => {
    const heard = ageOf(d.status_at);
    const silent = heard == null || heard > freshness.status_ms;
    if (!silent) reporting++;
    const s = d.status;
    const link = silent && !feedWorks() ? cell('Not known', '', { chip: '-', title: 'this page is not being updated' }) : silent ? cell('Silent', '', { chip: 'bad', title: 'No status for longer than usual: the box or its link is down' })
      : !s ? cell('Unreadable', '', { chip: 'warn', title: d.problem ?? '' })
        : s.link.up ? cell('Up', '', { chip: 'good' })
          : cell('Down', '', { chip: 'bad', title: s.link.problem ?? '', small: s.link.problem ?? '' });
    const own = [...cameras.values()].filter((c) => c.device === d.device);
    const lags = own.map((c) => c.newest?.lag_ms).filter((ms) => ms != null);
    const lag = lags.length ? Math.max(...lags) : null;
    const days = s?.link.certificate_days_left;
    const waits = s?.spool.oldest_age_ms > freshness.status_ms;
    const full = s?.spool.cap_bytes ? s.spool.bytes / s.spool.cap_bytes : 0;
    return [
      cell(d.device, 'name-cell', { small: `${own.length} camera${own.length === 1 ? '' : 's'}` }),
      link,
      cell(heard == null ? '–' : `${span(heard)} ago`, silent ? 'n bad' : 'n', { title: d.status_at ?? '' }),
      cell(lag == null ? '–' : span(lag), lag > 5000 ? 'n warn' : 'n'),
      number(s?.spool.records, waits ? 'warn' : ''),
      cell(bytes(s?.spool.bytes), 'n', s ? { meter: Math.min(1, full), title: `of ${bytes(s.spool.cap_bytes)}` } : {}),
      cell(s?.spool.oldest_age_ms == null ? '–' : span(s.spool.oldest_age_ms), waits ? 'n warn' : 'n'),
      cell(days == null ? '–' : days < 0 ? 'expired' : `${days} d`, days == null ? 'n zero' : days < 7 ? 'n bad' : days < 30 ? 'n warn' : 'n'),
      cell(bytes(s?.disk_free_bytes), 'n'),
      cell(s?.temperature_c == null ? '–' : `${s.temperature_c.toFixed(0)} °C`, s?.temperature_c > 80 ? 'n warn' : 'n'),
      cell(s?.model?.name ?? '–', 'gap', { title: s?.model ? `sha256 ${s.model.sha256}, ONNX Runtime ${s.model.runtime_version}` : '' }),
      cell(s?.agent_version ?? '–', '', { title: s ? `config ${s.config_sha256}, up for ${span(s.uptime_s * 1000)}` : '' }),
    ];
  });
  $('devices').parentElement.hidden = !list.length;
  $('e-devices').hidden = list.length > 0 || !readAll;
  return reporting;
}

const VERDICTS = {
  balanced: ['good', 'Adds up'], 'balanced-with-losses': ['warn', 'Adds up'],
  unbalanced: ['bad', 'Does not add up'], unknown: ['', 'Not known yet'],
};
const WORST = ['balanced', 'balanced-with-losses', 'unknown', 'unbalanced'];

// What stays on the way while statuses come, longer than a status and its records take, will not
// arrive: it was put aside where no camera could be told, or it expired in the broker.
const STUCK_MS = 60000;
const wayEmpty = new Map();

function stuckOnTheWay(r) {
  if (!r.on_the_way || !(ageOf(r.as_of) <= freshness.status_ms)) wayEmpty.set(r.camera, Date.now());
  if (!wayEmpty.has(r.camera)) wayEmpty.set(r.camera, Date.now());
  return Date.now() - wayEmpty.get(r.camera) > STUCK_MS;
}

function drawBooks() {
  const list = [...books.values()].sort((a, b) => a.camera.localeCompare(b.camera));
  const sum = { captured: 0, skipped: 0, in_memory: 0, spooled: 0, acknowledged: 0, dropped: 0, way: 0, stored: 0, centre: 0, refused: 0, given: 0 };
  for (const r of list) {
    for (const name of ['captured', 'skipped', 'in_memory', 'spooled', 'acknowledged']) sum[name] += r.device?.[name] ?? 0;
    sum.dropped += r.dropped; sum.way += r.on_the_way; sum.stored += r.stored;
    sum.centre += r.skipped_at_centre; sum.refused += r.refused; sum.given += r.given_up;
  }
  const worst = list.reduce((w, r) => (WORST.indexOf(r.verdict) > WORST.indexOf(w) ? r.verdict : w), list.length ? 'balanced' : 'unknown');
  const row = (r) => {
    const stuck = stuckOnTheWay(r);
    const [kind, word] = stuck && r.verdict === 'balanced' ? ['warn', VERDICTS[r.verdict][1]] : VERDICTS[r.verdict];
    const d = r.device;
    const says = [r.verdict === 'unbalanced' ? r.says : '',
      r.dropped ? `lost: ${reasons(r.dropped_by_reason)}` : '',
      r.refused ? `refused: ${reasons(r.refused_by_reason)}` : '',
      r.given_up ? `${count(r.given_up)} given up` : '',
      stuck ? `${count(r.on_the_way)} do not arrive` : ''].filter(Boolean).join('; ');
    const sum = d ? `${count(d.captured)} captured; ${count(d.in_memory)} in memory + ${count(d.spooled)} spooled + ${count(d.acknowledged)} acknowledged + ${count(r.dropped)} dropped` : r.says;
    const old = ageOf(r.as_of);
    const pictures = r.pictures_dropped ? `${count(r.pictures_dropped)} pictures lost, their observations kept` : '';
    return [
      cell(r.camera, 'name-cell'),
      number(d?.captured), number(d?.skipped), number(d?.in_memory), number(d?.spooled), number(d?.acknowledged),
      cell(count(r.dropped), r.dropped ? 'n loss' : 'n zero', { title: pictures }),
      number(r.on_the_way, stuck ? 'warn' : ''),
      cell(count(r.stored), r.stored ? 'n' : 'n zero', r.late ? { small: `${count(r.late)} late`, title: 'Late: they came after they had been given up, and no track has them' } : {}),
      number(r.skipped_at_centre), number(r.refused, 'loss'), number(r.given_up, 'loss'),
      cell(word, 'gap', { chip: kind, small: says, title: sum }),
      cell(old == null ? '–' : `${span(old)} ago`, old > freshness.status_ms ? 'n warn' : 'n zero', { title: r.as_of ?? '' }),
    ];
  };
  const all = { key: 'all' };
  fill($('books'), list.length > 1 ? [...list, all] : list, (r) => r.key ?? r.camera, (r) => {
    if (r !== all) return row(r);
    const total = (n) => cell(count(n), 'n sum');
    return [cell('All cameras', 'sum'), total(sum.captured), total(sum.skipped), total(sum.in_memory), total(sum.spooled), total(sum.acknowledged),
      total(sum.dropped), total(sum.way), total(sum.stored), total(sum.centre), total(sum.refused), total(sum.given),
      cell(VERDICTS[worst][1], 'sum gap', { chip: VERDICTS[worst][0] }), cell('', 'sum')];
  });
  $('books').parentElement.hidden = !list.length;
  $('e-books').hidden = list.length > 0 || !readAll;
  return { sum, worst };
}

function copyButton(id) {
  const button = el('button', '', 'Copy id');
  button.type = 'button';
  button.setAttribute('aria-label', `Copy the id of track ${id}`);
  button.addEventListener('click', async () => {
    try { await navigator.clipboard.writeText(id); setText(button, 'Copied'); } catch { setText(button, 'Not allowed'); }
    setTimeout(() => setText(button, 'Copy id'), 1500);
  });
  return button;
}

function drawTracks() {
  const newestFirst = (a, b) => (Date.parse(b.first_seen) || 0) - (Date.parse(a.first_seen) || 0) || (a.id < b.id ? 1 : -1);
  const list = [...tracks.values()].sort(newestFirst);
  for (const dropped of list.splice(tracksKept)) {
    tracks.delete(dropped.id);
    tracksNext = list.at(-1).id;
  }
  let inView = 0;
  fill($('tracks'), list, (t) => t.id, (t) => {
    const fresh = t.state === 'active' && ageOf(t.last_seen) <= freshness.picture_ms;
    if (fresh) inView++;
    const state = fresh ? cell('In view', '', { chip: 'good' }) : cell(t.state === 'active' ? 'Out of view' : 'Ended', '', { chip: '-' });
    if (!t.final) Object.assign(state, { small: 'provisional', title: 'Earlier frames are missing: the final track may be another one' });
    return [
      state,
      cell(t.camera, ''),
      cell(shortTrack(t.id), 'id', { title: t.id, swatch: colour(t.id) }),
      cell(t.class, ''),
      cell(clockTime(t.first_seen, now()), 'n', { title: t.first_seen ?? 'the device had no time' }),
      cell(clockTime(t.last_seen, now()), 'n', { title: t.last_seen ?? 'the device had no time' }),
      cell(span(t.duration_ms), 'n'),
      cell(count(t.observations)),
      cell(t.best_score.toFixed(2)),
      { make: () => copyButton(t.id) },
    ];
  });
  $('tracks').parentElement.hidden = !list.length;
  $('e-tracks').hidden = list.length > 0 || !readAll;
  $('older').hidden = !tracksNext;
  return inView;
}

function total(id, value, of, kind = '') {
  const node = $(id);
  const drawn = `${value}|${of}|${kind}`;
  if (node.drawn === drawn) return;
  node.drawn = drawn;
  node.replaceChildren(kind ? el('span', `chip ${kind}`, el('span', 'dot'), value) : value, el('small', '', of ? ` ${of}` : ''));
}

function drawBanners() {
  const list = [];
  if (!connected && alive) list.push(['bad', 'Connection to the aggregator lost; trying again. Nothing here changes until it is back; ages stay true.']);
  else if (alive && !alive.database_up) list.push(['bad', 'MongoDB does not answer. The aggregator keeps asking; what you see is the last that was read, with its age.']);
  else if (alive && !alive.feed_up) list.push(['bad', 'The live feed from MongoDB is interrupted. It is being opened again; ages stay true.']);
  else if (problem) list.push(['bad', `Cannot read the fleet: ${problem}. Trying again.`]);
  const group = alive?.group;
  if (connected && group && !group.member) list.push(['warn', `This aggregator is not in its consumer group: ${group.problem}. It shows what the others store.`]);
  else if (connected && group && group.partitions === 0) list.push(['warn', 'This aggregator has no partition: other members of its group hold them all. It shows the whole fleet and takes over when another leaves.']);
  if (connected && group?.stopped?.length) list.push(['bad', `Work on ${group.stopped.join(', ')} has stopped: the cameras there stand still. Nothing of them is lost, and it is tried again; this aggregator's log says why.`]);
  const drawn = JSON.stringify(list);
  const place = $('banners');
  if (place.drawn !== drawn) {
    place.drawn = drawn;
    place.replaceChildren(...list.map(([kind, text]) => el('p', `banner ${kind}`, text)));
  }
  const [state, text] = !alive ? ['wait', 'Connecting…']
    : !connected ? ['bad', 'Connection lost']
      : !alive.database_up ? ['bad', 'MongoDB away']
        : !alive.feed_up ? ['bad', 'Feed interrupted'] : !readAll ? ['wait', 'Reading…'] : ['good', 'Live'];
  $('feed').dataset.state = state;
  setText($('feed-text'), text);
  document.title = state === 'bad' ? '(!) Picket' : 'Picket';
  if (alive) {
    setText($('foot'), `Picket aggregator ${alive.version} · ${group.member ? `${group.partitions} partition${group.partitions === 1 ? '' : 's'}` : 'not in its group'} · aggregator's time ${clockTime(new Date(now()).toISOString(), now())}`);
  }
}

function draw() {
  const reporting = drawDevices();
  const live = drawCameras();
  const { sum, worst } = drawBooks();
  const inView = drawTracks();
  drawBanners();
  if (!readAll) return;
  total('t-cameras', count(live), `of ${count(cameras.size)}`);
  total('t-devices', count(reporting), `of ${count(devices.size)}`);
  total('t-tracks', count(inView), inView === 1 ? 'track' : 'tracks');
  total('t-spooled', count(sum.spooled), 'frames');
  total('t-way', count(sum.way), 'frames');
  total('t-dropped', count(sum.dropped), 'frames');
  total('t-books', worst === 'balanced-with-losses' ? 'Add up, with losses' : VERDICTS[worst][1].replace('Adds', 'Add'), '', VERDICTS[worst][0] || '-');
}

$('f-camera').addEventListener('change', async () => {
  tracksKept = 200;
  try {
    const page = await get(trackPath());
    replace(tracks, page.items, 'id');
    tracksNext = page.next;
  } catch (error) { problem = error.message; }
  changed();
});
$('older').addEventListener('click', async () => {
  try {
    const page = await get(trackPath(tracksNext));
    tracksKept += page.items.length;
    for (const track of page.items) tracks.set(track.id, track);
    tracksNext = page.next;
  } catch (error) { problem = error.message; }
  changed();
});
setInterval(changed, 500);
connect();
