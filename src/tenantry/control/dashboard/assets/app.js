// Small things that htmx does not do: the stream's indicator, relative times, logs that stay at their end.
(() => {
  "use strict";

  const stream = document.getElementById("stream");
  const problem = document.getElementById("problem");
  let lostTimer = 0;

  function showStream(state, text) {
    if (!stream || stream.dataset.state === state) return;
    stream.dataset.state = state;
    stream.textContent = text;
  }

  document.addEventListener("htmx:sseOpen", () => {
    clearTimeout(lostTimer);
    lostTimer = 0;
    showStream("live", "live");
  });
  document.addEventListener("htmx:sseError", () => {
    // A stream that is back at once (a worker was replaced) is not worth a word.
    if (!lostTimer) lostTimer = setTimeout(() => showStream("lost", "reconnecting…"), 400);
  });
  // Sent before the server ends a stream whose session is over.
  document.addEventListener("htmx:sseBeforeMessage", (event) => {
    if (event.detail.type === "message" && event.detail.data === "signed-out") {
      event.preventDefault();
      location.reload();
    }
  });
  // A request of the page itself (search, a form) that got no answer.
  const say = (text) => {
    if (!problem) return;
    problem.textContent = text;
    problem.hidden = !text;
  };
  document.addEventListener("htmx:sendError", (event) => {
    if (event.detail.requestConfig?.verb !== "get") say("Control did not answer. Nothing was changed; try again.");
  });
  document.addEventListener("htmx:responseError", (event) => {
    if (event.detail.requestConfig?.verb !== "get") say("That did not work. Reload the page and try again.");
  });
  // Refusals come as the form again with its messages: show them.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if ([409, 422, 503].includes(event.detail.xhr.status)) {
      event.detail.shouldSwap = true;
      event.detail.isError = false;
    }
    if (event.detail.xhr.status < 400) say("");
  });

  // A site that came into the list by itself is shown like one that changed in place.
  let known = null;
  document.addEventListener("htmx:beforeSwap", (event) => {
    const cause = event.detail.requestConfig?.triggeringEvent?.type || "";
    known = cause.startsWith("sse:") ? new Set(Array.from(document.querySelectorAll("#sites tbody tr"), (row) => row.id)) : null;
  });
  document.addEventListener("htmx:afterSettle", () => {
    if (known) for (const row of document.querySelectorAll("#sites tbody tr")) row.classList.toggle("changed", !known.has(row.id));
    known = null;
  });

  // Times: the server writes the absolute time, this says how long ago.
  function ago(seconds) {
    if (seconds < 5) return "now";
    if (seconds < 60) return `${Math.floor(seconds)} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    return `${Math.floor(seconds / 86400)} d ago`;
  }
  const serverNow = Date.parse(document.documentElement.dataset.now || "");
  const skew = serverNow ? serverNow - Date.now() : 0;
  function tellTimes(root) {
    for (const element of root.querySelectorAll("time[data-ago]")) {
      const text = ago((Date.now() + skew - Date.parse(element.dateTime)) / 1000);
      if (element.textContent !== text) element.textContent = text;
    }
  }
  tellTimes(document);
  setInterval(() => tellTimes(document), 5000);
  document.addEventListener("htmx:oobAfterSwap", () => tellTimes(document));
  document.addEventListener("htmx:afterSwap", () => tellTimes(document));

  // A log that is read at its end stays at its end.
  let atEnd = true;
  const log = () => document.querySelector("pre.log[data-follow]");
  const toEnd = () => {
    const element = log();
    if (element && atEnd) element.scrollTop = element.scrollHeight;
  };
  document.addEventListener("htmx:beforeSwap", () => {
    const element = log();
    if (element) atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 24;
  });
  document.addEventListener("htmx:afterSettle", toEnd);
  toEnd();
})();
