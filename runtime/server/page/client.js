// The server's API. Addresses are relative: a proxy may have the page under a path of its own.

/** The models' own names, the usual one first; other names of theirs have a `root`. */
async function servedModels() {
  const response = await answered(fetch("v1/models"));
  return (await response.json()).data.filter((card) => !card.root).map((card) => card.id);
}

/**
 * An answer's texts as they come.
 * @returns {AsyncGenerator<string, {reason: ?string, usage: ?object, timings: ?object}>} how it ended
 * @throws {Error} with the server's words
 */
async function* answerOf(model, messages, signal) {
  const request = { model, messages, stream: true, stream_options: { include_usage: true } };
  const headers = { "content-type": "application/json" };
  const response = await answered(
    fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(request), signal }),
  );
  const end = { reason: null, usage: null, timings: null };
  for await (const event of eventsOf(response)) {
    if (event.error) throw new Error(event.error.message);
    const [choice] = event.choices;
    if (choice?.delta.content) yield choice.delta.content;
    end.reason = choice?.finish_reason ?? end.reason;
    end.usage = event.usage ?? end.usage;
    end.timings = event.timings ?? end.timings;
  }
  return end;
}

/** The response, where it is a good one. */
async function answered(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server can't be reached; is it still running?");
  }
  if (response.ok) return response;
  const text = await response.text();
  let message;
  try {
    message = JSON.parse(text).error.message;
  } catch {
    message = `${text || response.statusText} (status ${response.status})`; // a proxy's, or of too many connections
  }
  throw new Error(message);
}

/** The objects of server-sent events, each in a line `data: …`. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The answer broke off: the connection to the server ended.");
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter((line) => line.startsWith("data: "))) {
      if (line === "data: [DONE]") return;
      yield JSON.parse(line.slice("data: ".length));
    }
  }
}
