// What scrolls sideways inside a page can be reached, and scrolled, by keyboard.
const name = { PRE: "code or output", DIV: "table" };
function mark() {
  for (const box of document.querySelectorAll("pre, .table-wrapper, .output.text_html")) {
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", name[box.tagName]);
    }
  }
}
addEventListener("load", mark);
addEventListener("resize", mark);
addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.setAttribute("aria-level", "2");
});
