// Short names for what the rest does with the document.

const $ = (id) => document.getElementById(id);
const element = (tag, properties) => Object.assign(document.createElement(tag), properties);

/** Tells beside the question what went wrong there; nothing: takes it away. */
function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

/** For screen readers alone. */
function say(text) {
  $("status").textContent = text;
}

/** Changes the document and stays at its end, where one was there. */
function keepInView(change) {
  const page = document.documentElement;
  const atEnd = page.scrollHeight - page.scrollTop - page.clientHeight < 40;
  change();
  if (atEnd) page.scrollTop = page.scrollHeight;
}
