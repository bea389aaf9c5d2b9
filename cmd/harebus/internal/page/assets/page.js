// Shows the progress of an action again every second. Without JavaScript there is a link for that.
"use strict";
async function refresh() {
  try {
    const answer = await fetch(location.href);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const [now, then] = [document, next].map(d => d.querySelector("[data-refresh]"));
    if (!then) { location.reload(); return; }
    now.replaceChildren(...then.childNodes);
  } catch { return; } // harebus ui has ended
  setTimeout(refresh, 1000);
}
if (document.querySelector("[data-refresh]")) setTimeout(refresh, 1000);
