// What a page does beyond HTML: it follows a job, puts a file into a form's text, and closes the menu of narrow screens.
// All of it can be missing.
"use strict";

const menu = document.querySelector("details[data-menu]");
if (menu && window.matchMedia("(max-width: 60rem)").matches) menu.open = false;

const followed = document.querySelector("[data-events]");
if (followed) {
  const live = document.querySelector("[data-live]");
  const source = new EventSource(followed.dataset.events);
  const row = (step) => [...followed.querySelectorAll("[data-step]")].find((one) => one.dataset.step === step);
  const ended = new Set(["done", "failed", "refused", "cancelled"]);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    const place = event.step ? row(event.step) : null;
    if (place) {
      const bar = place.querySelector("progress");
      if (event.total > 0) { bar.max = event.total; bar.value = event.done; }
      if (event.status === "done") { bar.value = bar.max; }
      const count = event.total > 1 ? ` ${event.done} / ${event.total}` : "";
      place.querySelector("[data-text]").textContent = (event.party ? event.party + ": " : "") + (event.text || event.status) + count;
      if (live) live.textContent = event.step + count;
    } else if (!event.step && ended.has(event.status)) {
      source.close();
      setTimeout(() => window.location.reload(), 500);
    }
  };
  source.addEventListener("over", () => source.close());
}

for (const upload of document.querySelectorAll("[data-upload]")) {
  const file = upload.querySelector("input");
  upload.hidden = false;
  file.addEventListener("change", async () => {
    if (file.files.length) document.getElementById(upload.dataset.upload).value = await file.files[0].text();
  });
}
