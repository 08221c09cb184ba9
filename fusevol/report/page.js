"use strict";
// Shows the report that stands in the page as JSON. Whatever comes from the log gets into the page
// as text only, by `el`; nothing here makes HTML of text, and the page's policy forbids it.

(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const state = { utc: false };
  const isNarrow = matchMedia("(max-width: 700px)").matches;

  /** Return a new element with attributes and children; strings become text. */
  function el(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  function svg(name, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  // Values as people read them

  const grouped = new Intl.NumberFormat("en");
  const number = (value) => grouped.format(value);
  const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

  function bytes(value) {
    if (value === 0) return "0";
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) {
      value /= 1024;
      unit += 1;
    }
    return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
  }

  function duration(us) {
    const short = (value) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
    if (us < 1000) return `${us} µs`;
    if (us < 999_500) return `${short(us / 1000)} ms`;
    const s = us / 1_000_000;
    if (s < 119.5) return `${short(s)} s`;
    if (s < 7170) return `${Math.round(s / 60)} min`;
    return s < 172_000 ? `${short(s / 3600)} h` : `${short(s / 86_400)} d`;
  }

  const two = (value) => String(value).padStart(2, "0");

  /** Return the day and the time of day of microseconds since the epoch; "" for both if unknown. */
  function dayAndTime(us, digits) {
    const date = new Date(Math.floor(us / 1000));
    const of = (part) => (state.utc ? date[`getUTC${part}`]() : date[`get${part}`]());
    const rest = String(((us % 1_000_000) + 1_000_000) % 1_000_000).padStart(6, "0");
    const time = `${two(of("Hours"))}:${two(of("Minutes"))}:${two(of("Seconds"))}`;
    return [
      `${of("FullYear")}-${two(of("Month") + 1)}-${two(of("Date"))}`,
      digits ? `${time}.${rest.slice(0, digits)}` : time,
    ];
  }

  const moment = (us, digits = 3) =>
    typeof us === "number" ? dayAndTime(us, digits).join(" ") : String(us ?? "-");

  /** Return an element that shows a time, and goes along when another zone is chosen. */
  function timeElement(us, digits = 3) {
    if (typeof us !== "number") return el("span", {}, String(us ?? "-"));
    const iso = new Date(Math.floor(us / 1000)).toISOString();
    return el("time", { datetime: iso, "data-us": us, "data-digits": digits }, moment(us, digits));
  }

  // Tables

  const isNumber = { count: 1, errors: 1, bytes: 1, us: 1, share: 1, bytebar: 1, countbar: 1, id: 1 };
  const bars = { share: duration, bytebar: bytes, countbar: number };
  const exact = {
    bytes: (value) => `${number(value)} bytes`,
    bytebar: (value) => `${number(value)} bytes`,
    us: (value) => `${number(value)} µs`,
    share: (value) => `${number(value)} µs`,
  };

  function fillCell(cell, kind, value, whole) {
    if (value === null || value === undefined) return cell.classList.add("blank");
    if (exact[kind]) cell.title = exact[kind](value);
    if (kind === "time") {
      cell.classList.add("when");
      cell.append(timeElement(value));
    } else if (bars[kind]) {
      const bar = el("span", {}, bars[kind](value));
      bar.style.setProperty("--part", `${whole ? (100 * value) / whole : 0}%`);
      cell.classList.add("share");
      cell.append(bar);
    } else if (kind === "bytes" || kind === "us") {
      cell.append(kind === "us" ? duration(value) : bytes(value));
    } else if (kind === "count" || kind === "errors") {
      cell.append(number(value));
    } else {
      cell.append(String(value));
    }
    if (isNumber[kind]) cell.classList.add(value === 0 && kind !== "id" ? "zero" : "value");
    if (kind === "errors" && value) cell.classList.add("failed");
    if (kind === "result" && value !== "ok") cell.classList.add("failed");
  }

  function compare(one, other) {
    if (typeof one === "number" && typeof other === "number") return one - other;
    if (one === null || other === null) return (other === null) - (one === null);
    return String(one).localeCompare(String(other), "en", { numeric: true });
  }

  /**
   * A table that is sorted by its headings.
   *
   * Options: caption; size, how many rows are shown at once; head, which column names the row;
   * order, by which column and in which direction it begins.
   */
  class Table {
    constructor({ columns, rows }, { caption, captionClass = "hidden", size = 10, head = 0, order = null } = {}) {
      Object.assign(this, { columns, rows, size, head, start: 0, order });
      this.wholes = columns.map(([, kind], index) =>
        bars[kind] ? rows.reduce((most, row) => Math.max(most, row[index]), 0) : 0);
      this.headings = columns.map(([heading, kind], index) =>
        el("th", { scope: "col", role: "columnheader", class: isNumber[kind] ? "n" : "" },
          heading === "" ? "" : el("button", { type: "button", onclick: () => this.sortBy(index) }, heading)));
      this.body = el("tbody", { role: "rowgroup" });
      this.table = el("table", { role: "table" },
        el("caption", { class: captionClass }, caption),
        el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...this.headings)),
        this.body);
      if (order) this.sort();
      this.show();
    }

    sortBy(index) {
      const numeric = isNumber[this.columns[index][1]] || this.columns[index][1] === "time";
      const isSame = this.order && this.order[0] === index;
      // Numbers begin with the most, texts with the first.
      this.order = [index, isSame ? -this.order[1] : numeric ? -1 : 1];
      this.start = 0;
      this.sort();
      this.show();
    }

    sort() {
      const [index, direction] = this.order;
      this.rows.sort((one, other) => direction * compare(one[index], other[index]));
    }

    show() {
      this.headings.forEach((heading, index) => {
        const direction = this.order && this.order[0] === index ? this.order[1] : 0;
        const words = { 1: "ascending", "-1": "descending", 0: "none" };
        heading.setAttribute("aria-sort", words[direction]);
      });
      const rows = this.rows.slice(this.start, this.start + this.size);
      this.body.replaceChildren(...rows.map((row) => this.row(row)));
      this.changed?.();
    }

    row(row) {
      return el("tr", { role: "row" }, ...this.columns.map(([heading, kind], index) => {
        const isHead = index === this.head;
        const cell = isHead
          ? el("th", { scope: "row", role: "rowheader" })
          : el("td", { role: "cell", "data-label": heading });
        cell.classList.add(isNumber[kind] ? "n" : "name");
        if (kind !== "text") cell.classList.add(kind);
        fillCell(cell, kind, row[index], this.wholes[index]);
        return cell;
      }));
    }
  }

  /** Return a table with a button that shows all its rows, and what is not in it. */
  function summaryTable(spec, caption, captionClass = "", head = 0) {
    if (!spec.rows.length) return el("p", { class: "note" }, `${caption}: none.`);
    const table = new Table(spec, { caption, captionClass, head, size: isNarrow ? 5 : 10 });
    const box = el("div", { class: "scroll" }, table.table);
    const parts = [box];
    if (spec.rows.length > table.size) {
      const button = el("button", {
        type: "button",
        onclick: () => {
          table.size = spec.rows.length;
          table.show();
          button.parentElement.remove();
          table.headings[0].querySelector("button").focus();
        },
      }, `Show ${plural(spec.rows.length - table.size, "more row")}`);
      parts.push(el("p", { class: "more-rows" }, button));
    }
    const notes = [];
    if (spec.total > spec.rows.length) {
      notes.push(`${number(spec.total)}${spec.missed ? " or more" : ""} in total; the page has the first ${number(spec.rows.length)}.`);
    }
    if (spec.missed) {
      notes.push(`There were too many to keep all: each number may be up to ${number(spec.missed)} too low.`);
    }
    if (notes.length) parts.push(el("p", { class: "quiet" }, notes.join(" ")));
    return el("div", {}, ...parts);
  }

  function pane(heading, spec, note) {
    return el("div", {}, el("h3", {}, heading), note ? el("p", { class: "note" }, note) : null, summaryTable(spec, heading, "hidden"));
  }

  const panes = (...columns) => el("div", { class: "panes" }, ...columns.map((parts) => el("div", {}, ...parts)));

  // Head, summary, what is missing

  function showHead() {
    const { about, totals } = report;
    const volumes = about.volumes.join(", ");
    byId("volumes").textContent = volumes;
    document.title = volumes ? `${volumes}: fusevol access report` : document.title;
    const range = byId("range");
    if (about.first === null) range.append("No operation matches.");
    else {
      range.append(timeElement(about.first, 0), " to ", timeElement(about.last, 0),
        ` · ${plural(totals.count, "operation")}`);
      if (about.choice) range.append(" · only ", el("code", {}, about.choice));
    }
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    byId("zone").textContent = zone ? `local time (${zone})` : "local time";
  }

  function tile(name, value, more, isAlarm) {
    return el("div", { class: isAlarm ? "alarm" : "" }, el("dt", {}, name),
      el("dd", { class: "number" }, value), more ? el("dd", { class: "more" }, more) : null);
  }

  const percent = (part, whole) => `${((100 * part) / (whole || 1)).toFixed(1)} %`;

  function showTiles() {
    const { totals, trouble } = report;
    const [p50, p95, p99] = totals.percentiles_us;
    const failed = totals.errors - totals.misses;
    byId("tiles").append(
      tile("Operations", number(totals.count), `total time ${duration(totals.us)}`),
      tile("Failed", number(totals.errors),
        totals.misses ? `${number(failed)} without lookups of missing names` : percent(totals.errors, totals.count)),
      tile("Not recorded", number(trouble.lost), trouble.lost ? "operations were lost" : "nothing was lost", trouble.lost > 0),
      tile("Read", bytes(totals.bytes_read), `${number(totals.bytes_read)} bytes`),
      tile("Written", bytes(totals.bytes_written), `${number(totals.bytes_written)} bytes`),
      tile("p50 (median)", duration(p50), `p95: ${duration(p95)}`),
      tile("p99", duration(p99), `max: ${duration(totals.longest_us)}`),
      tile("Containers", number(totals.containers),
        `${plural(totals.programs, "program")}, ${plural(totals.users, "user")}`));
  }

  function notice(kind, title, text, items = []) {
    return el("div", { class: `notice ${kind}` }, el("strong", {}, title), text,
      items.length ? el("ul", {}, ...items.map((item) => el("li", {}, ...item))) : null);
  }

  function showTrouble() {
    const { trouble } = report;
    const notices = [];
    if (trouble.lost || trouble.gaps) {
      notices.push(notice("bad", `${plural(trouble.lost, "operation")} could not be recorded`,
        `${plural(trouble.gaps, "gap")}; the events below say when and why.`));
    }
    if (trouble.missing) {
      const holes = trouble.holes.slice(0, 10).map(([volume, first, last, time]) =>
        [`${volume}: ${first === last ? `number ${first}` : `numbers ${first} to ${last}`}, before `, timeElement(time)]);
      notices.push(notice("bad", `${plural(trouble.missing, "record")} missing from the log`,
        "Records are numbered without gaps; these numbers are missing:", holes));
    }
    if (trouble.skipped) {
      notices.push(notice("bad", `${plural(trouble.skipped, "line")} of the log could not be read`,
        "They are not valid records, and are not in this report:", trouble.skipped_first.map((text) => [text])));
    }
    if (trouble.broken_ends) {
      notices.push(notice("warn", `${plural(trouble.broken_ends, "mount")} did not end cleanly`, "See the events below."));
    }
    if (trouble.restarts) {
      notices.push(notice("warn", `${plural(trouble.restarts, "restart")} of the process that serves the volume`,
        "Another process has taken over; nothing was lost. The events below say why."));
    }
    if (!trouble.lost && !trouble.gaps && !trouble.missing && !trouble.skipped) {
      notices.unshift(notice("good", "Complete",
        "No operation was lost, no record is missing between the first and the last, and every line could be read."));
    }
    byId("trouble").append(...notices);
    const events = byId("events");
    const { rows, total } = report.tables.events;
    events.firstElementChild.textContent = `Events of fusevol: ${number(total)}`;
    events.open = trouble.lost > 0 || trouble.broken_ends > 0;
    events.append(summaryTable(report.tables.events, "Mounts, restarts, gaps, changed options; newest first"));
    events.hidden = !rows.length;
  }

  // Activity

  const CLASS_NAMES = {
    read: "reads", write: "writes", change: "other changes", open: "opens and closes", look: "lookups",
  };
  const SPAN = { start: 0, counts: 1, errors: 2, lost: 3, read: 4, written: 5, percentiles: 6 };
  const sum = (values) => values.reduce((one, other) => one + other, 0);

  class Activity {
    constructor({ width_s, spans, classes }) {
      Object.assign(this, { width: width_s, spans, classes });
      this.first = spans[0][SPAN.start];
      this.columns = (spans[spans.length - 1][SPAN.start] - this.first) / width_s + 1;
      this.byColumn = new Map(spans.map((span) => [(span[SPAN.start] - this.first) / width_s, span]));
      this.busiest = spans.reduce((most, span) => (sum(span[1]) > sum(most[1]) ? span : most));
    }

    get widthName() {
      const units = [[604_800, "week"], [86_400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
      const [size, name] = units.find(([seconds]) => this.width % seconds === 0);
      return plural(this.width / size, name);
    }

    build() {
      const stack = this.classes.map((name, index) => [name, CLASS_NAMES[name], (span) => span[SPAN.counts][index]]);
      const charts = [
        this.bars("Operations", stack, number, 9),
        this.bars("Failed, without lookups of missing names", [["error", "failed", (span) => span[SPAN.errors]]], number, 3.2),
        this.bars("Bytes", [["read", "read", (span) => span[SPAN.read]], ["write", "written", (span) => span[SPAN.written]]], bytes, 5),
        this.lines(),
      ];
      this.cursor = el("input", {
        type: "range", min: 0, max: this.columns - 1, value: this.columns - 1, "aria-label": "Look at one bar",
        oninput: () => this.look(),
      });
      this.readout = el("p", { class: "readout" });
      this.axis = el("div", { class: "axis", "aria-hidden": "true" });
      const table = el("details", { ontoggle: (event) => this.numbers(event.target) },
        el("summary", {}, "The charts as a table"));
      byId("charts").append(
        el("p", { class: "note" }, `Each bar is ${this.widthName}. Point at a bar, or move the slider, to see its numbers.`,
          report.trouble.lost ? " Stripes across all charts mark times when operations went unrecorded." : null),
        ...charts, this.axis, el("div", { class: "scrub" }, this.cursor, this.readout), table);
      this.cursor.value = (this.busiest[SPAN.start] - this.first) / this.width;
      this.draw();
    }

    figure(title, key, most, height, alternative, ...shapes) {
      const plot = el("div", { class: "plot" },
        svg("svg", { viewBox: `0 0 ${this.columns} 100`, preserveAspectRatio: "none", role: "img", "aria-label": alternative },
          ...shapes, ...this.blind()),
        el("div", { class: "now" }));
      plot.style.height = `${height}rem`;
      plot.addEventListener("pointermove", (event) => this.point(event, plot));
      plot.addEventListener("pointerdown", (event) => this.point(event, plot));
      return el("figure", { class: "chart" },
        el("figcaption", {}, el("span", {}, title), el("ul", { class: "key" }, ...key.map(([name, text]) => el("li", { class: name }, text))),
          el("span", { class: "most" }, most)), plot);
    }

    /** Mark when operations went unrecorded: the bars say too little there. */
    blind() {
      const columns = [...this.byColumn].filter(([, span]) => span[SPAN.lost]).map(([column]) => column);
      const width = Math.max(1, this.columns / 200);
      return columns.map((column) => svg("path", { class: "lost", d: `M${column} 0h${width}v100h-${width}Z` }));
    }

    bars(title, series, show, height) {
      const total = (span) => sum(series.map(([, , value]) => value(span)));
      const most = this.spans.reduce((one, span) => Math.max(one, total(span)), 0);
      const bottoms = new Map();
      const width = this.columns < 150 ? 0.86 : 1;
      const shapes = series.map(([name, , value]) => {
        let path = "";
        for (const [column, span] of this.byColumn) {
          const amount = most ? (100 * value(span)) / most : 0;
          if (!amount) continue;
          const bottom = bottoms.get(column) ?? 100;
          // What happened at all shall be seen.
          const top = Math.max(0, bottom - Math.max(amount, 0.8));
          path += `M${column} ${bottom.toFixed(2)}V${top.toFixed(2)}h${width}V${bottom.toFixed(2)}Z`;
          bottoms.set(column, top);
        }
        return svg("path", { class: name, d: path });
      });
      const all = sum(this.spans.map(total));
      const alternative = `${title}: ${show(all)} in total, up to ${show(most)} in ${this.widthName}.`;
      return this.figure(title, series, `up to ${show(most)} in ${this.widthName}`, height, alternative, ...shapes);
    }

    lines() {
      const most = this.spans.reduce((one, span) => Math.max(one, span[SPAN.percentiles][2]), 1);
      const height = (us) => 100 - (96 * Math.log10(us + 1)) / Math.log10(most + 1);
      const series = [["p50", "p50", 0], ["p95", "p95", 1], ["p99", "p99", 2]];
      const shapes = series.map(([name, , index]) => {
        let path = "";
        let before = null;
        for (const [column, span] of this.byColumn) {
          const y = height(span[SPAN.percentiles][index]).toFixed(2);
          path += before === column - 1 ? `V${y}h1` : `M${column} ${y}h1`;
          before = column;
        }
        return svg("path", { class: `line ${name}`, d: path });
      });
      const alternative = `Durations: p99 was up to ${duration(most)} in the slowest bar of ${this.widthName}.`;
      return this.figure("Durations (logarithmic)", series, `up to ${duration(most)}`, 6, alternative, ...shapes);
    }

    point(event, plot) {
      const box = plot.getBoundingClientRect();
      const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
      this.cursor.value = Math.min(Math.max(column, 0), this.columns - 1);
      this.look();
    }

    startOf(column) {
      return (this.first + column * this.width) * 1_000_000;
    }

    draw() {
      const middle = Math.floor(this.columns / 2);
      const ends = this.columns > 2 ? [0, middle, this.columns - 1] : [0];
      this.axis.replaceChildren(...ends.map((column) =>
        el("span", {}, ...moment(this.startOf(column), 0).split(" ").map((part) => el("span", {}, part)))));
      this.look();
    }

    look() {
      const column = Number(this.cursor.value);
      const span = this.byColumn.get(column);
      const start = this.startOf(column);
      const words = span ? this.words(span) : "nothing happened";
      for (const line of document.querySelectorAll(".plot .now")) {
        line.style.left = `${(100 * (column + 0.5)) / this.columns}%`;
      }
      this.cursor.setAttribute("aria-valuetext", `${moment(start, 0)}: ${words}`);
      const button = span && el("button", {
        type: "button",
        onclick: () => records.showSpan(start, start + this.width * 1_000_000),
      }, "Show its records");
      this.readout.replaceChildren(el("strong", {}, moment(start, 0)), el("span", {}, words), ...(button ? [button] : []));
    }

    words(span) {
      const counts = span[SPAN.counts];
      const [p50, , p99] = span[SPAN.percentiles];
      const parts = [plural(sum(counts), "operation")];
      const kinds = this.classes.map((name, index) => [CLASS_NAMES[name], counts[index]]).filter(([, count]) => count);
      if (kinds.length) parts[0] += ` (${kinds.map(([name, count]) => `${name} ${number(count)}`).join(", ")})`;
      if (span[SPAN.errors]) parts.push(`${number(span[SPAN.errors])} failed`);
      if (span[SPAN.lost]) parts.push(`${number(span[SPAN.lost])} not recorded`);
      if (span[SPAN.read] || span[SPAN.written]) parts.push(`${bytes(span[SPAN.read])} read, ${bytes(span[SPAN.written])} written`);
      if (sum(counts)) parts.push(`p50 ${duration(p50)}, p99 ${duration(p99)}`);
      return parts.join("; ");
    }

    numbers(details) {
      if (details.querySelector("table")) return;
      const columns = [["From", "time"], ...this.classes.map((name) => [CLASS_NAMES[name], "count"]), ["Failed", "errors"],
        ["Not recorded", "errors"], ["Read", "bytes"], ["Written", "bytes"], ["p50", "us"], ["p95", "us"], ["p99", "us"]];
      const rows = this.spans.map((span) => [span[0] * 1_000_000, ...span[SPAN.counts], ...span.slice(2, 6), ...span[SPAN.percentiles]]);
      details.append(summaryTable({ columns, rows, total: rows.length, missed: 0 }, `What happened, by ${this.widthName}`));
    }
  }

  // Records

  class Records {
    constructor(packed) {
      const text = (index) => (index === null ? null : packed.texts[index]);
      const callers = packed.callers.map(([uid, pid, comm, container]) => [uid, pid, text(comm), text(container)]);
      this.others = packed.others;
      this.all = packed.time.map((time, index) => {
        const [uid, pid, comm, container] = callers[packed.caller[index]];
        const path = text(packed.path[index]);
        const to = text(packed.to[index]);
        return [
          time, text(packed.op[index]), to === null ? path ?? text(packed.volume[index]) : `${path} → ${to}`, text(packed.result[index]),
          packed.us[index], pid === null ? null : `${comm ?? "-"} ${pid}`, uid, container, text(packed.more[index]), packed.seq[index],
        ];
      });
      this.columns = [["Time", "time"], ["Operation", "text"], ["Path", "path"], ["Result", "result"], ["Took", "us"],
        ["Process", "word"], ["User id", "id"], ["Container", "word"], ["Details", "long"], ["No.", "id"]];
      this.span = null;
    }

    build() {
      const { command } = report.about;
      const note = byId("records-note");
      if (this.others > 0) {
        note.append(`These are ${number(this.all.length)} records: the newest, and older ones that failed or were slow. ` +
          `${number(this.others)} more ${this.others === 1 ? "operation is" : "operations are"} counted above, but not in this table; this command shows all:`);
      } else note.append("These are all records. On the command line, show them with:");
      note.append(el("code", { class: "command" }, command));
      this.options("by-op", 1, "all");
      this.options("by-result", 3, "all", [["!", "all failed"]]);
      this.options("by-container", 7, "all");
      this.options("by-user", 6, "all");
      this.table = new Table({ columns: this.columns, rows: [...this.all] },
        { caption: "Records", size: isNarrow ? 25 : 50, head: 2, order: [0, -1] });
      this.table.changed = () => this.pages();
      byId("record-table").append(el("div", { class: "scroll" }, this.table.table));
      const form = byId("search");
      form.addEventListener("submit", (event) => event.preventDefault());
      for (const type of ["input", "change"]) form.addEventListener(type, () => this.filter());
      form.addEventListener("reset", () => setTimeout(() => this.showSpan(null)));
      byId("span-filter").querySelector("button").addEventListener("click", () => this.showSpan(null));
      byId("previous").addEventListener("click", () => this.turn(-1));
      byId("next").addEventListener("click", () => this.turn(1));
      byId("size").value = String(this.table.size);
      byId("size").addEventListener("change", (event) => {
        this.table.size = Number(event.target.value);
        this.table.start = 0;
        this.table.show();
      });
      this.filter();
    }

    options(id, column, all, more = []) {
      const counts = new Map();
      for (const row of this.all) if (row[column] !== null) counts.set(row[column], (counts.get(row[column]) ?? 0) + 1);
      const values = [...counts].sort(([one], [other]) => compare(one, other));
      byId(id).append(el("option", { value: "" }, all), ...more.map(([value, name]) => el("option", { value }, name)),
        ...values.map(([value, count]) => el("option", { value: `=${value}` }, `${value} (${number(count)})`)));
    }

    showSpan(from, to) {
      this.span = from === null ? null : [from, to];
      const shown = byId("span-filter");
      shown.hidden = this.span === null;
      this.filter();
      if (this.span !== null) {
        byId("records").scrollIntoView();
        shown.querySelector("button").focus({ preventScroll: true });
      }
    }

    filter() {
      const words = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = [["by-op", 1], ["by-result", 3], ["by-container", 7], ["by-user", 6]]
        .map(([id, column]) => [byId(id).value, column]).filter(([value]) => value);
      this.haystacks ??= new Map(this.all.map((row) => [row, row.slice(1).join("\n").toLowerCase()]));
      this.table.rows = this.all.filter((row) =>
        (this.span === null || (row[0] >= this.span[0] && row[0] < this.span[1]))
        && chosen.every(([value, column]) => (value === "!" ? row[column] !== "ok" : `=${row[column]}` === value))
        && words.every((word) => this.haystacks.get(row).includes(word)));
      this.table.start = 0;
      this.table.sort();
      this.table.show();
    }

    turn(pages) {
      this.table.start += pages * this.table.size;
      this.table.show();
      byId("found").scrollIntoView({ block: "nearest" });
    }

    pages() {
      const { start, size, rows } = this.table;
      const last = Math.max(1, Math.ceil(rows.length / size));
      byId("found").textContent = rows.length === this.all.length
        ? plural(rows.length, "record") : `${number(rows.length)} of ${plural(this.all.length, "record")}`;
      byId("page").textContent = `Page ${number(start / size + 1)} of ${number(last)}`;
      byId("previous").disabled = start === 0;
      byId("next").disabled = start + size >= rows.length;
      if (this.span) byId("span-filter").firstElementChild.textContent = `Only ${moment(this.span[0], 0)} to ${moment(this.span[1], 0)}.`;
    }
  }

  // All together

  function showTables() {
    const { tables } = report;
    byId("operations").append(summaryTable(tables.ops, "Sorted by total time"));
    const volumes = tables.volumes.rows.length > 1 ? pane("Volumes", tables.volumes) : null;
    byId("who").append(
      panes([pane("Containers", tables.containers), pane("Users", tables.users, "User ids of the host."), volumes],
        [pane("Programs", tables.programs, "A process can choose its own name.")]),
      pane("Processes", tables.processes));
    byId("files").append(panes(
      [pane("Most bytes", tables.moved, "Read and written."), pane("Largest", tables.largest, "By the highest offset that was read or written.")],
      [pane("Most operations", tables.busiest)]));
    byId("failures").append(
      summaryTable(tables.failures, "Without lookups of missing names"),
      panes(
        [pane("By error", tables.errors), pane("Not found", tables.missed_paths, "Names and attributes that do not exist.")],
        [pane("By path", tables.failed_paths, "Without lookups of missing names.")]));
    byId("slow").append(summaryTable(tables.slowest, "The slowest operations; for usual durations, see Operations", "", 2));
  }

  function showFoot() {
    const { about } = report;
    const rows = [
      ["Created", timeElement(about.made, 0)], ["On host", about.host], ["By", `fusevol ${about.version}`],
      ["From", about.files.join(", ")], ["Filter", about.choice || "all records"],
    ];
    byId("about").append(el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
  }

  function choose(utc) {
    state.utc = utc;
    for (const element of document.querySelectorAll("time")) {
      element.textContent = moment(Number(element.dataset.us), Number(element.dataset.digits));
    }
    activity?.draw();
    records.table.show();
  }

  showHead();
  showTrouble();
  showTiles();
  showTables();
  showFoot();
  const records = new Records(report.records);
  records.build();
  const activity = report.timeline.spans.length ? new Activity(report.timeline) : null;
  if (activity) activity.build();
  else byId("charts").append(el("p", { class: "note" }, "Nothing happened."));
  for (const radio of document.querySelectorAll("[name=zone]")) {
    radio.addEventListener("change", () => choose(radio.value === "utc" && radio.checked));
  }
})();
