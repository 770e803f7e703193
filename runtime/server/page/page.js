// The conversation: questions, answers beside each other, what is sent again with the next question.

const turns = []; // {text, picture, answers: [{text, good}]}, an answer for each model that was asked
let stopping = null; // AbortController while answers come

function ask(text, picture) {
  const models = [...new Set([$("first").value, $("second").value])].filter(Boolean);
  const turn = { text, picture, answers: models.map(() => ({ text: "", good: false })) };
  const places = showTurn(turn, models);
  const histories = models.map((_, place) => historyOf(place));
  turns.push(turn);
  return run(async (signal) => {
    await Promise.all(models.map((model, place) => fill(turn, place, model, histories[place], places[place], signal)));
    if (turn.answers.every((answer) => answer.failed)) giveBack(turn);
  });
}

/** Messages so far, as the model at this place knows them; one that joined later gets the first one's answers. */
function historyOf(place) {
  return turns.flatMap((turn) => {
    const answer = turn.answers[place] ?? turn.answers[0];
    return answer.good ? [asMessage(turn), { role: "assistant", content: answer.text }] : [];
  });
}

function asMessage({ text, picture }) {
  if (!picture) return { role: "user", content: text };
  const parts = [{ type: "image_url", image_url: { url: picture.url } }, { type: "text", text }];
  return { role: "user", content: parts };
}

async function fill(turn, place, model, history, element, signal) {
  const answer = turn.answers[place];
  const measured = { sent: performance.now(), first: null, pieces: 0 };
  const figures = (text) => (element.querySelector(".figures").textContent = text);
  try {
    const pieces = answerOf(model, [...history, asMessage(turn)], signal);
    let next;
    while (!(next = await pieces.next()).done) {
      measured.first ??= performance.now();
      measured.pieces += 1;
      answer.text += next.value;
      keepInView(() => element.querySelector(".text").append(next.value));
    }
    answer.good = true;
    figures(figuresOf(next.value, measured));
    say(`${model}: ${answer.text || "an empty answer"}`);
  } catch (error) {
    if (error.name === "AbortError") {
      answer.good = answer.text !== "";
      figures(`stopped${measured.first ? ` · ${measuredFigures(measured)}` : ""}`);
    } else {
      answer.failed = true;
      showFailure(turn, element, error.message);
    }
  } finally {
    element.setAttribute("aria-busy", "false");
  }
}

/** One line below an answer. The server's seconds, by phase; where it gave none, what the page saw. */
function figuresOf({ reason, usage, timings }, measured) {
  const parts = [];
  if (timings) {
    const { wait, encode, prefill, decode } = timings;
    if (wait >= 0.05) parts.push(`waited ${duration(wait)}`);
    if (encode) parts.push(`picture ${duration(encode)}`);
    parts.push(`first token ${duration(encode + prefill)}`);
    const later = usage.completion_tokens - 1;
    if (later && decode) parts.push(`${rate(later / decode)} tokens a second`);
  } else if (measured.first) {
    parts.push(measuredFigures(measured));
  }
  if (usage) parts.push(`${usage.prompt_tokens} tokens read, ${usage.completion_tokens} said`);
  if (reason === "length") parts.push("cut at the longest answer");
  return parts.join(" · ");
}

function measuredFigures({ sent, first, pieces }) {
  const seconds = (performance.now() - first) / 1000;
  const speed = pieces > 1 ? `, ${rate((pieces - 1) / seconds)} pieces a second` : "";
  return `measured in the page: first piece ${duration((first - sent) / 1000)}${speed}`;
}

const rate = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
const duration = (seconds) => // a number stays with its unit
  seconds < 1 ? `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)}\u00a0ms` : `${seconds.toFixed(1)}\u00a0s`;

/** The question and room for its answers; gives the elements of the latter. */
function showTurn({ text, picture }, models) {
  const question = element("div", { className: "question" });
  if (picture) question.append(element("img", { src: picture.url, alt: `Picture: ${picture.name}` }));
  question.append(element("p", { textContent: text }));
  const places = models.map((model) => {
    const place = element("article", { className: "answer", ariaLabel: `Answer of ${model}`, ariaBusy: "true" });
    place.append(element("h2", { textContent: model }), element("p", { className: "text" }));
    place.append(element("p", { className: "figures" }));
    return place;
  });
  const answers = element("div", { className: "answers" });
  answers.append(...places);
  const turn = element("section", { className: "turn", ariaLabel: "Question and answers" });
  turn.append(question, answers);
  $("hint").hidden = true;
  $("turns").append(turn);
  turn.scrollIntoView({ block: "end" });
  return places;
}

function showFailure(turn, place, words) {
  place.append(element("p", { className: "wrong", role: "alert", textContent: words }));
  if (turns.some((other) => other !== turn)) {
    const button = element("button", { type: "button", textContent: "Ask in a new conversation" });
    button.onclick = () => {
      if (stopping) return;
      if ($("question").value === turn.text) compose("", null);
      beginAnew();
      ask(turn.text, turn.picture);
    };
    place.append(button);
  }
  place.scrollIntoView({ block: "nearest" });
}

/** A question that nobody answered may be changed and asked again. */
function giveBack({ text, picture }) {
  if (!$("question").value && $("preview").hidden) compose(text, picture);
}

function compose(text, picture) {
  $("question").value = text;
  showPicture(picture);
}

function beginAnew() {
  turns.length = 0;
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  $("hint").hidden = false;
}

async function run(work) {
  stopping = new AbortController();
  $("stop").hidden = false;
  $("ask").ariaDisabled = "true";
  say("Answering …");
  try {
    await work(stopping.signal);
  } finally {
    stopping = null;
    if (document.activeElement === $("stop")) $("question").focus();
    $("stop").hidden = true;
    $("ask").ariaDisabled = "false";
  }
}

$("composer").onsubmit = (event) => {
  event.preventDefault();
  if (stopping || !$("question").value.trim()) return;
  const [text, shown] = [$("question").value.trim(), picture];
  compose("", null);
  ask(text, shown);
};
$("question").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!stopping) $("composer").requestSubmit();
};
document.onkeydown = (event) => {
  if (event.key === "Escape" && !$("viewfinder").open) stopping?.abort();
};
$("stop").onclick = () => stopping?.abort();
$("anew").onclick = () => {
  stopping?.abort();
  beginAnew();
  $("question").focus();
};

try {
  const names = await servedModels();
  for (const name of names) {
    $("first").append(new Option(name));
    $("second").append(new Option(name));
  }
  $("beside").hidden = names.length < 2;
  $("question").focus();
} catch (error) {
  notice(error.message);
}
