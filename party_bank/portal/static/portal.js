// Takes the one-time secret from behind # into the form, and out of the address and the browser's history.
"use strict";

const form = document.querySelector("[data-secret]");
const secret = window.location.hash.slice(1);
if (form && secret) {
  form.elements.secret.value = secret;
  form.querySelector("[data-typed]").hidden = true;
  window.history.replaceState(null, "", window.location.pathname);
}
