"use strict";
// The status page. All it shows comes from its own address: events of /api/events, lists of /api/accounts and
// /api/sessions. Names are other people's: they are set as text, never as HTML.

const element = (id) => document.getElementById(id);
const show = (id, text) => { element(id).textContent = text; };
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const percent = (share) => (share === null || share === undefined ? "–" : decimal.format(share * 100) + " %");

function time(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return whole.format(seconds * 1e6) + " µs";
  return seconds < 1 ? decimal.format(seconds * 1e3) + " ms" : decimal.format(seconds) + " s";
}

// Hours from 0 to 23, whatever the browser's language.
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB", CLOCK);

function span(seconds) {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
}

// A row of cells: text, or [text, class], or a node.
function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    if (cell instanceof Node) td.append(cell);
    else if (Array.isArray(cell)) { td.textContent = cell[0]; td.className = cell[1]; }
    else td.textContent = cell;
    tr.append(td);
  }
  return tr;
}
const number = (value) => [value === null || value === undefined ? "–" : whole.format(value), "n"];
const fill = (id, rows) => element(id).querySelector("tbody").replaceChildren(...rows);

// --- charts

const KEPT = 450;
const HEIGHT = 170;
let points = [];
let charts = [];

const CHARTS = [
  { id: "chart-ports", lines: [["ports in use", "ports", "--blue"], ["TIME_WAIT", "time_wait", "--orange"]] },
  { id: "chart-connections", lines: [["sessions", "sessions", "--blue"], ["in use", "active", "--green"], ["at rest", "idle", "--violet"], ["connecting", "connecting", "--orange"]] },
  { id: "chart-rates", lines: [["logins", "logins", "--blue"], ["commands", "commands", "--green"]] },
  { id: "chart-latency", lines: [
    ["login p50", (p) => ms(p.login_p50), "--blue"], ["login p99", (p) => ms(p.login_p99), "--violet"],
    ["checkout p50", (p) => ms(p.checkout_p50), "--green"], ["checkout p99", (p) => ms(p.checkout_p99), "--orange"]] },
  { id: "chart-reuse", lines: [["reused", (p) => (p.reuse === null ? null : p.reuse * 100), "--green"]] },
];
const ms = (seconds) => (seconds === null ? null : seconds * 1000);
const pick = (key) => (typeof key === "function" ? key : (point) => point[key]);
const data = (chart) => [points.map((p) => p.at), ...chart.lines.map(([, key]) => points.map(pick(key)))];

function makeCharts() {
  charts.forEach((chart) => chart.plot.destroy());
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
  charts = CHARTS.map((chart) => {
    const at = element(chart.id);
    const value = (_, v) => (v === null || v === undefined ? "–" : decimal.format(v));
    const plot = new uPlot({
      width: at.clientWidth, height: HEIGHT,
      scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), (high ?? 1) * 1.05 || 1] } },
      axes: [{ ...axis, space: 75, values: (_, ticks, __, ___, step) => ticks.map((tick) => clock(tick).slice(0, step < 60 ? 8 : 5)) },
        { ...axis, size: 60 }],
      series: [{ value: (_, v) => (v ? clock(v) : "–") },
        ...chart.lines.map(([label, , stroke]) => ({ label, stroke: colour(stroke), width: 2, spanGaps: true, points: { show: false }, value }))],
    }, data(chart), at);
    return { chart, plot, at };
  });
}

const draw = () => charts.forEach(({ chart, plot }) => plot.setData(data(chart)));
addEventListener("resize", () => charts.forEach(({ plot, at }) => plot.setSize({ width: at.clientWidth, height: HEIGHT })));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", makeCharts);

// --- the summary

function state(summary) {
  const at = element("state");
  at.textContent = summary.state;
  at.className = "state " + (summary.ready ? "good" : "bad");
  show("version", summary.version);
  show("uptime", "up " + span(summary.uptime_seconds));
}

