"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const read = (id) => ($(id) ? JSON.parse($(id).textContent) : null);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes))
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
    element.append(...children.filter((child) => child != null));
    return element;
  };
  const named = (text) => make("bdi", {}, text);
  const percent = (p) => (p > 0.9995 && p < 1 ? "99.9" : p < 0.0005 ? "< 0.1" : (100 * p).toFixed(p < 0.1 ? 1 : 0)) + " %";

  // --- maps: grey tiles, coloured here -----------------------------------------------------------------------
  const scale = (anchors) => Array.from({ length: 256 }, (_, i) => {
    const at = (i / 255) * (anchors.length - 1), k = Math.min(Math.floor(at), anchors.length - 2);
    return anchors[k].map((c, j) => Math.round(c + (at - k) * (anchors[k + 1][j] - c)));
  });
  const INFERNO = scale([[0, 0, 4], [27, 12, 65], [74, 12, 107], [120, 28, 109], [165, 44, 96], [207, 68, 70], [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164]]);
  const CIVIDIS = scale([[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]]);
  const sheets = new Map();
  const sheet = (address) => {
    if (!sheets.has(address)) {
      const image = new Image();
      image.src = address;
      sheets.set(address, image.decode().then(() => {
        const context = make("canvas", { width: image.width, height: image.height }).getContext("2d", { willReadFrequently: true });
        context.drawImage(image, 0, 0);
        return context;
      }));
    }
    return sheets.get(address);
  };
  const paint = async (canvas, address, column, line, across, down, seeThrough) => {
    const wanted = (canvas.wanted = `${address.length} ${address.slice(-40)} ${column} ${line}`);
    const context = await sheet(address);
    if (canvas.wanted !== wanted) return; // another map was asked for meanwhile
    const fine = seeThrough ? 16 : 1; // grey is smoothed before it is coloured
    canvas.width = across * fine;
    canvas.height = down * fine;
    const target = canvas.getContext("2d", { willReadFrequently: true });
    target.imageSmoothingQuality = "high";
    target.drawImage(context.canvas, column * across, line * down, across, down, 0, 0, canvas.width, canvas.height);
    const tile = target.getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < tile.data.length; i += 4) {
      const grey = tile.data[i];
      [tile.data[i], tile.data[i + 1], tile.data[i + 2]] = INFERNO[grey];
      tile.data[i + 3] = seeThrough ? Math.round(255 * Math.sqrt(grey / 255)) : 255;
    }
    target.putImageData(tile, 0, 0);
    canvas.dataset.painted = wanted;
  };
  const roving = (group, columns) => group.addEventListener("keydown", (event) => {
    const all = [...group.querySelectorAll("button, [role=button]")], at = all.indexOf(event.target);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() }[event.key];
    if (at < 0 || !step || !all[at + step]) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[at + step].tabIndex = 0;
    all[at + step].focus();
  });
  const choices = (group, names, chosen, choose) => group.replaceChildren(...names.map((name, i) =>
    make("button", { type: "button", "aria-pressed": String(i === chosen), onclick: () => {
      [...group.children].forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
      choose(i);
    } }, named(name))));

  // --- images --------------------------------------------------------------------------------------------
  const data = read("data");
  if (data && data.items && $("gallery")) images(data);
  function images({ items, others, pictures, maps, classes, runs }) {
    const byRow = new Map(items.map((item) => [item.row, item])), right = new Map(), state = { tab: "", label: "", guess: "" };
    const picture = (row, alt) => pictures[row] ? make("img", { src: pictures[row], alt, decoding: "async" }) : make("span", { class: "none" }, "no picture");
    const isWrong = (item, run) => item.guesses.length > 0 && item.guesses[run][0][0] !== item.label;
    const wrongSomewhere = (item) => item.guesses.some((_, run) => isWrong(item, run));
    const tests = { mistakes: ["Wrong", wrongSomewhere] };
    if (runs.length > 1) {
      tests.mistakes[0] = "Wrong in any";
      runs.forEach((name, run) => (tests["only" + run] = ["Wrong in " + name, (item) => isWrong(item, run)]));
      tests.differ = ["They differ", (item) => wrongSomewhere(item) && !item.guesses.every((_, run) => isWrong(item, run))];
    }
    tests.all = ["All", (item) => item.guesses.length > 0];
    tests.suspects = ["Labels to check", (item) => item.suspect];
    tests.copies = ["Copies", (item) => item.copies && item.split === "train"];
    const counted = Object.entries(tests).map(([key, [name, test]]) => [key, name, items.filter(test).length]).filter(([key, , n]) => n || key === "mistakes");
    state.tab = counted[0][2] ? "mistakes" : "all";
    let listed = [];
    const found = () => items.filter((item) => tests[state.tab][1](item)
      && (state.label === "" || item.label === Number(state.label))
      && (state.guess === "" || item.guesses.some((guess) => guess[0][0] === Number(state.guess)) || (item.suspect && item.suspect[0] === Number(state.guess))));
    const about = (item) => {
      if (state.tab === "copies") return [make("span", {}, named(item.path)), make("span", { class: "miss-text" }, "also in " + byRow.get(item.copies[0]).split)];
      if (state.tab === "suspects") return [make("span", {}, named(classes[item.label]), make("small", {}, item.split)), make("span", { class: "miss-text" }, "?", named(classes[item.suspect[0]]), make("span", {}, percent(item.suspect[1])))];
      const lines = [make("span", {}, named(classes[item.label]))];
      item.guesses.forEach((guess, run) => {
        const wrong = isWrong(item, run);
        lines.push(make("span", { class: wrong ? "miss-text" : "hit-text" }, make("span", {}, wrong ? "✗" : "✓"), named(classes[guess[0][0]]), make("span", {}, percent(guess[0][1]))));
      });
      return lines;
    };
    const says = (item) => {
      const parts = item.guesses.map((guess, run) => (runs.length > 1 ? runs[run] + ": " : "") + classes[guess[0][0]] + " " + percent(guess[0][1]));
      return `${classes[item.label]}; ${parts.length ? "guessed " + parts.join(", ") : item.split}`;
    };
    const draw = () => {
      listed = found();
      if (state.tab === "suspects") listed.sort((a, b) => b.suspect[1] - b.suspect[2] - a.suspect[1] + a.suspect[2]);
      $("gallery").replaceChildren(...listed.map((item, i) => make("button", { type: "button", "aria-label": says(item), tabindex: i ? -1 : 0, onclick: () => open(i) },
        state.tab === "copies" ? make("span", { class: "pair" }, picture(item.row, ""), picture(item.copies[0], "")) : picture(item.row, ""),
        make("span", { class: "text" }, ...about(item)))));
      if (!listed.length) $("gallery").append(make("p", { class: "empty" }, "No image is left: choose another class, or Reset."));
      $("gallery").scrollTop = 0;
      $("count").textContent = `${listed.length} image${listed.length === 1 ? "" : "s"}`;
      $("by-label").value = state.label;
      $("by-guess").value = state.guess;
      [...$("tabs").children].forEach((button, i) => button.setAttribute("aria-pressed", String(counted[i][0] === state.tab)));
      document.querySelectorAll("#matrix .cell").forEach((cell) => cell.classList.toggle("on", cell.dataset.label === state.label && cell.dataset.guess === state.guess));
    };
    const show = (change) => { Object.assign(state, change); draw(); };
    choices($("tabs"), counted.map(([, name, n]) => `${name} ${n}`), 0, (i) => show({ tab: counted[i][0] }));
    for (const [id, key] of [["by-label", "label"], ["by-guess", "guess"]]) {
      classes.forEach((name, i) => $(id).append(make("option", { value: i }, name)));
      $(id).addEventListener("change", () => show({ [key]: $(id).value }));
    }
    $("reset").addEventListener("click", () => show({ tab: counted[0][2] ? "mistakes" : "all", label: "", guess: "" }));
    document.querySelectorAll("[data-tab]").forEach((button) => button.addEventListener("click", () => {
      show({ tab: button.dataset.tab, label: "", guess: "" });
      $("images").scrollIntoView();
      $("gallery").focus({ preventScroll: true });
    }));
    document.querySelectorAll("[data-label]").forEach((target) => {
      const choose = () => {
        show({ tab: "all", label: target.dataset.label, guess: target.dataset.guess || "" });
        if (!target.closest("#matrix")) $("images").scrollIntoView();
      };
      target.addEventListener("click", choose);
      if (target.closest("#matrix")) {
        target.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); } });
        for (const event of ["focus", "mouseenter"]) target.addEventListener(event, () => ($("matrix-says").textContent = target.getAttribute("aria-label")));
      }
    });
    roving($("matrix"), () => 1);
    roving($("gallery"), () => getComputedStyle($("gallery")).gridTemplateColumns.split(" ").length);

    // one image
    const one = { at: 0, look: 2 }; // what is laid over it: nothing, the source's attention, the first run's, …
    const bars = (item, run) => {
      const guess = item.guesses[run];
      return make("div", { class: "bars" }, ...guess.flatMap(([index, p]) => [
        make("span", { class: "name" }, named(classes[index])),
        make("i", { class: index === item.label ? "label" : index === guess[0][0] ? "guess" : "", style: `width:${Math.max(1, 100 * p)}%` }),
        make("span", { class: "amount" }, percent(p))]));
    };
    const neighbour = (row, says) => {
      const [path, label] = byRow.has(row) ? [byRow.get(row).path, byRow.get(row).label] : others[row];
      return make("figure", {}, picture(row, path), make("figcaption", {}, named(classes[label]), make("br"), make("small", {}, says)));
    };
    const open = (i) => {
      const held = document.activeElement && document.activeElement.dataset.by;
      one.at = i;
      fill();
      if (!$("one").open) $("one").showModal();
      (held && $("one-body").querySelector(`[data-by="${held}"]:enabled`) || $("one")).focus(); // what was focused is gone
    };
    const fill = () => {
      const item = listed[one.at], canvas = make("canvas"), view = make("div", { class: "view" }, picture(item.row, item.path), canvas);
      const known = maps && maps.tiles[item.row] !== undefined;
      const look = () => {
        view.classList.toggle("dim", known && one.look > 0);
        canvas.hidden = !known || one.look === 0;
        if (!canvas.hidden) {
          const tile = maps.tiles[item.row];
          paint(canvas, maps.sheets[one.look - 1], tile % maps.columns, Math.floor(tile / maps.columns), maps.across, maps.down, true);
        }
      };
      const seen = make("div", { class: "tabs", role: "group", "aria-label": "What is laid over the image" });
      if (known) choices(seen, ["photograph", "source looks at", ...(runs.length > 1 ? runs : ["model looks at"])], one.look, (k) => { one.look = k; look(); });
      const relabel = make("select", { id: "relabel", onchange: (event) => right.set(item.row, event.target.value) }, make("option", { value: "" }, "as it is"), ...classes.map((name) => make("option", { value: name }, name)));
      relabel.value = right.get(item.row) || "";
      const step = (by, name, sign) => make("button", { type: "button", "aria-label": name, "data-by": by, disabled: !listed[one.at + by], onclick: () => open(one.at + by) }, sign);
      $("one-body").replaceChildren(
        make("div", { class: "one-head" }, make("h2", { id: "one-title" }, named(classes[item.label])), make("small", {}, `${one.at + 1} of ${listed.length}`),
          step(-1, "Previous image", "←"), step(1, "Next image", "→"), make("button", { type: "button", "aria-label": "Close", onclick: () => $("one").close() }, "✕")),
        make("div", { class: "one" },
          make("div", {}, view, make("div", { class: "bar-of-tools" }, seen), make("p", { class: "path" }, item.split + ": ", named(item.path)),
            make("label", {}, "right class ", relabel)),
          make("div", {},
            ...item.guesses.flatMap((guess, run) => [make("h3", {}, runs.length > 1 ? named(runs[run]) : null, runs.length > 1 ? ": " : null,
              make("span", { class: isWrong(item, run) ? "miss-text" : "hit-text" }, isWrong(item, run) ? "✗ guessed " : "✓ guessed ", named(classes[guess[0][0]]))), bars(item, run)]),
            item.suspect ? make("p", {}, "Its label looks wrong: a linear probe that did not see it says ", named(classes[item.suspect[0]]), ` (${percent(item.suspect[1])}), and gives its label ${percent(item.suspect[2])}.`) : null,
            item.copies ? make("h3", {}, "Copies of it") : null,
            item.copies ? make("div", { class: "near" }, ...item.copies.map((row) => neighbour(row, byRow.get(row).split))) : null,
            item.near ? make("h3", {}, "Most alike in training") : null,
            item.near ? make("div", { class: "near" }, ...item.near.map(([row, cosine]) => neighbour(row, `cosine ${cosine.toFixed(2)}`))) : null)));
      look();
    };
    $("one").addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && event.target.tagName !== "SELECT" && listed[one.at + by]) { event.preventDefault(); open(one.at + by); }
    });
    $("one").addEventListener("click", (event) => { if (event.target === $("one")) $("one").close(); });
    $("export").addEventListener("click", () => {
      // a spreadsheet takes text that begins like a formula for one
      const quote = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
      const lines = listed.map((item) => [item.split, item.path, classes[item.label],
        ...item.guesses.flatMap((guess) => [classes[guess[0][0]], guess[0][1]]), ...(item.guesses.length ? [] : runs.flatMap(() => ["", ""])),
        item.suspect ? classes[item.suspect[0]] : "", (item.near || []).map(([row]) => (byRow.has(row) ? byRow.get(row).path : others[row][0])).join("; "), right.get(item.row) || ""]);
      const head = ["split", "path", "label", ...runs.flatMap((name) => (runs.length > 1 ? [`${name}: guess`, `${name}: probability`] : ["guess", "probability"])), "looks_like", "most_alike_in_train", "right_class"];
      const text = [head, ...lines].map((line) => line.map(quote).join(",")).join("\r\n") + "\r\n";
      const link = make("a", { href: URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" })), download: "images.csv" });
      link.click();
      URL.revokeObjectURL(link.href);
    });
    draw();
  }

  // --- a study: a method opens its runs
  document.querySelectorAll("a[data-opens]").forEach((link) => link.addEventListener("click", () => {
    document.querySelector(link.getAttribute("href")).open = true;
  }));

  // --- attention --------------------------------------------------------------------------------------------
  const explored = read("explored");
  if (explored && $("grid")) attention(explored);
  function attention({ images, size, layers, heads, down, across, models, epochs, drift }) {
    const classes = data.classes, state = { image: 0, layer: layers - 1, head: 0, of: models.length > 1 ? 1 : 0, drift: 0, epoch: epochs.numbers.length ? epochs.numbers[0].length - 1 : 0 };
    const place = () => `layer ${state.layer + 1}, ${state.head ? "head " + state.head : "mean of heads"}`;
    const steps = epochs.numbers.length ? epochs.numbers[0].length : 0, followed = () => steps > 0 && state.image < epochs.sheets[0][0].length;
    const address = (model) => model > 0 && followed() && state.epoch < steps - 1
      ? epochs.sheets[model - 1][state.epoch][state.image] : models[model].sheets[state.image];
    const views = models.map((model) => ({ image: make("img", { alt: "" }), canvas: make("canvas"), outline: document.createElementNS("http://www.w3.org/2000/svg", "svg"), says: make("small") }));
    views.forEach((view, i) => {
      view.outline.setAttribute("viewBox", `0 0 ${size} ${size}`);
      view.outline.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
      $("models").append(make("figure", {}, make("div", { class: "view dim" }, view.image, view.canvas, view.outline), make("figcaption", {}, make("b", {}, named(models[i].name)), " ", view.says)));
    });
    const tile = Math.max(18, Math.min(58, Math.floor(430 / (heads + 1))));
    const table = (group, first, act, content) => {
      const columns = heads + (first ? 1 : 0), buttons = [];
      group.style.gridTemplateColumns = `repeat(${columns + 1}, auto)`;
      group.style.setProperty("--tile", tile + "px");
      group.append(make("span"), ...Array.from({ length: columns }, (_, c) => make("span", {}, first && !c ? "mean" : String(c + (first ? 0 : 1)))));
      for (let layer = 0; layer < layers; layer++) {
        group.append(make("span", {}, String(layer + 1)));
        for (let c = 0; c < columns; c++) {
          const head = first ? c : c + 1;
          const button = make("button", { type: "button", tabindex: -1, "aria-label": `layer ${layer + 1}, ${head ? "head " + head : "mean of heads"}`, onclick: () => act(layer, head) }, content ? make("canvas") : "");
          group.append(button);
          buttons.push({ button, layer, head });
        }
      }
      roving(group, () => columns);
      return buttons;
    };
    const go = (layer, head) => { Object.assign(state, { layer, head }); draw(); };
    const grid = table($("grid"), true, go, true), cells = table($("drift"), false, go, false);
    const press = (buttons) => {
      for (const { button, layer, head } of buttons) button.setAttribute("aria-pressed", String(layer === state.layer && head === state.head));
      const focused = buttons.find(({ button }) => button === document.activeElement) || buttons.find(({ button }) => button.getAttribute("aria-pressed") === "true") || buttons[0];
      for (const { button } of buttons) button.tabIndex = button === focused.button ? 0 : -1;
    };
    const draw = () => {
      const image = images[state.image];
      views.forEach((view, i) => {
        view.image.src = image.picture;
        view.image.alt = `${classes[image.label]}, ${models[i].name}: ${place()}`;
        view.canvas.style.opacity = $("strength").value / 100;
        view.outline.firstChild.setAttribute("d", $("outline").checked ? image.outline : "");
        view.says.textContent = place() + (i && followed() ? `, epoch ${epochs.numbers[i - 1][state.epoch]}` : "");
        paint(view.canvas, address(i), state.head, state.layer, across, down, true);
      });
      $("outline-label").hidden = !image.outline;
      $("epoch-label").hidden = !followed();
      $("epoch-says").textContent = followed() ? [...new Set(epochs.numbers.map((own) => own[state.epoch]))].join(", ") : "";
      $("place").textContent = place();
      for (const { button, layer, head } of grid) paint(button.firstChild, address(state.of), head, layer, across, down, false);
      press(grid);
      press(cells);
    };
    const logs = drift.flat(2).map((value) => Math.log(value + 1e-9)), least = Math.min(...logs), most = Math.max(...logs);
    const colour = () => {
      for (const { button, layer, head } of cells) {
        const value = drift[state.drift][layer][head - 1];
        const [r, g, b] = CIVIDIS[most > least ? Math.round((255 * (Math.log(value + 1e-9) - least)) / (most - least)) : 0];
        button.style.background = `rgb(${r},${g},${b})`;
        button.title = `layer ${layer + 1}, head ${head}: ${value.toPrecision(3)}`;
        button.setAttribute("aria-label", `${button.title} drift`);
      }
    };
    $("drift-says").textContent = `From ${Math.exp(least).toPrecision(2)} (dark) to ${Math.exp(most).toPrecision(2)} (bright), logarithmic${models.length > 2 ? ", the same for all runs" : ""}.`;
    $("strip").append(...images.map((image, i) => make("button", { type: "button", "aria-pressed": String(!i), "aria-label": `${classes[image.label]}, ${image.path}`, onclick: (event) => {
      state.image = i;
      [...$("strip").children].forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
      draw();
    } }, make("img", { src: image.picture, alt: "" }))));
    $("epoch").max = Math.max(0, steps - 1);
    $("epoch").value = state.epoch;
    $("epoch").addEventListener("input", () => { state.epoch = Number($("epoch").value); draw(); });
    $("strength").addEventListener("input", draw);
    $("outline").addEventListener("change", draw);
    choices($("grid-of"), models.map((model) => model.name), state.of, (i) => { state.of = i; draw(); });
    choices($("drift-of"), models.slice(1).map((model) => model.name), 0, (i) => { state.drift = i; colour(); });
    colour();
    draw();
  }
})();
