// Tables are sorted by the column whose name is pressed: numbers by size, what is missing last.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const descending = head.ariaSort === "ascending";
      const column = head.cellIndex;
      const value = ({ cells }) => {
        const { dataset, textContent } = cells[column];
        return dataset.value === undefined ? (textContent === "-" ? undefined : textContent) : Number(dataset.value);
      };
      const compare = (a, b) => {
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
        return descending ? -order : order;
      };
      body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.ariaSort = descending ? "descending" : "ascending";
    });
  }
}
