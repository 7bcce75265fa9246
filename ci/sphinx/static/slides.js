// One slide at a time: what stands before the first section, then each section. Keys: arrows, space, Home, End.
const whole = document.querySelector("main > section");
const parts = [...whole.querySelectorAll(":scope > section")];
const first = document.createElement("section");
first.append(...[...whole.childNodes].filter((node) => !parts.includes(node)));
whole.prepend(first);
const slides = [first, ...parts];
slides.forEach((slide) => slide.classList.add("slide"));
document.body.classList.add("deck");

let shown = Math.max(0, slides.findIndex((slide) => slide.id && "#" + slide.id === decodeURIComponent(location.hash)));
function show(number) {
  shown = Math.min(Math.max(number, 0), slides.length - 1);
  slides.forEach((slide, i) => slide.classList.toggle("shown", i === shown));
  document.getElementById("count").textContent = `${shown} of ${slides.length - 1}`;
  history.replaceState(null, "", slides[shown].id ? "#" + slides[shown].id : " ");
  scrollTo(0, 0);
}
const keys = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1, Home: -Infinity, End: Infinity };
addEventListener("keydown", (event) => {
  const onControl = event.target.closest("button, summary, a");
  if (!(event.key in keys) || event.ctrlKey || event.altKey || event.metaKey || (event.key === " " && onControl)) return;
  event.preventDefault();
  show(shown + keys[event.key]);
});
document.getElementById("back").addEventListener("click", () => show(shown - 1));
document.getElementById("forward").addEventListener("click", () => show(shown + 1));
show(shown);
