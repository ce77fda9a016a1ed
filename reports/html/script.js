"use strict";
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const one = (id) => document.getElementById(id);
  for (const each of all("[hidden]")) each.hidden = false;

  // Light and dark
  const remember = (value) => { try { localStorage.setItem("vae-compat-theme", value); } catch { /* not from a file */ } };
  const remembered = () => { try { return localStorage.getItem("vae-compat-theme"); } catch { return null; } };
  const root = document.documentElement;
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  one("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember(root.dataset.theme);
  });

  // Copying
  const select = (button) => {
    const text = button.parentElement.querySelector("code");
    if (!text) return false;
    const range = document.createRange();
    range.selectNodeContents(text);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return true;
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
    } catch {
      button.textContent = select(button) ? "selected" : button.dataset.copy;
    }
    setTimeout(() => { button.textContent = "copy"; }, 2500);
  });

  // The grid over pictures
  document.addEventListener("change", (event) => {
    if (!event.target.matches(".grid-toggle")) return;
    event.target.closest(".figure").classList.toggle("bare", !event.target.checked);
  });

  // Filters
  const form = one("filters");
  const items = all(".item").map((element) => ({ element, text: element.textContent.toLowerCase() }));
  const chosen = (name) => { const field = one(`filter-${name}`); return field ? field.value : ""; };
  const apply = () => {
    const words = chosen("text").toLowerCase().split(/\s+/).filter(Boolean);
    const names = ["hook", "family", "direction", "status"];
    let groups = 0, cases = 0;
    for (const { element, text } of items) {
      const fits = names.every((name) => !chosen(name) || element.dataset[name] === chosen(name));
      element.hidden = !(fits && words.every((word) => text.includes(word)));
      if (!element.hidden) element.matches("tr") ? cases++ : groups++;
    }
    one("shown").textContent = `${groups} groups and ${cases} cases shown`;
  };
  const sortGroups = () => {
    const name = one("sort-groups").value;
    const down = name === "count" ? -1 : 1;
    for (const section of ["failures", "known"].map(one).filter(Boolean)) {
      const groups = all(":scope > .group", section);
      const after = groups.at(-1).nextSibling;
      const key = (group) => group.dataset[name];
      groups.sort((a, b) => name === "family" ? key(a).localeCompare(key(b)) : down * (key(a) - key(b)));
      for (const group of groups) section.insertBefore(group, after);
    }
  };
  if (form) {
    form.addEventListener("input", apply);
    form.addEventListener("reset", () => setTimeout(() => { apply(); sortGroups(); }));
    form.addEventListener("submit", (event) => event.preventDefault());
    one("sort-groups").addEventListener("change", sortGroups);
    apply();
  }

  // Sorting tables by a click on a head
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value !== undefined ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
        const order = ([a], [b]) => typeof a === "number" ? a - b : a.localeCompare(b);
        rows.sort((a, b) => (up ? 1 : -1) * order(a, b));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }

  // A link to a group opens it
  const open = () => {
    const target = one(decodeURIComponent(location.hash.slice(1)));
    if (target && target.matches("details")) { target.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", open);
  open();
})();
