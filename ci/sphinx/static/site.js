// What scrolls sideways inside a page can be reached, and scrolled, by keyboard.
const wide = { pre: "code or output", ".table-wrapper, .output.text_html": "table", ".math-wrapper": "formula" };
function mark() {
  for (const [selector, name] of Object.entries(wide)) {
    for (const box of document.querySelectorAll(selector)) {
      if (box.scrollWidth <= box.clientWidth) continue;
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", name);
    }
  }
}
addEventListener("load", mark);
addEventListener("resize", mark);
addEventListener("toggle", mark, true); // a box that opens
// The theme marks captions of the navigation as headings without a level.
addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.setAttribute("aria-level", "2");
});
