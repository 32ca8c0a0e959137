"use strict";
(() => {
  // Without this script, all rows are shown and there are no buttons.
  document.documentElement.classList.add("js");

  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "accent" });

  function sortBy(table, heading) {
    const column = heading.cellIndex;
    const isNumber = heading.classList.contains("n");
    const direction = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const rows = Array.from(table.tBodies[0].rows, (row) => {
      const cell = row.cells[column];
      const isMissing = cell.hasAttribute("data-missing");
      return { row, isMissing, key: isNumber ? Number(cell.dataset.value) : cell.textContent };
    });
    rows.sort((a, b) => {
      if (a.isMissing || b.isMissing) return a.isMissing - b.isMissing;  // last in both directions
      if (!isNumber) return direction * collator.compare(a.key, b.key);
      return direction * ((a.key > b.key) - (a.key < b.key));  // a difference of infinities is not a number
    });
    table.tBodies[0].append(...rows.map((entry) => entry.row));
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  }

  function makeSortable(table) {
    if (table.tBodies[0].rows.length < 2) return;
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, heading));
      heading.append(button);
    }
  }

  function makeUnfoldable(button) {
    const box = button.closest(".table").querySelector(".box");
    button.hidden = false;
    button.addEventListener("click", () => {
      const isExpanded = box.classList.toggle("expanded");
      button.textContent = isExpanded ? button.dataset.few : button.dataset.all;
      box.scrollTop = 0;
      button.scrollIntoView({ block: "nearest" });
      markScrolling();
    });
  }

  // Only what scrolls needs to be reached with the keyboard.
  function markScrolling() {
    for (const box of document.querySelectorAll(".box")) {
      if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  }

  function openForPrint() {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      details.dataset.closed = "";
    }
  }

  function closeAfterPrint() {
    for (const details of document.querySelectorAll("details[data-closed]")) {
      details.open = false;
      delete details.dataset.closed;
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".box table").forEach(makeSortable);
    document.querySelectorAll(".more button").forEach(makeUnfoldable);
    markScrolling();
  });
  window.addEventListener("load", markScrolling);
  window.addEventListener("resize", markScrolling);
  window.addEventListener("beforeprint", openForPrint);
  window.addEventListener("afterprint", closeAfterPrint);
})();