function tiles(summary) {
  show("sessions", whole.format(summary.sessions.open));
  const { refused, throttled, unavailable, limit } = summary.logins;
  show("refused", whole.format(refused + throttled));
  show("refused-more", `since the start; ${whole.format(unavailable + limit)} could not be checked`);
  show("lost", whole.format(summary.commands.lost));
  element("lost").className = summary.commands.lost ? "bad" : "";
  show("sessions-limit", "of " + whole.format(summary.sessions.limit));
  show("logins", decimal.format(summary.rates.logins));
  show("commands", decimal.format(summary.rates.commands));
  show("reuse", percent(summary.reuse_ratio));
  for (const what of ["login", "checkout"])
    for (const quantile of ["p50", "p99"]) show(`${what}-${quantile}`, time(summary[`${what}_seconds`][quantile]));
}

// The least of 1, 2 and 5, 10, 20 and so on that leaves some room, and no more than there may be.
function scale(value, most) {
  const wanted = Math.max(10, value * 1.25);
  const ten = 10 ** Math.floor(Math.log10(wanted));
  return Math.min(most, [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= wanted));
}

function budget({ budget: { in_use, capacity }, ports }) {
  const share = capacity ? in_use / capacity : 0;
  show("budget-in-use", whole.format(in_use));
  show("budget-capacity", whole.format(capacity));
  show("ports-in-use", whole.format(ports.in_use));
  show("ports-time-wait", whole.format(ports.time_wait));
  const end = scale(in_use, capacity);
  show("budget-scale", `(the bar ends at ${whole.format(end)}${share > 0.8 ? "; nearly all are in use" : ""})`);
  element("gauge-bar").style.width = Math.min(100, end ? in_use / end * 100 : 0) + "%";
  element("gauge").classList.toggle("scarce", share > 0.8);
  element("gauge").setAttribute("aria-valuenow", in_use);
  element("gauge").setAttribute("aria-valuemax", capacity);
}

function backends(list) {
  fill("backends", list.map((backend) => {
    const well = backend.reachable && backend.service === "running";
    const health = backend.reachable ? backend.service : `${backend.service}; ${backend.outage}`;
    const { active, idle, spare } = backend.connections;
    return row([backend.name, backend.address, [health, well ? "" : "bad"], number(active), number(idle), number(spare),
      number(backend.ports.in_use), number(backend.ports.time_wait)]);
  }));
}

function hubs({ total, rows }) {
  show("hubs-known", total > rows.length ? `${whole.format(total)}, those with the most sessions` : whole.format(total));
  fill("hubs", rows.map((hub) => row([hub.user, hub.mailbox + (hub.read_only ? " (read only)" : ""), number(hub.sessions),
    [hub.state, "word"], number(hub.connection), [span(hub.seconds), "n"]])));
}

const LOGINS = { cached: "accepted from memory", verified: "accepted by the server", refused: "refused by the server",
  throttled: "turned away: too many were wrong", unavailable: "could not be checked", limit: "a limit was reached",
  malformed: "not understood", disabled: "not allowed without TLS" };
function logins(results) {
  fill("login-results", Object.entries(LOGINS).map(([key, words]) => row([words, number(results[key])])));
}

function certificates(list) {
  element("no-certificates").hidden = list.length > 0;
  fill("certificates", list.map(({ side, name, expires }) => {
    const days = Math.floor((expires - Date.now() / 1000) / 86400);
    const day = new Date(expires * 1000).toISOString().slice(0, 10);
    const words = days < 0 ? `expired on ${day}` : `until ${day}, ${whole.format(days)} days`;
    return row([`${side} ${name}`, [words, days < 14 ? "bad" : ""]]);
  }));
}

function retired(reasons) {
  const known = Object.entries(reasons).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  const most = known.length ? known[0][1] : 1;
  fill("retired", known.map(([reason, count]) => {
    const meter = document.createElement("meter");
    Object.assign(meter, { max: most, value: count });
    return row([reason, number(count), meter]);
  }));
  if (!known.length) element("retired").tBodies[0].append(row([["None since the start.", "quiet"]]));
}

function recent(list) {
  element("recent").replaceChildren(...list.map((entry) => {
    const li = document.createElement("li");
    const small = document.createElement("small");
    const when = clock(entry.at);
    small.textContent = `${when}, ${whole.format(entry.times)} ${entry.times === 1 ? "time" : "times"}${entry.fields && "; " + entry.fields}`;
    li.className = entry.level === "error" ? "bad" : "";
    li.append(entry.message, small);
    return li;
  }));
  if (!list.length) element("recent").textContent = "None since the start.";
}

// --- accounts

const ROWS = 20;
const view = { sort: "sessions", filter: "", offset: 0, account: null, busy: false };

async function list(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function accounts() {
  if (view.busy || document.hidden) return;
  view.busy = true;
  try {
    const query = new URLSearchParams({ sort: view.sort, filter: view.filter, offset: view.offset, limit: ROWS, max_age: 2 });
    const page = await list("/api/accounts?" + query);
    fill("accounts", page.rows.map((account) => {
      const name = document.createElement("button");
      name.textContent = account.authzid ? `${account.user} as ${account.authzid}` : account.user;
      name.addEventListener("click", () => { view.account = account; sessions(); });
      return row([name, account.backend, number(account.sessions), number(account.connections), number(account.in_use),
        number(account.waiting), number(account.waits)]);
    }));
    const last = Math.min(page.offset + ROWS, page.total);
    show("page-range", page.total ? `${page.offset + 1}–${last} of ${whole.format(page.total)}` : "none");
    element("previous").disabled = page.offset === 0;
    element("next").disabled = last >= page.total;
    document.querySelectorAll("[data-sort]").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.sort === view.sort)));
    await sessions();
  } catch (error) {
    show("page-range", String(error.message));
  } finally {
    view.busy = false;
  }
}

async function sessions() {
  element("account-sessions").hidden = !view.account;
  if (!view.account) return;
  show("account-name", view.account.user);
  const page = await list("/api/sessions?limit=50&account=" + view.account.id);
  fill("sessions-table", page.rows.map((session) => row([number(session.id), session.client, session.tls ?? "–",
    number(session.seconds), number(session.commands), number(session.received), number(session.sent),
    session.command ?? "–", number(session.connection), session.mailbox ?? "–"])));
}

function look(change) {
  Object.assign(view, change);
  accounts();
}

document.querySelectorAll("[data-sort]").forEach((button) =>
  button.addEventListener("click", () => look({ sort: button.dataset.sort, offset: 0 })));
element("filter").addEventListener("input", (event) => look({ filter: event.target.value, offset: 0 }));
element("filter-form").addEventListener("submit", (event) => event.preventDefault());
element("previous").addEventListener("click", () => look({ offset: Math.max(0, view.offset - ROWS) }));
element("next").addEventListener("click", () => look({ offset: view.offset + ROWS }));
element("account-close").addEventListener("click", () => look({ account: null }));

// --- live

function summarize(summary) {
  state(summary);
  tiles(summary);
  budget(summary.upstream);
  backends(summary.backends);
  hubs(summary.hubs);
  logins(summary.logins);
  certificates(summary.certificates);
  retired(summary.upstream.retired);
  recent(summary.recent);
  show("accounts-known", whole.format(summary.accounts.known) + " known");
  if (summary.point && (!points.length || summary.point.at > points[points.length - 1].at)) {
    points.push(summary.point);
    points = points.slice(-KEPT);
    draw();
  }
  accounts();
}

makeCharts();
const events = new EventSource("/api/events");
events.addEventListener("history", (event) => { points = JSON.parse(event.data); draw(); });
events.addEventListener("summary", (event) => summarize(JSON.parse(event.data)));
// The stream ends now and then, and begins again by itself.
let lost;
events.addEventListener("open", () => clearTimeout(lost));
events.addEventListener("error", () => {
  clearTimeout(lost);
  lost = setTimeout(() => {
    element("state").textContent = "no connection to imapool";
    element("state").className = "state bad";
  }, 3000);
});
// The first summary at once, not after the next sample.
list("/api/summary").then(summarize).catch(() => {});
